//! Reading responses, chains and items.

use std::collections::HashMap;

use antiphon_protocol::id::{ItemId, ProjectId, ResponseId};
use bytes::Bytes;
use rusqlite::{Connection, Row, params};
use uuid::Uuid;

use super::item_index::NewItems;
use crate::assemble::{decode_locations, decode_positions, status_of, turn_columns, whole_chain};
use crate::items::Gathering;
use crate::responses::LOAD;
use crate::{ChainQuery, FoundItems, StoreError, StoredResponse, StoredTurn, Timestamp, body, checksum};

/// The recursion carries row numbers and ids only, which are then joined to the rows. A missing ancestor yields a row of nulls.
pub(super) const LOAD_CHAIN: &str = concat!(
    "WITH RECURSIVE chain (row, parent_id, turns) AS (
       SELECT rowid, parent_id, 1 FROM responses WHERE id = ?1 AND project = ?2
         AND (?3 IS NULL OR (deletes IS NULL AND deleted_at IS NULL AND (expires_at IS NULL OR expires_at > ?3)))
       UNION ALL
       SELECT p.rowid, p.parent_id, child.turns + 1 FROM chain child
       LEFT JOIN responses p ON p.id = child.parent_id AND p.project = ?2
       WHERE child.parent_id IS NOT NULL AND child.turns < ?4)
     SELECT ",
    turn_columns!(),
    " FROM chain LEFT JOIN responses r ON r.rowid = chain.row"
);

/// A deleted response expires at its deletion, so the index on expiry finds it.
pub(super) const LIST_DELETED: &str =
    "SELECT project, id FROM responses WHERE expires_at >= ?1 AND deleted_at >= ?1";

pub(super) const LOAD_ITEMS: &str = concat!(
    "SELECT ",
    turn_columns!(),
    " FROM responses r WHERE r.id = ?1 AND r.project = ?2 \
     AND r.deleted_at IS NULL AND (r.expires_at IS NULL OR r.expires_at > ?3)"
);

/// A step of a search ends with the response that brings what it has read to this size.
const STEP_BYTES: usize = 4 << 20;

/// A search for items. The responses that hold them may be many and large, so other reads come between its steps.
pub(super) struct ItemSearch {
    project: ProjectId,
    now: Timestamp,
    gathering: Gathering,
    /// Those that have not been read yet.
    responses: std::vec::IntoIter<Uuid>,
}

pub(super) fn load(
    connection: &Connection,
    project: &ProjectId,
    id: ResponseId,
    now: Timestamp,
) -> Result<Option<StoredResponse>, StoreError> {
    let mut statement = connection.prepare_cached(LOAD)?;
    let mut rows = statement.query(params![id.uuid(), project.as_str(), now.unix_ms()])?;
    let of_response = |error: rusqlite::Error| StoreError::from(error).of_response(id);
    let Some(row) = rows.next().map_err(of_response)? else { return Ok(None) };
    let turn = turn(row, project)?;
    response(row, project, turn).map(Some).map_err(|error| error.of_response(id))
}

fn response(row: &Row<'_>, project: &ProjectId, turn: StoredTurn) -> Result<StoredResponse, StoreError> {
    let created_at = Timestamp::from_unix_ms(row.get(14)?);
    let stored = row.get_ref(15)?.as_blob().map_err(rusqlite::Error::from)?;
    checksum::verify(checksum::of_body(project, turn.id, created_at, stored), row.get(16)?)?;
    Ok(StoredResponse { turn, created_at, body: body::decode(stored)? })
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
    let of_response = |error: rusqlite::Error| StoreError::from(error).of_response(query.from);
    while let Some(row) = rows.next().map_err(of_response)? {
        if row.get::<_, Option<Uuid>>(0).map_err(of_response)?.is_none() {
            return Err(StoreError::BrokenChain { response: query.from });
        }
        turns.push(turn(row, project)?);
    }
    whole_chain(turns, &query)
}

fn turn(row: &Row<'_>, project: &ProjectId) -> Result<StoredTurn, StoreError> {
    let id = ResponseId::from_uuid(row.get(0)?);
    let verified = || {
        let turn = unverified(row, id)?;
        checksum::verify(checksum::of_turn(project, &turn), row.get(13)?)?;
        Ok(turn)
    };
    verified().map_err(|error: StoreError| error.of_response(id))
}

fn unverified(row: &Row<'_>, id: ResponseId) -> Result<StoredTurn, StoreError> {
    Ok(StoredTurn {
        id,
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
        deletes: row.get::<_, Option<Vec<u8>>>(12)?.as_deref().map(decode_locations).transpose()?,
    })
}

fn bytes(row: &Row<'_>, column: usize) -> rusqlite::Result<Bytes> {
    row.get::<_, Vec<u8>>(column).map(Bytes::from)
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

// === impl ItemSearch ===

impl ItemSearch {
    /// Looks up where the items are, and takes the first step.
    pub(super) fn begin(
        connection: &Connection,
        new_items: &NewItems,
        project: ProjectId,
        ids: Vec<ItemId>,
        now: Timestamp,
        max_bytes: usize,
    ) -> Result<Self, StoreError> {
        let mut indexed = HashMap::new();
        for id in &ids {
            let place = new_items.find(connection, &project, id)?;
            indexed.extend(place.map(|place| (id.as_str().to_owned(), (place.response, place.position))));
        }
        let gathering = Gathering::new(ids, &indexed, max_bytes);
        let responses = gathering.responses().into_iter();
        Self { project, now, gathering, responses }.step(connection)
    }

    pub(super) fn step(mut self, connection: &Connection) -> Result<Self, StoreError> {
        let mut load = connection.prepare_cached(LOAD_ITEMS)?;
        let mut read_bytes = 0;
        while read_bytes < STEP_BYTES
            && let Some(response) = self.responses.next()
        {
            let mut rows = load.query(params![response, self.project.as_str(), self.now.unix_ms()])?;
            let Some(row) = rows.next()? else { continue };
            let turn = turn(row, &self.project)?;
            read_bytes += turn.items_bytes();
            if !self.gathering.take(&turn)? {
                self.responses = Vec::new().into_iter();
            }
        }
        Ok(self)
    }

    pub(super) fn has_more(&self) -> bool {
        !self.responses.as_slice().is_empty()
    }

    pub(super) fn finish(self) -> FoundItems {
        self.gathering.finish()
    }
}
