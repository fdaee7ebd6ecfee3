//! Reading: single responses, chains, items, and the request log.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;
use std::time::Duration;

use antiphon_protocol::id::{ItemId, ProjectId, ResponseId};
use antiphon_protocol::json;
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use super::STATUSES;
use crate::{ChainQuery, IndexedItem, LogRow, StoreError, StoredResponse, StoredTurn, Timestamp, body};

/// The columns of a turn, of a table named `r`. A deleted response has expired before any time.
macro_rules! turn_columns {
    () => {
        "r.id, r.parent_id, r.depth, r.status, r.account, r.boundary, r.upstream_id, r.model, \
         CASE WHEN r.deleted_at IS NULL THEN r.expires_at ELSE 0 END, r.input, r.referenced, r.output"
    };
}

pub(super) const LOAD: &str = concat!(
    "SELECT ",
    turn_columns!(),
    ", r.created_at, r.body FROM responses r WHERE r.id = ?1 AND r.project = ?2 \
     AND r.deleted_at IS NULL AND (r.expires_at IS NULL OR r.expires_at > ?3)"
);

/// Only row numbers and ids go through the recursion; the rows are joined to them. A missing ancestor yields a row of nulls.
pub(super) const LOAD_CHAIN: &str = concat!(
    "WITH RECURSIVE chain (row, parent_id, turns) AS (
       SELECT rowid, parent_id, 1 FROM responses WHERE id = ?1 AND project = ?2
         AND (?3 IS NULL OR (deleted_at IS NULL AND (expires_at IS NULL OR expires_at > ?3)))
       UNION ALL
       SELECT p.rowid, p.parent_id, child.turns + 1 FROM chain child
       LEFT JOIN responses p ON p.id = child.parent_id AND p.project = ?2
       WHERE child.parent_id IS NOT NULL AND child.turns < ?4)
     SELECT ",
    turn_columns!(),
    " FROM chain LEFT JOIN responses r ON r.rowid = chain.row"
);

/// A deleted response expires when it is deleted, so the index of expiry finds it.
pub(super) const LIST_DELETED: &str =
    "SELECT project, id FROM responses WHERE expires_at >= ?1 AND deleted_at >= ?1";

pub(super) const LIST_LOG: &str = "SELECT at, project, response_id, account, model, transport, outcome, http_status, \
     code, depth, input_tokens, cached_tokens, output_tokens, reasoning_tokens, duration_us, first_event_us \
     FROM request_log ORDER BY at DESC, response_id DESC LIMIT ?1";

pub(super) const FIND_ITEM: &str =
    "SELECT response_id, position FROM items WHERE project = ?1 AND item_id = ?2";

pub(super) const LOAD_ITEMS: &str = "SELECT input, output FROM responses WHERE id = ?1 AND project = ?2 \
     AND deleted_at IS NULL AND (expires_at IS NULL OR expires_at > ?3)";

pub(super) fn load(
    connection: &Connection,
    project: &ProjectId,
    id: ResponseId,
    now: Timestamp,
) -> Result<Option<StoredResponse>, StoreError> {
    let mut statement = connection.prepare_cached(LOAD)?;
    let mut rows = statement.query(params![id.uuid(), project.as_str(), now.unix_ms()])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let created_at = Timestamp::from_unix_ms(row.get(12)?);
    let body = body::decode(row.get_ref(13)?.as_blob().map_err(rusqlite::Error::from)?)?;
    Ok(Some(StoredResponse { turn: turn(row)?, created_at, body }))
}

pub(super) fn load_chain(
    connection: &Connection,
    project: &ProjectId,
    query: ChainQuery,
) -> Result<Vec<StoredTurn>, StoreError> {
    let broken = || StoreError::BrokenChain { response: query.from };
    let mut statement = connection.prepare_cached(LOAD_CHAIN)?;
    let visible_at = query.visible_at.map(Timestamp::unix_ms);
    let mut rows =
        statement.query(params![query.from.uuid(), project.as_str(), visible_at, query.max_turns])?;
    let mut turns: Vec<StoredTurn> = Vec::new();
    while let Some(row) = rows.next()? {
        if row.get::<_, Option<Uuid>>(0)?.is_none() {
            return Err(broken());
        }
        turns.push(turn(row)?);
    }
    // SQL promises no order; a sort in SQL would carry the items through it.
    turns.sort_by_key(|turn| std::cmp::Reverse(turn.depth));
    let is_linked =
        |pair: &[StoredTurn]| pair[0].parent == Some(pair[1].id) && pair[0].depth == pair[1].depth + 1;
    let is_whole = turns.windows(2).all(is_linked)
        && turns.last().is_none_or(|oldest| {
            oldest.parent.is_none() == (oldest.depth == 1)
                && (oldest.parent.is_none() || turns.len() == query.max_turns as usize)
        });
    if is_whole { Ok(turns) } else { Err(broken()) }
}

