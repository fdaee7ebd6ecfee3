//! The statements on background turns, and what their rows hold.

use antiphon_protocol::id::{ProjectId, ResponseId};

use super::{
    BackgroundEnd, BackgroundResult, BackgroundStatus, BackgroundTurn, EventChunk, TurnLease, UpstreamTurn,
    events, sequence,
};
use crate::assemble::{status_code, status_of};
use crate::sql::{Argument, Columns, Kind, Statement, bytes, id, number, text};
use crate::{StoreError, Timestamp, checksum};

/// The codes of a status that is no end.
const QUEUED: i64 = 4;
const IN_PROGRESS: i64 = 5;

/// The codes of a turn whose events are logged. An earlier version takes the second for the first.
const LOGGED: i64 = 1;
const LOGGED_WITH_HIDDEN_REASONING: i64 = 2;

pub(super) const QUEUE: &str = "INSERT INTO background_turns (id, project, status, streamed, stored, key_id, created_at, \
     deadline, request, headers, input, response, owner, epoch, lease_until, attempts, cancel_requested, last_sequence, size_bytes, \
     request_checksum, queued_checksum) \
     SELECT $1, $2, 4, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, 1, $13, 0, 0, $14, $15, $16, $17 \
     WHERE (SELECT count(*) FROM background_turns WHERE project = $2 AND status = 4) < $18 \
     AND (SELECT coalesce(sum(size_bytes), 0) FROM background_turns WHERE project = $2 AND status = 4) <= $19";

pub(super) const LOAD: &str = "SELECT status, streamed, stored, key_id, created_at, deadline, response, owner, epoch, \
     lease_until, attempts, cancel_requested, last_sequence, upstream_account, upstream_id, ended_at, kept_until, size_bytes, \
     headers, queued_checksum, ended_checksum \
     FROM background_turns WHERE id = $1 AND project = $2";

/// The columns of [`LOAD`].
pub(super) const TURN_COLUMNS: [Kind; 21] = [
    Kind::Number,
    Kind::Number,
    Kind::Number,
    Kind::Text,
    Kind::Number,
    Kind::Number,
    Kind::Bytes,
    Kind::Id,
    Kind::Number,
    Kind::Number,
    Kind::Number,
    Kind::Number,
    Kind::Number,
    Kind::Text,
    Kind::Text,
    Kind::Number,
    Kind::Number,
    Kind::Number,
    Kind::Text,
    Kind::Number,
    Kind::Number,
];

pub(super) const PROGRESS: &str =
    "SELECT last_sequence, ended_at FROM background_turns WHERE id = $1 AND project = $2";

pub(super) const REQUEST: &str = "SELECT request, headers, input, request_checksum FROM background_turns \
     WHERE id = $1 AND project = $2 AND (ended_at IS NULL OR (stored = 0 AND kept_until > $3))";

pub(super) const BEGIN: &str = "UPDATE background_turns SET status = 5, attempts = attempts + 1 \
     WHERE id = $1 AND project = $2 AND epoch = $3 AND ended_at IS NULL";

/// A lease that was released stays so until it is claimed.
pub(super) const RENEW: &str =
    "UPDATE background_turns SET lease_until = $1 WHERE owner = $2 AND ended_at IS NULL AND lease_until > 0";

/// The columns of [`LIST_OWNED`] and [`LIST_ABANDONED`].
pub(super) const LEASE_COLUMNS: [Kind; 4] = [Kind::Text, Kind::Id, Kind::Id, Kind::Number];

pub(super) const LIST_OWNED: &str = "SELECT project, id, owner, epoch FROM background_turns \
     WHERE owner = $1 AND ended_at IS NULL AND id > $2 ORDER BY id LIMIT $3";

pub(super) const RELEASE: &str = "UPDATE background_turns SET lease_until = 0 \
     WHERE id = $1 AND project = $2 AND epoch = $3 AND ended_at IS NULL";

pub(super) const LIST_ABANDONED: &str = "SELECT project, id, owner, epoch FROM background_turns \
     WHERE ended_at IS NULL AND (lease_until <= $1 OR ($2 = 1 AND owner <> $3)) ORDER BY lease_until, id LIMIT $4";

