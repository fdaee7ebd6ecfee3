//! What a turn adds: its response, where its items are found, and its row in the request log.

use antiphon_protocol::id::{ConversationId, ItemId, ProjectId, ResponseId};
use rusqlite::{Connection, params};

use crate::assemble::{
    encode_locations, encode_positions, micros, nano_usd, status_code, tokens, without_nul,
};
use crate::body::Encoder;
use crate::{LogRow, Record, StoredTurn, Timestamp, checksum};

pub(super) const INSERT_RESPONSE: &str = "INSERT INTO responses (id, project, parent_id, account, boundary, \
     upstream_id, model, status, depth, created_at, expires_at, input, referenced, output, body, checksum, \
     body_checksum, conversation_id, deletes) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)";

pub(super) const INSERT_ITEM: &str = "INSERT INTO items (item_id, project, response_id, position) VALUES (?,?,?,?) \
     ON CONFLICT (item_id, project) DO UPDATE SET response_id = excluded.response_id, position = excluded.position";

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

pub(super) fn insert_record(
    connection: &Connection,
    record: &Record,
    conversation: Option<ConversationId>,
    encoder: &mut Encoder,
) -> rusqlite::Result<()> {
    let response = &record.response;
    let row = TurnRow {
        project: &record.project,
        turn: &response.turn,
        created_at: response.created_at,
        body: &response.body,
        conversation,
    };
    insert_turn(connection, &row, encoder)?;
    for item in &record.items {
        insert_item(connection, record, item)?;
    }
    insert_log(connection, &record.log)
}

pub(super) fn insert_turn(
    connection: &Connection,
    row: &TurnRow<'_>,
    encoder: &mut Encoder,
) -> rusqlite::Result<()> {
    let TurnRow { project, turn, created_at, body, conversation } = row;
    let body = encoder.encode(body);
    connection.prepare_cached(INSERT_RESPONSE)?.execute(params![
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

fn insert_item(connection: &Connection, record: &Record, item: &(ItemId, u32)) -> rusqlite::Result<()> {
    let (item_id, position) = item;
    let response = record.response.turn.id.uuid();
    let mut statement = connection.prepare_cached(INSERT_ITEM)?;
    statement.execute(params![item_id.as_str(), record.project.as_str(), response, position])?;
    Ok(())
}

pub(super) fn insert_log(connection: &Connection, log: &LogRow) -> rusqlite::Result<()> {
    connection.prepare_cached(INSERT_LOG)?.execute(params![
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
