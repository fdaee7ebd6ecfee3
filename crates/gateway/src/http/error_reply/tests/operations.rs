//! The failures of the admin API.

use antiphon_access::keys::KeyState;
use antiphon_operations::{OperationError, RotateRequest, parse_object};
use antiphon_store::StoreError;

use super::REST;

pub(super) fn failures_of_operations() -> Vec<OperationError> {
    let name = || "X".to_owned();
    vec![
        parse_object::<RotateRequest>(b"{\"x\":1}").unwrap_err().into(),
        OperationError::AccountNotFound(name()),
        OperationError::ResponseNotFound(name()),
        OperationError::ConversationNotFound(name()),
        OperationError::TooManyWatchers { places: 64, of: "of this operator" },
        OperationError::KeyNotFound(name()),
        OperationError::KeyExists(name()),
        OperationError::KeyNotActive { name: name(), state: KeyState::Revoked },
        OperationError::KeyRotated(name()),
        OperationError::InvalidKeyLimits(name()),
        OperationError::InvalidAdminToken,
        OperationError::ReadOnly,
        OperationError::SessionNotFound(name()),
        OperationError::Store(StoreError::Deadline(REST)),
        OperationError::Store(StoreError::Corrupt("a secret".to_owned())),
    ]
}

pub(super) fn line_of_operation(error: &OperationError) -> &'static str {
    match error {
        OperationError::Invalid(_) => "400 | client | unknown_parameter | x | ",
        OperationError::AccountNotFound(_) => {
            "404 | client | account_not_found | null | Account \"X\" is not configured."
        }
        OperationError::ResponseNotFound(_) => {
            "404 | client | response_not_found | null | Response \"X\" not found."
        }
        OperationError::ConversationNotFound(_) => {
            "404 | client | conversation_not_found | null | Conversation \"X\" not found."
        }
        OperationError::TooManyWatchers { .. } => {
            "429 | client | too_many_watchers | null | All 64 places of this operator in the live view are taken: close a page or client that uses one, or wait until one is free."
        }
        OperationError::KeyNotFound(_) => "404 | client | key_not_found | null | Key \"X\" not found.",
        OperationError::KeyExists(_) => {
            "409 | client | key_exists | name | A key named \"X\" already exists (it may be revoked)."
        }
        OperationError::KeyNotActive { .. } => "409 | client | key_not_active | null | Key \"X\" is revoked.",
        OperationError::KeyRotated(_) => {
            "409 | client | key_rotated | null | Key \"X\" was rotated by somebody else meanwhile. Rotate it again if you need a \
             secret of your own."
        }
        OperationError::InvalidAdminToken => {
            "401 | client | invalid_admin_token | null | Missing or incorrect admin token. Send it as \
             'authorization: Bearer apn-admin-…'; `antiphon admin token` creates a new one."
        }
        OperationError::ReadOnly => {
            "403 | client | read_only | null | This token is read-only: use the token of the role admin."
        }
        OperationError::SessionNotFound(_) => {
            "404 | client | session_not_found | null | Session \"X\" not found."
        }
        OperationError::Store(StoreError::Deadline(_)) => {
            "503 | store | store_unavailable | null | The response store is unavailable. Please retry in a moment."
        }
        OperationError::InvalidKeyLimits(_) | OperationError::Store(_) => {
            "500 | gateway | internal_error | null | Internal error. The gateway's log has the cause."
        }
    }
}
