//! What PostgreSQL's errors mean to a caller: the one place that reads its codes.

use std::error::Error as _;
use std::time::Duration;

use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use super::connect::ConnectError;
use crate::StoreError;
use crate::group::NotCommitted;

/// Why queries have no result.
#[derive(Debug)]
pub(super) enum QueryError {
    /// There is no connection at the moment.
    Down(String),
    /// The connection was lost; whether a write has happened is not known.
    Lost(String),
    Deadline(Duration),
    /// The server refuses, and the connection is well.
    Refused(Error),
}

/// The error with its causes, without details: those can hold what was to be written.
pub(super) fn describe(error: &Error) -> String {
    if let Some(refusal) = error.as_db_error() {
        return format!("{} ({})", refusal.message(), refusal.code().code());
    }
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    text
}

/// Whether the connection is of no use any more: it is broken, the server is going down, or it has become a standby.
fn is_lost(error: &Error) -> bool {
    match error.code() {
        Some(code) => {
            *code == SqlState::READ_ONLY_SQL_TRANSACTION
                || ["08", "57P"].iter().any(|class| code.code().starts_with(class))
        }
        None => {
            error.is_closed() || error.source().is_some_and(<dyn std::error::Error>::is::<std::io::Error>)
        }
    }
}

/// Whether the same may succeed when it is tried again: another writer was in the way.
pub(super) fn is_conflict(error: &QueryError) -> bool {
    let QueryError::Refused(error) = error else { return false };
    error.code().is_some_and(|code| {
        *code == SqlState::T_R_DEADLOCK_DETECTED || *code == SqlState::T_R_SERIALIZATION_FAILURE
    })
}

// === impl QueryError ===

impl From<Error> for QueryError {
    fn from(error: Error) -> Self {
        if is_lost(&error) { Self::Lost(describe(&error)) } else { Self::Refused(error) }
    }
}

/// Of a write.
impl From<QueryError> for NotCommitted {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Deadline(_) => Self::Deadline,
            QueryError::Down(text) | QueryError::Lost(text) => Self::Unavailable(text),
            QueryError::Refused(error) => {
                // Bad data, a constraint, or too large.
                let is_own_fault = error.code().is_some_and(|code| {
                    ["22", "23", "54"].iter().any(|class| code.code().starts_with(class))
                });
                let text = describe(&error);
                if is_own_fault { Self::Refused(text) } else { Self::Unavailable(text) }
            }
        }
    }
}

/// Of a read.
impl From<QueryError> for StoreError {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Deadline(limit) => Self::Unavailable(format!("no answer within {limit:?}")),
            QueryError::Down(text) | QueryError::Lost(text) => Self::Unavailable(text),
            QueryError::Refused(error) => Self::Unavailable(describe(&error)),
        }
    }
}

/// Of bringing the schema up to date.
impl From<QueryError> for ConnectError {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Refused(error) => {
                // Others are in the way, or the server lacks something at the moment.
                let is_passing = error.code().is_some_and(|code| {
                    ["40", "53", "55", "57"].iter().any(|class| code.code().starts_with(class))
                });
                let text = describe(&error);
                if is_passing { Self::Unavailable(text) } else { Self::Unusable(text) }
            }
            other => match StoreError::from(other) {
                StoreError::Unavailable(text) => Self::Unavailable(text),
                error => Self::Unusable(error.to_string()),
            },
        }
    }
}

/// Of a row that was read.
pub(super) fn corrupt(error: &Error) -> StoreError {
    StoreError::Corrupt(describe(error))
}
