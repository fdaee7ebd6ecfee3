//! What SQLite's errors mean to a caller: the one place that reads its result codes.

use sqlx::Error;

use crate::StoreError;
use crate::group::NotCommitted;

const SQLITE_BUSY: i32 = 5;
const SQLITE_CANTOPEN: i32 = 14;
const SQLITE_TOOBIG: i32 = 18;
const SQLITE_CONSTRAINT: i32 = 19;
const SQLITE_MISMATCH: i32 = 20;
const SQLITE_NOTADB: i32 = 26;

/// The primary result code.
fn code(error: &Error) -> Option<i32> {
    let code = error.as_database_error()?.code()?.parse::<i32>().ok()?;
    Some(code & 0xff)
}

pub(super) fn is_busy(error: &Error) -> bool {
    code(error) == Some(SQLITE_BUSY)
}

pub(super) fn is_not_a_database(error: &Error) -> bool {
    code(error) == Some(SQLITE_NOTADB)
}

pub(super) fn is_not_openable(error: &Error) -> bool {
    code(error) == Some(SQLITE_CANTOPEN)
}

/// Of a write.
pub(super) fn not_committed(error: &Error) -> NotCommitted {
    let is_own_fault = matches!(error, Error::Encode(_))
        || matches!(code(error), Some(SQLITE_CONSTRAINT | SQLITE_TOOBIG | SQLITE_MISMATCH));
    if is_own_fault {
        NotCommitted::Refused(error.to_string())
    } else {
        NotCommitted::Unavailable(error.to_string())
    }
}

/// Of a read.
pub(super) fn not_read(error: Error) -> StoreError {
    match error {
        Error::ColumnDecode { .. } | Error::Decode(_) => StoreError::Corrupt(error.to_string()),
        Error::PoolClosed => StoreError::Unavailable("it is closed".into()),
        Error::PoolTimedOut => StoreError::Unavailable("too many reads wait".into()),
        error => StoreError::Unavailable(error.to_string()),
    }
}
