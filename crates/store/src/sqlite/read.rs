//! Reading: single responses, chains, items, and the request log.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

use antiphon_protocol::id::{ItemId, ProjectId, ResponseId};
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use crate::assemble::{Items, Place, decode_positions, places, status_of, turn_columns, whole_chain};
use crate::{
    ChainQuery, IndexedItem, LogRow, ProjectStats, StoreError, StoredResponse, StoredTurn, Timestamp, body,
};

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

pub(super) const STATS: &str = "SELECT project, count(*), count(*) FILTER (WHERE parent_id IS NULL), \
     sum(length(input) + length(output) + length(body)), min(created_at), count(*) FILTER (WHERE expires_at <= ?1) \
     FROM responses GROUP BY project ORDER BY project";

pub(super) const LIST_LOG: &str = "SELECT at, project, response_id, account, model, transport, outcome, http_status, \
     code, depth, input_tokens, cached_tokens, output_tokens, reasoning_tokens, duration_us, first_event_us, \
     key_id, attempts, cost_nano_usd \
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
    let mut statement = connection.prepare_cached(LOAD_CHAIN)?;
    let visible_at = query.visible_at.map(Timestamp::unix_ms);
    let mut rows =
        statement.query(params![query.from.uuid(), project.as_str(), visible_at, query.max_turns])?;
    let mut turns: Vec<StoredTurn> = Vec::new();
    while let Some(row) = rows.next()? {
        if row.get::<_, Option<Uuid>>(0)?.is_none() {
            return Err(StoreError::BrokenChain { response: query.from });
        }
        turns.push(turn(row)?);
    }
    whole_chain(turns, &query)
}

fn turn(row: &Row<'_>) -> Result<StoredTurn, StoreError> {
    Ok(StoredTurn {
        id: ResponseId::from_uuid(row.get(0)?),
        parent: row.get::<_, Option<Uuid>>(1)?.map(ResponseId::from_uuid),
        depth: row.get(2)?,
        status: status_of(row.get(3)?)?,
        account: row.get(4)?,
        boundary: row.get(5)?,
        upstream_id: row.get(6)?,
        model: row.get(7)?,
        expires_at: row.get::<_, Option<i64>>(8)?.map(Timestamp::from_unix_ms),
        input: bytes(row, 9)?,
        referenced: decode_positions(row.get::<_, Option<Vec<u8>>>(10)?.as_deref())?,
        output: bytes(row, 11)?,
    })
}

fn bytes(row: &Row<'_>, column: usize) -> rusqlite::Result<Bytes> {
    row.get::<_, Vec<u8>>(column).map(Bytes::from)
}

pub(super) fn load_items(
    connection: &Connection,
    project: &ProjectId,
    ids: &[ItemId],
    now: Timestamp,
) -> Result<Vec<Option<IndexedItem>>, StoreError> {
    let mut find = connection.prepare_cached(FIND_ITEM)?;
    let mut indexed = HashMap::new();
    for id in ids {
        let place =
            find.query_row(params![project.as_str(), id.as_str()], |row| Ok((row.get(0)?, row.get(1)?)));
        indexed.extend(place.optional()?.map(|place| (id.as_str().to_owned(), place)));
    }
    let places = places(ids, &indexed);
    let mut load = connection.prepare_cached(LOAD_ITEMS)?;
    let mut loaded: HashMap<Uuid, Option<Items>> = HashMap::new();
    for place in places.iter().flatten() {
        if let Entry::Vacant(unknown) = loaded.entry(place.response) {
            let arguments = params![place.response, project.as_str(), now.unix_ms()];
            let items = load.query_row(arguments, |row| Ok(Items::of(bytes(row, 0)?, bytes(row, 1)?)));
            unknown.insert(items.optional()?);
        }
    }
    let item =
        |place: Option<Place>| place.and_then(|place| loaded.get(&place.response)?.as_ref()?.get(place));
    Ok(places.into_iter().map(item).collect())
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

pub(super) fn stats(connection: &Connection, now: Timestamp) -> Result<Vec<ProjectStats>, StoreError> {
    let mut statement = connection.prepare_cached(STATS)?;
    let rows = statement.query_map([now.unix_ms()], |row| {
        let count = |column: usize| row.get::<_, i64>(column).map(i64::unsigned_abs);
        Ok(ProjectStats {
            project: ProjectId::new(row.get_ref(0)?.as_str()?),
            responses: count(1)?,
            chains: count(2)?,
            bytes: count(3)?,
            oldest: Timestamp::from_unix_ms(row.get(4)?),
            expired: count(5)?,
        })
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
        key: row.get(16)?,
        account: row.get(3)?,
        model: row.get(4)?,
        transport: row.get::<_, String>(5)?.into(),
        outcome: row.get::<_, String>(6)?.into(),
        http_status: row.get(7)?,
        code: row.get(8)?,
        depth: row.get(9)?,
        attempts: row.get::<_, Option<u32>>(17)?.unwrap_or(0),
        input_tokens: count(10)?,
        cached_tokens: count(11)?,
        output_tokens: count(12)?,
        reasoning_tokens: count(13)?,
        cost_nano_usd: row.get::<_, Option<i64>>(18)?.map(i64::unsigned_abs),
        duration: micros(row.get(14)?),
        first_event: row.get::<_, Option<i64>>(15)?.map(micros),
    })
}
