//! What can go wrong in a store, by what the caller can do about it.

use antiphon_protocol::id::ResponseId;

/// The one error of this crate. Messages hold neither payloads nor credentials.
///
/// The `# Errors` sections of the traits refer to two groups:
///
/// # Read errors
/// - [`Unavailable`](Self::Unavailable): the database can't be reached, does not answer in time, or the store is closed.
/// - [`Corrupt`](Self::Corrupt): a row does not hold what was written.
///
/// # Write errors
/// - [`Unavailable`](Self::Unavailable): the database can't be reached or can't write, such as to a full disk, or the store is
///   closed. If a connection was lost during a commit, the write may have happened.
/// - [`Deadline`](Self::Deadline): no commit within [`StoreOptions::commit_timeout`](crate::StoreOptions::commit_timeout).
/// - [`Refused`](Self::Refused): the database rejected these values, by a constraint or for their size.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The database can't be reached, read or written now. Trying later may succeed.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),

    /// The write was not committed in time. It may still be.
    #[error("the store did not commit within {0:?}")]
    Deadline(std::time::Duration),

    /// An operator has to act: the path is wrong, the file is no database, a permission is missing, or the schema is newer or
    /// older than this build's.
    #[error("{0}")]
    Unusable(String),

    /// The database rejects this write and would do so again. The store itself works.
    #[error("the store rejected the write: {0}")]
    Refused(String),

    /// An ancestor of a response is missing. A chain is never returned without it.
    #[error("the chain of response {response} is broken: an ancestor is missing")]
    BrokenChain { response: ResponseId },

    /// A row does not hold what was written. The text names it.
    #[error("a stored row is damaged: {0}")]
    Corrupt(String),
}

impl StoreError {
    /// Names the response whose row is damaged.
    pub(crate) fn of_response(self, id: ResponseId) -> Self {
        match self {
            Self::Corrupt(reason) => Self::Corrupt(format!("response {id}: {reason}")),
            error => error,
        }
    }

    /// Reading the items of a response panicked.
    pub(crate) fn unread(id: ResponseId) -> Self {
        Self::Corrupt(format!("the items of response {id} cannot be read"))
    }

    pub(crate) fn closed() -> Self {
        Self::Unavailable("it has been closed".into())
    }
}
