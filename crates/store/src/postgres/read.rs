//! Reading responses, chains and items.

use std::collections::HashMap;

use antiphon_protocol::id::{ItemId, ProjectId, ResponseId};
use antiphon_runtime::offload::{Aborted, offload_if_long};
use bytes::Bytes;
use tokio::time::timeout;
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};
use uuid::Uuid;

use super::error::{QueryError, corrupt};
use super::pool::Pool;
use super::statement::{Argument, argument, columns};
use crate::assemble::{decode_locations, decode_positions, status_of, turn_columns, whole_chain};
use crate::items::Gathering;
use crate::responses::LOAD;
use crate::sql::{Columns, Query};
use crate::{ChainQuery, FoundItems, StoreError, StoredResponse, StoredTurn, Timestamp, body, checksum};

/// The recursion carries ids only, which are then joined to the rows. A missing ancestor yields a row of nulls.
pub(super) const LOAD_CHAIN: &str = concat!(
    "WITH RECURSIVE chain (id, parent_id, turns) AS (
       SELECT id, parent_id, 1::bigint FROM responses WHERE id = $1::uuid AND project = $2::text
         AND ($3::bigint IS NULL OR (deletes IS NULL AND deleted_at IS NULL AND (expires_at IS NULL OR expires_at > $3::bigint)))
       UNION ALL
       SELECT p.id, p.parent_id, child.turns + 1 FROM chain child
       LEFT JOIN responses p ON p.id = child.parent_id AND p.project = $2::text
       WHERE child.parent_id IS NOT NULL AND child.turns < $4::bigint)
     SELECT ",
    turn_columns!(),
    " FROM chain LEFT JOIN responses r ON r.id = chain.id AND r.project = $2::text"
);

pub(super) const LIST_DELETED: &str = "SELECT project, id FROM responses WHERE deleted_at >= $1::bigint";

pub(super) const FIND_ITEMS: &str = "SELECT item_id, response_id, position FROM items \
     WHERE project = $1::text AND item_id = ANY ($2::text[])";

pub(super) const MEASURE_ITEMS: &str = "SELECT id, octet_length(input)::bigint + octet_length(output)::bigint \
     FROM responses WHERE project = $1::text AND id = ANY ($2::uuid[]) \
     AND deleted_at IS NULL AND (expires_at IS NULL OR expires_at > $3::bigint)";

pub(super) const LOAD_ITEMS: &str = concat!(
    "SELECT ",
    turn_columns!(),
    " FROM responses r WHERE r.project = $1::text AND r.id = ANY ($2::uuid[]) \
     AND r.deleted_at IS NULL AND (r.expires_at IS NULL OR r.expires_at > $3::bigint)"
);

/// Responses whose items are looked through come in batches of this size, or one by one if they are larger.
const BATCH_BYTES: usize = 16 << 20;

pub(super) struct Readers {
    pub(super) pool: Pool,
}

// === impl Readers ===

