//! What a turn adds: its response, where its items are found, and its row in the request log.

use antiphon_protocol::id::{ConversationId, ProjectId, ResponseId};
use rusqlite::{CachedStatement, Connection, params};

use super::item_index::{self, Changes, MAX_APPENDED};
use crate::assemble::{
    encode_locations, encode_positions, micros, nano_usd, status_code, tokens, without_nul,
};
use crate::body::Encoder;
use crate::{LogRow, Record, StoredTurn, Timestamp, checksum};

pub(super) const HAS_RESPONSE: &str = "SELECT 1 FROM responses WHERE id = ? AND project = ?";

pub(super) const INSERT_RESPONSE: &str = "INSERT INTO responses (id, project, parent_id, account, boundary, \
     upstream_id, model, status, depth, created_at, expires_at, input, referenced, output, body, checksum, \
     body_checksum, conversation_id, deletes) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)";

pub(super) const INSERT_LOG: &str = "INSERT INTO request_log (at, response_id, project, account, model, transport, \
     outcome, http_status, code, depth, input_tokens, cached_tokens, output_tokens, reasoning_tokens, duration_us, \
     first_event_us, key_id, attempts, cost_nano_usd, estimated, sent_us, attempt_log, reasoning) \
     VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT DO NOTHING";

/// A turn with its row's other columns.
pub(super) struct TurnRow<'a> {
    pub(super) project: &'a ProjectId,
    pub(super) turn: &'a StoredTurn,
    pub(super) created_at: Timestamp,
    /// Empty for a turn that is no response.
    pub(super) body: &'a [u8],
    /// The conversation that has it: it doesn't expire.
    pub(super) conversation: Option<ConversationId>,
}

/// The connection of a batch, with what every turn of it is inserted with.
pub(super) struct Inserter<'a> {
    pub(super) connection: &'a Connection,
    pub(super) item_changes: &'a mut Changes,
    encoder: &'a mut Encoder,
    /// Looked up once a batch instead of once a turn.
    responses: Option<CachedStatement<'a>>,
    items: Option<CachedStatement<'a>>,
    log: Option<CachedStatement<'a>>,
}

// === impl Inserter ===

impl<'a> Inserter<'a> {
    pub(super) fn new(
        connection: &'a Connection,
        item_changes: &'a mut Changes,
        encoder: &'a mut Encoder,
    ) -> Self {
        Self { connection, item_changes, encoder, responses: None, items: None, log: None }
    }

    pub(super) fn record(
        &mut self,
        record: &Record,
        conversation: Option<ConversationId>,
    ) -> rusqlite::Result<()> {
        let response = &record.response;
        self.turn(&TurnRow {
            project: &record.project,
            turn: &response.turn,
            created_at: response.created_at,
            body: &response.body,
            conversation,
        })?;
        self.items(record)?;
        self.log(&record.log)
    }

    /// Whether there is such a response, be it visible or not.
    pub(super) fn has(&self, project: &ProjectId, response: ResponseId) -> rusqlite::Result<bool> {
        self.connection.prepare_cached(HAS_RESPONSE)?.exists(params![response.uuid(), project.as_str()])
    }

    pub(super) fn turn(&mut self, row: &TurnRow<'_>) -> rusqlite::Result<()> {
        let TurnRow { project, turn, created_at, body, conversation } = row;
        let body = self.encoder.encode(body);
        let statement = prepared(&mut self.responses, self.connection, INSERT_RESPONSE)?;
        statement.execute(params![
            turn.id.uuid(),
            project.as_str(),
            turn.parent.map(ResponseId::uuid),
            turn.account,
            turn.boundary,
            turn.upstream_id,
            turn.model,
            status_code(turn.status),
            turn.depth,
            created_at.unix_ms(),
            turn.expires_at.filter(|_| conversation.is_none()).map(Timestamp::unix_ms),
            &*turn.input,
            encode_positions(&turn.referenced),
            &*turn.output,
            body,
            checksum::of_turn(project, turn),
            checksum::of_body(project, turn.id, *created_at, &body),
            conversation.map(|id| id.to_string()),
            turn.deletes.as_deref().map(encode_locations),
        ])?;
        Ok(())
    }

    fn items(&mut self, record: &Record) -> rusqlite::Result<()> {
        let Record { project, items, .. } = record;
        let response = record.response.turn.id.uuid();
        if items.len() > MAX_APPENDED {
            return item_index::insert(self.connection, project, response, items);
        }
        for (item, position) in items {
            let statement = prepared(&mut self.items, self.connection, item_index::APPEND)?;
            statement.execute(params![item.as_str(), project.as_str(), response, position])?;
        }
        self.item_changes.appended(project, response, items);
        Ok(())
    }

    pub(super) fn log(&mut self, log: &LogRow) -> rusqlite::Result<()> {
        prepared(&mut self.log, self.connection, INSERT_LOG)?.execute(params![
            log.at.unix_ms(),
            log.response.uuid(),
            log.project.as_str(),
            log.account,
            without_nul(&log.model),
            log.transport,
            log.outcome,
            log.http_status,
            log.code,
            log.depth,
            tokens(log.input_tokens),
            tokens(log.cached_tokens),
            tokens(log.output_tokens),
            tokens(log.reasoning_tokens),
            micros(log.duration),
            log.first_event.map(micros),
            log.key,
            log.attempts,
            log.cost_nano_usd.map(nano_usd),
            log.is_estimated,
            log.sent.map(micros),
            log.attempt_log,
            log.reasoning,
        ])?;
        Ok(())
    }
}

fn prepared<'s, 'a>(
    statement: &'s mut Option<CachedStatement<'a>>,
    connection: &'a Connection,
    text: &str,
) -> rusqlite::Result<&'s mut CachedStatement<'a>> {
    match statement {
        Some(statement) => Ok(statement),
        None => Ok(statement.insert(connection.prepare_cached(text)?)),
    }
}
