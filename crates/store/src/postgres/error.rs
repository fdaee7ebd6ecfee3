//! What PostgreSQL's errors mean to a caller: the one place that reads its codes.

use std::error::Error as _;
use std::time::Duration;

use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use super::connect::ConnectError;
use crate::StoreError;
use crate::group::NotCommitted;

const NO_PARENT: &str = "the response that it continues is gone";

/// Why a query failed.
#[derive(Debug)]
pub(super) enum QueryError {
    /// There is no connection now.
    Down(String),
    /// The connection was lost. A write may have happened.
    Lost(String),
    Deadline(Duration),
    /// The server rejects the query. The connection still works.
    Refused(Error),
    /// The user lacks a right. The connection still works.
    Forbidden(String),
    /// A response was to be inserted whose parent is gone. The connection still works.
    NoParent,
}

/// The error and its causes, but not the server's details, which can contain the values of a row.
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

/// What a right is missing for, and what to do about it.
fn forbidden(error: &Error) -> Option<String> {
    let is_forbidden = error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE);
    is_forbidden.then(|| format!("{}: grant the database user this right", describe(error)))
}

/// Whether [`INSERT`](super::insert::INSERT) has found that a parent is gone.
fn lacks_parent(error: &Error) -> bool {
    error.as_db_error().is_some_and(|error| {
        *error.code() == SqlState::NOT_NULL_VIOLATION
            && (error.table(), error.column()) == (Some("responses"), Some("depth"))
    })
}

/// Whether the connection can't be used any more: it is broken, or the server ends it, is shutting down or has become a standby.
fn is_lost(error: &Error) -> bool {
    match error.code() {
        Some(code) => {
            *code == SqlState::READ_ONLY_SQL_TRANSACTION
                || *code == SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT
                || ["08", "57P"].iter().any(|class| code.code().starts_with(class))
        }
        None => {
            error.is_closed() || error.source().is_some_and(<dyn std::error::Error>::is::<std::io::Error>)
        }
    }
}

/// Whether a conflict with another writer caused it, so that trying again may succeed.
pub(super) fn is_conflict(error: &QueryError) -> bool {
    let QueryError::Refused(error) = error else { return false };
    error.code().is_some_and(|code| {
        *code == SqlState::T_R_DEADLOCK_DETECTED || *code == SqlState::T_R_SERIALIZATION_FAILURE
    })
}

// === impl QueryError ===

impl From<Error> for QueryError {
    fn from(error: Error) -> Self {
        match forbidden(&error) {
            Some(text) => Self::Forbidden(text),
            None if lacks_parent(&error) => Self::NoParent,
            None if is_lost(&error) => Self::Lost(describe(&error)),
            None => Self::Refused(error),
        }
    }
}

/// For writes.
impl From<QueryError> for NotCommitted {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Deadline(_) => Self::Deadline,
            QueryError::Down(text) | QueryError::Lost(text) => Self::Unavailable(text),
            QueryError::Forbidden(text) => Self::Forbidden(text),
            QueryError::NoParent => Self::Refused(NO_PARENT.into()),
            QueryError::Refused(error) => {
                // Invalid data, a violated constraint, or a program limit such as a size.
                let is_own_fault = error.code().is_some_and(|code| {
                    ["22", "23", "54"].iter().any(|class| code.code().starts_with(class))
                });
                let text = describe(&error);
                if is_own_fault { Self::Refused(text) } else { Self::Unavailable(text) }
            }
        }
    }
}

/// For reads.
impl From<QueryError> for StoreError {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Deadline(limit) => {
                Self::Unavailable(format!("the database did not answer within {limit:?}"))
            }
            QueryError::Down(text) | QueryError::Lost(text) => Self::Unavailable(text),
            QueryError::Forbidden(text) => Self::Unusable(text),
            QueryError::NoParent => Self::Refused(NO_PARENT.into()),
            QueryError::Refused(error) => Self::Unavailable(describe(&error)),
        }
    }
}

/// For migrations.
impl From<QueryError> for ConnectError {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Refused(error) => {
                // Conflicts and locks of others, and a lack of resources.
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

/// For rows that were read.
pub(super) fn corrupt(error: &Error) -> StoreError {
    StoreError::Corrupt(describe(error))
}
