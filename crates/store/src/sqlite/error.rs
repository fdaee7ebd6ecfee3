//! What SQLite's errors mean to a caller: the one place that reads its result codes.

use rusqlite::{Error, ErrorCode};

use crate::StoreError;
use crate::group::NotCommitted;

pub(super) fn is_busy(error: &Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
}

pub(super) fn is_not_a_database(error: &Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::NotADatabase)
}

pub(super) fn is_not_openable(error: &Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::CannotOpen)
}

pub(super) fn is_corrupt(error: &Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt)
}

pub(super) fn is_read_only(error: &Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::ReadOnly)
}

/// For writes.
impl From<Error> for NotCommitted {
    fn from(error: Error) -> Self {
        let is_own_fault = matches!(error, Error::ToSqlConversionFailure(_))
            || matches!(
                error.sqlite_error_code(),
                Some(ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::TypeMismatch)
            );
        if is_own_fault { Self::Refused(error.to_string()) } else { Self::Unavailable(error.to_string()) }
    }
}

/// For reads.
impl From<Error> for StoreError {
    fn from(error: Error) -> Self {
        match error {
            Error::FromSqlConversionFailure(..)
            | Error::IntegralValueOutOfRange(..)
            | Error::InvalidColumnType(..)
            | Error::Utf8Error(..) => Self::Corrupt(error.to_string()),
            error if is_corrupt(&error) => Self::Corrupt(error.to_string()),
            error => Self::Unavailable(error.to_string()),
        }
    }
}