fn turn(row: &Row<'_>) -> Result<StoredTurn, StoreError> {
    let corrupt = |what: &str| StoreError::Corrupt(format!("unknown {what}"));
    Ok(StoredTurn {
        id: ResponseId::from_uuid(row.get(0)?),
        parent: row.get::<_, Option<Uuid>>(1)?.map(ResponseId::from_uuid),
        depth: row.get(2)?,
        status: *STATUSES.get(row.get::<_, u32>(3)? as usize).ok_or_else(|| corrupt("status"))?,
        account: row.get(4)?,
        boundary: row.get(5)?,
        upstream_id: row.get(6)?,
        model: row.get(7)?,
        expires_at: row.get::<_, Option<i64>>(8)?.map(Timestamp::from_unix_ms),
        input: bytes(row, 9)?,
        referenced: positions(row.get(10)?).ok_or_else(|| corrupt("positions"))?,
        output: bytes(row, 11)?,
    })
}

fn bytes(row: &Row<'_>, column: usize) -> rusqlite::Result<Bytes> {
    row.get::<_, Vec<u8>>(column).map(Bytes::from)
}

fn positions(array: Option<Vec<u8>>) -> Option<Vec<u32>> {
    let array = array.unwrap_or_else(|| b"[]".to_vec());
    json::elements(&array).map(|range| std::str::from_utf8(&array[range.ok()?]).ok()?.parse().ok()).collect()
}

/// Where an item stands: its response, and its position among the response's input and then output items.
#[derive(Clone, Copy)]
struct Place {
    response: Uuid,
    position: u32,
    /// Derived ids name their place themselves.
    is_indexed: bool,
}

pub(super) fn load_items(
    connection: &Connection,
    project: &ProjectId,
    ids: &[ItemId],
    now: Timestamp,
) -> Result<Vec<Option<IndexedItem>>, StoreError> {
    let mut responses: HashMap<Uuid, Option<Items>> = HashMap::new();
    let mut load = connection.prepare_cached(LOAD_ITEMS)?;
    let mut found = Vec::with_capacity(ids.len());
    for id in ids {
        let Some(place) = find_item(connection, project, id)? else {
            found.push(None);
            continue;
        };
        let items = match responses.entry(place.response) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(vacant) => {
                let arguments = params![place.response, project.as_str(), now.unix_ms()];
                let items = load.query_row(arguments, |row| Ok(Items::of(bytes(row, 0)?, bytes(row, 1)?)));
                vacant.insert(items.optional()?)
            }
        };
        found.push(items.as_ref().and_then(|items| items.get(place)));
    }
    Ok(found)
}

fn find_item(connection: &Connection, project: &ProjectId, id: &ItemId) -> rusqlite::Result<Option<Place>> {
    let mut statement = connection.prepare_cached(FIND_ITEM)?;
    let indexed = statement.query_row(params![project.as_str(), id.as_str()], |row| {
        Ok(Place { response: row.get(0)?, position: row.get(1)?, is_indexed: true })
    });
    let derived = || {
        let (response, position) = id.as_derived()?;
        Some(Place { response: response.uuid(), position, is_indexed: false })
    };
    Ok(indexed.optional()?.or_else(derived))
}

/// A response's own items, taken apart once.
struct Items {
    input: Bytes,
    output: Bytes,
    input_items: Vec<Range<usize>>,
    output_items: Vec<Range<usize>>,
}

impl Items {
    fn of(input: Bytes, output: Bytes) -> Self {
        let split = |array: &[u8]| json::elements(array).map_while(Result::ok).collect();
        Self { input_items: split(&input), output_items: split(&output), input, output }
    }

    /// Derived ids count input items alone.
    fn get(&self, place: Place) -> Option<IndexedItem> {
        let position = place.position as usize;
        if let Some(range) = self.input_items.get(position) {
            return Some(IndexedItem { item: self.input.slice(range.clone()), is_output: false });
        }
        let range = self.output_items.get(position - self.input_items.len()).filter(|_| place.is_indexed)?;
        Some(IndexedItem { item: self.output.slice(range.clone()), is_output: true })
    }
}

pub(super) fn list_deleted(
    connection: &Connection,
    since: Timestamp,
) -> Result<Vec<(ProjectId, ResponseId)>, StoreError> {
    let mut statement = connection.prepare_cached(LIST_DELETED)?;
    let rows = statement.query_map([since.unix_ms()], |row| {
        Ok((ProjectId::new(row.get_ref(0)?.as_str()?), ResponseId::from_uuid(row.get(1)?)))
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn list_log(connection: &Connection, max_rows: u32) -> Result<Vec<LogRow>, StoreError> {
    let mut statement = connection.prepare_cached(LIST_LOG)?;
    let rows = statement.query_map([max_rows], log_row)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn log_row(row: &Row<'_>) -> rusqlite::Result<LogRow> {
    let micros = |n: i64| Duration::from_micros(n.unsigned_abs());
    let count = |column: usize| row.get::<_, i64>(column).map(i64::unsigned_abs);
    Ok(LogRow {
        at: Timestamp::from_unix_ms(row.get(0)?),
        project: ProjectId::new(row.get_ref(1)?.as_str()?),
        response: ResponseId::from_uuid(row.get(2)?),
        account: row.get(3)?,
        model: row.get(4)?,
        transport: row.get::<_, String>(5)?.into(),
        outcome: row.get::<_, String>(6)?.into(),
        http_status: row.get(7)?,
        code: row.get(8)?,
        depth: row.get(9)?,
        input_tokens: count(10)?,
        cached_tokens: count(11)?,
        output_tokens: count(12)?,
        reasoning_tokens: count(13)?,
        duration: micros(row.get(14)?),
        first_event: row.get::<_, Option<i64>>(15)?.map(micros),
    })
}
