//! Reading: single responses, chains, items, and the request log.

use std::collections::HashMap;
use std::ops::Range;
use std::time::Duration;

use antiphon_protocol::id::{ItemId, ProjectId, ResponseId};
use antiphon_protocol::json;
use bytes::Bytes;
use futures_util::TryStreamExt;
use sqlx::error::BoxDynError;
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqlitePool, SqliteRow};
use sqlx::{Arguments, AssertSqlSafe, Row, Sqlite};
use uuid::Uuid;

use super::STATUSES;
use super::error::not_read;
use super::rows::Rows;
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

pub(super) const LIST_LOG: &str = "SELECT at, project, response_id, account, model, transport, outcome, http_status, \
     code, depth, input_tokens, cached_tokens, output_tokens, reasoning_tokens, duration_us, first_event_us \
     FROM request_log ORDER BY at DESC, response_id DESC LIMIT ?1";

pub(super) const FIND_ITEMS: Rows = Rows {
    head: "SELECT item_id, response_id, position FROM items WHERE project = ? AND item_id IN (",
    row: "?",
    tail: ")",
    max: 64,
};

pub(super) const LOAD_ITEMS: Rows = Rows {
    head: "SELECT id, input, output FROM responses WHERE project = ? \
           AND deleted_at IS NULL AND (expires_at IS NULL OR expires_at > ?) AND id IN (",
    row: "?",
    tail: ")",
    max: 64,
};

pub(super) async fn load(
    pool: &SqlitePool,
    project: &ProjectId,
    id: ResponseId,
    now: Timestamp,
) -> Result<Option<StoredResponse>, StoreError> {
    let row = sqlx::query(LOAD)
        .bind(id.uuid())
        .bind(project.as_str())
        .bind(now.unix_ms())
        .fetch_optional(pool)
        .await
        .map_err(not_read)?;
    let Some(row) = row else { return Ok(None) };
    let turn = turn(&row).map_err(not_read)?;
    let created_at = Timestamp::from_unix_ms(row.try_get(12).map_err(not_read)?);
    let body = body::decode(row.try_get(13).map_err(not_read)?)?;
    Ok(Some(StoredResponse { turn, created_at, body }))
}