pub(super) const CLAIM: &str = "UPDATE background_turns SET owner = $1, lease_until = $2, epoch = epoch + 1 \
     WHERE id = $3 AND project = $4 AND epoch = $5 AND ended_at IS NULL AND (lease_until <= $6 OR $7 = 1)";

pub(super) const APPEND: &str = "UPDATE background_turns SET last_sequence = $1 \
     WHERE id = $2 AND project = $3 AND epoch = $4 AND ended_at IS NULL";

const LOG: &str = "INSERT INTO background_events (id, project, first_sequence, last_sequence, bytes, checksum) \
     VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING";

pub(super) const EVENTS: &str = "SELECT first_sequence, last_sequence, bytes, checksum FROM background_events \
     WHERE id = $1 AND project = $2 AND last_sequence > $3 ORDER BY first_sequence LIMIT $4";

pub(super) const SET_UPSTREAM: &str = "UPDATE background_turns SET upstream_account = $1, upstream_id = $2 \
     WHERE id = $3 AND project = $4 AND epoch = $5 AND ended_at IS NULL";

pub(super) const REQUEST_CANCEL: &str =
    "UPDATE background_turns SET cancel_requested = 1 WHERE id = $1 AND project = $2 AND ended_at IS NULL";

pub(super) const LIST_CANCELLED: &str =
    "SELECT id FROM background_turns WHERE owner = $1 AND cancel_requested = 1 AND ended_at IS NULL";

/// The request is no longer needed, unless all that is kept of the turn is here.
const END: &str = "UPDATE background_turns SET status = $1, ended_at = $2, kept_until = $3, response = $4, \
     last_sequence = CASE WHEN $5 < 0 THEN last_sequence ELSE $5 END, headers = '', \
     request = CASE WHEN stored = 1 THEN $6 ELSE request END, input = CASE WHEN stored = 1 THEN NULL ELSE input END, ended_checksum = $7 \
     WHERE id = $8 AND project = $9 AND epoch = $10 AND ended_at IS NULL";

pub(super) const HIDE: &str = "UPDATE background_turns SET kept_until = $1 \
     WHERE id = $2 AND project = $3 AND ended_at IS NOT NULL AND kept_until > $1";

pub(super) const PURGE_EVENTS: &str = "DELETE FROM background_events WHERE (id, project) IN \
     (SELECT id, project FROM background_turns WHERE kept_until <= $1 ORDER BY kept_until, id LIMIT $2)";
pub(super) const PURGE_TURNS: &str = "DELETE FROM background_turns WHERE (id, project) IN \
     (SELECT id, project FROM background_turns WHERE kept_until <= $1 ORDER BY kept_until, id LIMIT $2)";

/// For the tests of both engines.
#[cfg(test)]
pub(crate) const STATEMENTS: [&str; 20] = [
    QUEUE,
    LOAD,
    PROGRESS,
    REQUEST,
    BEGIN,
    RENEW,
    LIST_OWNED,
    RELEASE,
    LIST_ABANDONED,
    CLAIM,
    APPEND,
    LOG,
    EVENTS,
    SET_UPSTREAM,
    REQUEST_CANCEL,
    LIST_CANCELLED,
    END,
    HIDE,
    PURGE_EVENTS,
    PURGE_TURNS,
];

pub(super) fn streamed_code(is_streamed: bool, hides_reasoning: bool) -> i64 {
    match (is_streamed, hides_reasoning) {
        (false, _) => 0,
        (true, false) => LOGGED,
        (true, true) => LOGGED_WITH_HIDDEN_REASONING,
    }
}

/// Id, project and epoch.
pub(super) fn of_lease(lease: &TurnLease) -> Vec<Argument> {
    vec![id(lease.id.uuid()), text(lease.project.as_str()), number(sequence(lease.epoch))]
}

