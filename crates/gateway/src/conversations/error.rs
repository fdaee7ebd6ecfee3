//! Why something can't be done with a conversation.

use antiphon_errors::quoted;
use antiphon_protocol::error::{ApiError, ErrorKind};
use antiphon_store::StoreError;

use super::NoRoom;

#[derive(Debug, Clone)]
pub enum ConversationError {
    NotFound(String),
    ItemNotFound(String),
    /// A turn runs in it, and has not ended in time.
    Locked,
    /// It would exceed a limit.
    NoRoom(NoRoom),
    /// What the request says of its items is wrong.
    Invalid(ApiError),
    Store(StoreError),
    /// A bug or a broken invariant.
    Internal,
}

// === impl ConversationError ===

impl ConversationError {
    pub fn not_found(name: &str) -> Self {
        Self::NotFound(quoted(name))
    }

    pub fn item_not_found(name: &str) -> Self {
        Self::ItemNotFound(quoted(name))
    }

    /// An item has the id of another one that says something else.
    pub(super) fn duplicate(id: &str) -> Self {
        let message = format!("The conversation already has another item with id '{}'.", quoted(id));
        Self::invalid("duplicate_item", message)
    }

    pub(super) fn references_too_large(size: usize, limit: usize) -> Self {
        let message = format!(
            "The items that 'items' references are too large: at least {size} bytes, the limit is {limit}."
        );
        Self::invalid("context_too_large", message)
    }

    fn invalid(code: &'static str, message: String) -> Self {
        let kind = ErrorKind::InvalidRequest;
        Self::Invalid(ApiError { kind, code: Some(code.into()), param: Some("items".into()), message })
    }
}

impl From<StoreError> for ConversationError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
