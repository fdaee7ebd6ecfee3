//! What can go wrong in a store, by what the caller can do about it.

use antiphon_protocol::id::ResponseId;

/// The one error of this crate. Messages never hold payloads or credentials.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The store can't be reached or can't write now: try later.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),

    /// The write did not become durable in time. It may still do so.
    #[error("the store did not commit within {0:?}")]
    Deadline(std::time::Duration),

    /// The store can't be used as it is: wrong path, not a database, no permission, a newer schema.
    #[error("{0}")]
    Unusable(String),

    /// What was to be written can't be, now or later; the store itself is well.
    #[error("the store refuses the write: {0}")]
    Refused(String),

    /// An ancestor of a response is missing. Never answered with a shorter chain.
    #[error("the chain of response {response} is broken: an ancestor is missing")]
    BrokenChain { response: ResponseId },

    /// A row can't be what was written.
    #[error("a stored row can't be read: {0}")]
    Corrupt(String),
}