pub(super) fn lease_of(mut row: Columns) -> Result<TurnLease, StoreError> {
    Ok(TurnLease {
        project: ProjectId::new(&row.text()?),
        id: ResponseId::from_uuid(row.id()?),
        owner: row.id()?,
        epoch: row.integer()?,
    })
}

/// Adds a chunk to the log, unless it is there.
pub(crate) fn log_events(lease: &TurnLease, chunk: &EventChunk) -> Statement {
    let (stored, checksum) = events::encode(lease, chunk);
    let arguments = vec![
        id(lease.id.uuid()),
        text(lease.project.as_str()),
        number(sequence(chunk.first)),
        number(sequence(chunk.last)),
        bytes(stored),
        number(checksum),
    ];
    Statement::new(LOG, arguments)
}

/// Ends a turn and adds its last events. What belongs to the end must be written only if this changes a row.
pub(crate) fn end(end: &BackgroundEnd) -> Statement {
    let response = match &end.result {
        BackgroundResult::Stored(_) => Vec::new(),
        BackgroundResult::Kept { response, .. } => response.to_vec(),
    };
    let checksum = checksum::of_ended(&end.lease.project, end.lease.id, &response);
    let mut arguments = vec![
        number(i64::from(status_code(end.status))),
        number(end.at.unix_ms()),
        number(end.kept_until.unix_ms()),
        bytes(response),
        number(end.events.as_ref().map_or(-1, |events| sequence(events.last))),
        bytes(Vec::new()),
        number(checksum),
    ];
    arguments.extend(of_lease(&end.lease));
    let mut ending = Statement::new(END, arguments);
    if let Some(lock) = end.unlocks.clone() {
        ending = ending.then(lock.release());
    }
    match &end.events {
        Some(events) => ending.then(log_events(&end.lease, events)),
        None => ending,
    }
}

pub(super) fn row(
    project: &ProjectId,
    response: ResponseId,
    mut row: Columns,
) -> Result<BackgroundTurn, StoreError> {
    let status = BackgroundStatus::from_code(row.number()?)?;
    let (streamed, is_stored) = (row.number()?, row.number()? != 0);
    let key = row.optional_text();
    let created_at = Timestamp::from_unix_ms(row.number()?);
    let deadline = Timestamp::from_unix_ms(row.number()?);
    let response_object = row.optional_bytes().unwrap_or_default();
    let (owner, epoch) = (row.id()?, row.integer()?);
    let lease = TurnLease { project: project.clone(), id: response, owner, epoch };
    let mut turn = BackgroundTurn {
        lease,
        lease_until: Timestamp::from_unix_ms(row.number()?),
        status,
        is_streamed: streamed != 0,
        hides_reasoning: streamed == LOGGED_WITH_HIDDEN_REASONING,
        is_stored,
        key,
        created_at,
        deadline,
        response: response_object.into(),
        attempts: row.integer()?,
        is_cancel_requested: row.number()? != 0,
        last_sequence: u64::try_from(row.number()?).ok(),
        upstream: match (row.optional_text(), row.optional_text()) {
            (Some(account), id) => Some(UpstreamTurn { account, id }),
            (None, _) => None,
        },
        ended_at: row.optional_number().map(Timestamp::from_unix_ms),
        kept_until: row.optional_number().map(Timestamp::from_unix_ms),
        size_bytes: row.integer()?,
        is_damaged: false,
    };
    let (headers, queued, ended) = (row.text()?, row.optional_number(), row.optional_number());
    let (found, stored) = match turn.ended_at {
        None => (checksum::of_queued(project, response, &headers, &turn.response), queued),
        Some(_) => (checksum::of_ended(project, response, &turn.response), ended),
    };
    turn.is_damaged = checksum::verify(found, stored).is_err();
    Ok(turn)
}

// === impl BackgroundStatus ===

impl BackgroundStatus {
    pub(crate) fn from_code(code: i64) -> Result<Self, StoreError> {
        Ok(match code {
            QUEUED => Self::Queued,
            IN_PROGRESS => Self::InProgress,
            ended => Self::Ended(status_of(i16::try_from(ended).unwrap_or(i16::MAX))?),
        })
    }
}