pub(super) async fn load_chain(
    pool: &SqlitePool,
    project: &ProjectId,
    query: ChainQuery,
) -> Result<Vec<StoredTurn>, StoreError> {
    let broken = || StoreError::BrokenChain { response: query.from };
    let mut rows = sqlx::query(LOAD_CHAIN)
        .bind(query.from.uuid())
        .bind(project.as_str())
        .bind(query.visible_at.map(Timestamp::unix_ms))
        .bind(query.max_turns)
        .fetch(pool);
    let mut turns: Vec<StoredTurn> = Vec::new();
    while let Some(row) = rows.try_next().await.map_err(not_read)? {
        if row.try_get::<Option<Uuid>, _>(0).map_err(not_read)?.is_none() {
            return Err(broken());
        }
        turns.push(turn(&row).map_err(not_read)?);
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

fn turn(row: &SqliteRow) -> Result<StoredTurn, sqlx::Error> {
    let corrupt = |what: &str| sqlx::Error::Decode(format!("unknown {what}").into());
    Ok(StoredTurn {
        id: ResponseId::from_uuid(row.try_get(0)?),
        parent: row.try_get::<Option<Uuid>, _>(1)?.map(ResponseId::from_uuid),
        depth: row.try_get(2)?,
        status: *STATUSES.get(row.try_get::<u32, _>(3)? as usize).ok_or_else(|| corrupt("status"))?,
        account: row.try_get(4)?,
        boundary: row.try_get(5)?,
        upstream_id: row.try_get(6)?,
        model: row.try_get(7)?,
        expires_at: row.try_get::<Option<i64>, _>(8)?.map(Timestamp::from_unix_ms),
        input: bytes(row, 9)?,
        referenced: positions(row.try_get(10)?).ok_or_else(|| corrupt("positions"))?,
        output: bytes(row, 11)?,
    })
}

fn bytes(row: &SqliteRow, column: usize) -> Result<Bytes, sqlx::Error> {
    row.try_get::<Vec<u8>, _>(column).map(Bytes::from)
}

fn positions(array: Option<&[u8]>) -> Option<Vec<u32>> {
    let Some(array) = array else { return Some(Vec::new()) };
    json::elements(array).map(|range| std::str::from_utf8(&array[range.ok()?]).ok()?.parse().ok()).collect()
}

/// Where an item stands: its response, and its position among the response's input and then output items.
type Place = (Uuid, u32);

pub(super) async fn load_items(
    pool: &SqlitePool,
    project: &ProjectId,
    ids: &[ItemId],
    now: Timestamp,
) -> Result<Vec<Option<IndexedItem>>, StoreError> {
    let mut connection = pool.acquire().await.map_err(not_read)?;
    let indexed = find_items(&mut connection, project, ids).await.map_err(not_read)?;
    let places: Vec<Option<Place>> = ids
        .iter()
        .map(|id| {
            let derived = || id.as_derived().map(|(response, position)| (response.uuid(), position));
            indexed.get(id.as_str()).copied().or_else(derived)
        })
        .collect();
    let mut wanted: HashMap<Uuid, Vec<usize>> = HashMap::new();
    for (n, (response, _)) in places.iter().enumerate().filter_map(|(n, place)| Some((n, (*place)?))) {
        wanted.entry(response).or_default().push(n);
    }
    let mut responses: Vec<Uuid> = wanted.keys().copied().collect();
    let mut found = vec![None; ids.len()];
    while !responses.is_empty() {
        let query = listing(&LOAD_ITEMS, &mut responses, |arguments| {
            arguments.add(project.as_str())?;
            arguments.add(now.unix_ms())
        });
        let mut rows = query.map_err(not_read)?.fetch(&mut *connection);
        while let Some(row) = rows.try_next().await.map_err(not_read)? {
            let response: Uuid = row.try_get(0).map_err(not_read)?;
            let items = Items::of(bytes(&row, 1).map_err(not_read)?, bytes(&row, 2).map_err(not_read)?);
            for &n in &wanted[&response] {
                found[n] = places[n]
                    .and_then(|(_, position)| items.get(position, indexed.contains_key(ids[n].as_str())));
            }
        }
    }
    Ok(found)
}

async fn find_items(
    connection: &mut SqliteConnection,
    project: &ProjectId,
    ids: &[ItemId],
) -> Result<HashMap<String, Place>, sqlx::Error> {
    let mut found = HashMap::new();
    let mut names: Vec<&str> = ids.iter().map(ItemId::as_str).collect();
    while !names.is_empty() {
        let query = listing(&FIND_ITEMS, &mut names, |arguments| arguments.add(project.as_str()))?;
        let mut rows = query.fetch(&mut *connection);
        while let Some(row) = rows.try_next().await? {
            found.insert(row.try_get(0)?, (row.try_get(1)?, row.try_get(2)?));
        }
    }
    Ok(found)
}

/// The query for as many of the values as it has room for; `add` adds what stands before them.
fn listing<'q, T>(
    rows: &Rows,
    values: &mut Vec<T>,
    add: impl FnOnce(&mut SqliteArguments) -> Result<(), BoxDynError>,
) -> Result<Query<'static, Sqlite, SqliteArguments>, sqlx::Error>
where
    T: Copy + sqlx::Encode<'q, Sqlite> + sqlx::Type<Sqlite>,
{
    let mut arguments = SqliteArguments::default();
    add(&mut arguments).map_err(sqlx::Error::Encode)?;
    let taken = rows.take(values);
    let mut text = String::new();
    rows.write(taken.len(), &mut text);
    rows.bind(&taken, &mut arguments, |value, row| row.add(*value))?;
    Ok(sqlx::query_with(AssertSqlSafe(text), arguments))
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
    fn get(&self, position: u32, is_indexed: bool) -> Option<IndexedItem> {
        let position = position as usize;
        if let Some(range) = self.input_items.get(position) {
            return Some(IndexedItem { item: self.input.slice(range.clone()), is_output: false });
        }
        let range = self.output_items.get(position - self.input_items.len()).filter(|_| is_indexed)?;
        Some(IndexedItem { item: self.output.slice(range.clone()), is_output: true })
    }
}

pub(super) async fn list_log(pool: &SqlitePool, max_rows: u32) -> Result<Vec<LogRow>, StoreError> {
    let rows = sqlx::query(LIST_LOG).bind(max_rows).fetch_all(pool).await.map_err(not_read)?;
    rows.iter().map(|row| log_row(row).map_err(not_read)).collect()
}

fn log_row(row: &SqliteRow) -> Result<LogRow, sqlx::Error> {
    let micros = |n: i64| Duration::from_micros(n.unsigned_abs());
    let count = |column: usize| row.try_get::<i64, _>(column).map(i64::unsigned_abs);
    Ok(LogRow {
        at: Timestamp::from_unix_ms(row.try_get(0)?),
        project: ProjectId::new(row.try_get(1)?),
        response: ResponseId::from_uuid(row.try_get(2)?),
        account: row.try_get(3)?,
        model: row.try_get(4)?,
        transport: row.try_get::<String, _>(5)?.into(),
        outcome: row.try_get::<String, _>(6)?.into(),
        http_status: row.try_get(7)?,
        code: row.try_get(8)?,
        depth: row.try_get(9)?,
        input_tokens: count(10)?,
        cached_tokens: count(11)?,
        output_tokens: count(12)?,
        reasoning_tokens: count(13)?,
        duration: micros(row.try_get(14)?),
        first_event: row.try_get::<Option<i64>, _>(15)?.map(micros),
    })
}