impl Readers {
    /// Tries another connection if one is lost during the query.
    async fn query(
        &self,
        project: Option<&ProjectId>,
        text: &str,
        arguments: &[Argument<'_>],
    ) -> Result<Vec<Row>, StoreError> {
        let mut result = Err(QueryError::Lost(String::new()));
        for _ in 0..=self.pool.len() {
            if !matches!(result, Err(QueryError::Lost(_))) {
                break;
            }
            let limit = self.pool.limit();
            let session = timeout(limit, self.pool.acquire(project, 0)).await;
            let session = session.unwrap_or(Err(QueryError::Deadline(limit)))?;
            result = session.run(session.client().query_typed(text, arguments)).await;
        }
        Ok(result?)
    }

    pub(super) async fn select(
        &self,
        project: Option<&ProjectId>,
        query: &Query,
    ) -> Result<Vec<Columns>, StoreError> {
        let arguments: Vec<Argument<'_>> = query.arguments.iter().map(argument).collect();
        self.query(project, query.text, &arguments).await?.iter().map(|row| columns(query, row)).collect()
    }

    pub(super) async fn load(
        &self,
        project: &ProjectId,
        id: ResponseId,
        now: Timestamp,
    ) -> Result<Option<StoredResponse>, StoreError> {
        let (uuid, now) = (id.uuid(), now.unix_ms());
        let arguments: [Argument<'_>; 3] =
            [(&uuid, Type::UUID), (&project.as_str(), Type::TEXT), (&now, Type::INT8)];
        let Some(row) = self.query(Some(project), LOAD, &arguments).await?.pop() else { return Ok(None) };
        let (size_bytes, project) = (row.raw_size_bytes(), project.clone());
        let read = move || {
            let turn = turn(&row, &project)?;
            response(&row, &project, turn).map(Some).map_err(|error| error.of_response(id))
        };
        offload_if_long(size_bytes, read).await.unwrap_or_else(|Aborted| Err(StoreError::unread(id)))
    }

    pub(super) async fn load_chain(
        &self,
        project: &ProjectId,
        query: ChainQuery,
    ) -> Result<Vec<StoredTurn>, StoreError> {
        let (from, visible_at) = (query.from.uuid(), query.visible_at.map(Timestamp::unix_ms));
        let max_turns = i64::from(query.max_turns);
        let arguments: [Argument<'_>; 4] = [
            (&from, Type::UUID),
            (&project.as_str(), Type::TEXT),
            (&visible_at, Type::INT8),
            (&max_turns, Type::INT8),
        ];
        let rows = self.query(Some(project), LOAD_CHAIN, &arguments).await?;
        let size_bytes = rows.iter().map(Row::raw_size_bytes).sum();
        let (id, project) = (query.from, project.clone());
        let read = move || {
            let turns = rows.iter().map(|row| match get::<Option<Uuid>>(row, 0)? {
                Some(_) => turn(row, &project),
                None => Err(StoreError::BrokenChain { response: id }),
            });
            turns.collect::<Result<_, _>>()
        };
        let turns =
            offload_if_long(size_bytes, read).await.unwrap_or_else(|Aborted| Err(StoreError::unread(id)))?;
        whole_chain(turns, &query)
    }

    pub(super) async fn load_items(
        &self,
        project: &ProjectId,
        ids: &[ItemId],
        now: Timestamp,
        max_bytes: usize,
    ) -> Result<FoundItems, StoreError> {
        let indexed = self.find_items(project, ids).await?;
        let mut gathering = Gathering::new(ids.to_vec(), &indexed, max_bytes);
        let responses = gathering.responses();
        if responses.is_empty() {
            return Ok(gathering.finish());
        }
        let (name, now) = (project.as_str(), now.unix_ms());
        let measured =
            self.query(Some(project), MEASURE_ITEMS, &arguments_of_items(&name, &responses, &now)).await?;
        let measured = measured.iter().map(|row| Ok((get(row, 0)?, number(row, 1)?)));
        for batch in batches(measured.collect::<Result<_, StoreError>>()?) {
            let rows =
                self.query(Some(project), LOAD_ITEMS, &arguments_of_items(&name, &batch, &now)).await?;
            let (size_bytes, project) = (rows.iter().map(Row::raw_size_bytes).sum(), project.clone());
            let take = move || {
                for row in &rows {
                    if !gathering.take(&turn(row, &project)?)? {
                        return Ok((gathering, false));
                    }
                }
                Ok((gathering, true))
            };
            let unread = |Aborted| Err(StoreError::Corrupt("stored items cannot be read".to_owned()));
            let has_room;
            (gathering, has_room) = offload_if_long(size_bytes, take).await.unwrap_or_else(unread)?;
            if !has_room {
                break;
            }
        }
        Ok(gathering.finish())
    }

    async fn find_items(
        &self,
        project: &ProjectId,
        ids: &[ItemId],
    ) -> Result<HashMap<String, (Uuid, u32)>, StoreError> {
        let names: Vec<&str> = ids.iter().map(ItemId::as_str).collect();
        let arguments: [Argument<'_>; 2] = [(&project.as_str(), Type::TEXT), (&names, Type::TEXT_ARRAY)];
        let rows = self.query(Some(project), FIND_ITEMS, &arguments).await?;
        rows.iter().map(|row| Ok((get(row, 0)?, (get(row, 1)?, number(row, 2)?)))).collect()
    }

    pub(super) async fn list_deleted(
        &self,
        since: Timestamp,
    ) -> Result<Vec<(ProjectId, ResponseId)>, StoreError> {
        let since = since.unix_ms();
        let rows = self.query(None, LIST_DELETED, &[(&since, Type::INT8)]).await?;
        let deleted = |row| Ok((ProjectId::new(get(row, 0)?), ResponseId::from_uuid(get(row, 1)?)));
        rows.iter().map(deleted).collect()
    }
}

fn arguments_of_items<'a>(project: &'a &'a str, responses: &'a Vec<Uuid>, now: &'a i64) -> [Argument<'a>; 3] {
    [(project, Type::TEXT), (responses, Type::UUID_ARRAY), (now, Type::INT8)]
}

/// Puts responses together that are loaded at once.
fn batches(responses: Vec<(Uuid, usize)>) -> Vec<Vec<Uuid>> {
    let mut batches: Vec<Vec<Uuid>> = Vec::new();
    let mut room = 0;
    for (response, size_bytes) in responses {
        match batches.last_mut() {
            Some(batch) if size_bytes <= room => batch.push(response),
            _ => {
                batches.push(vec![response]);
                room = BATCH_BYTES;
            }
        }
        room = room.saturating_sub(size_bytes);
    }
    batches
}

fn get<'a, T: FromSql<'a>>(row: &'a Row, column: usize) -> Result<T, StoreError> {
    row.try_get(column).map_err(|error| corrupt(&error))
}

fn bytes(row: &Row, column: usize) -> Result<Bytes, StoreError> {
    get::<&[u8]>(row, column).map(Bytes::copy_from_slice)
}

/// A number of a column that is wider than what is written to it.
fn number<T: TryFrom<i64>>(row: &Row, column: usize) -> Result<T, StoreError> {
    T::try_from(get::<i64>(row, column)?).map_err(|_| StoreError::Corrupt("a number is out of range".into()))
}

fn response(row: &Row, project: &ProjectId, turn: StoredTurn) -> Result<StoredResponse, StoreError> {
    let created_at = Timestamp::from_unix_ms(get(row, 14)?);
    let stored: &[u8] = get(row, 15)?;
    checksum::verify(checksum::of_body(project, turn.id, created_at, stored), get(row, 16)?)?;
    Ok(StoredResponse { turn, created_at, body: body::decode(stored)? })
}

fn turn(row: &Row, project: &ProjectId) -> Result<StoredTurn, StoreError> {
    let id = ResponseId::from_uuid(get(row, 0)?);
    let verified = || {
        let turn = unverified(row, id)?;
        checksum::verify(checksum::of_turn(project, &turn), get(row, 13)?)?;
        Ok(turn)
    };
    verified().map_err(|error: StoreError| error.of_response(id))
}

fn unverified(row: &Row, id: ResponseId) -> Result<StoredTurn, StoreError> {
    Ok(StoredTurn {
        id,
        parent: get::<Option<Uuid>>(row, 1)?.map(ResponseId::from_uuid),
        depth: number(row, 2)?,
        status: status_of(get(row, 3)?)?,
        account: get(row, 4)?,
        boundary: get(row, 5)?,
        upstream_id: get(row, 6)?,
        model: get(row, 7)?,
        expires_at: get::<Option<i64>>(row, 8)?.map(Timestamp::from_unix_ms),
        input: bytes(row, 9)?,
        referenced: decode_positions(get(row, 10)?)?,
        output: bytes(row, 11)?,
        deletes: get::<Option<&[u8]>>(row, 12)?.map(decode_locations).transpose()?,
    })
}
