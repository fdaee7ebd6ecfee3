//! The errors of operations, for the command line and the admin API.

use std::borrow::Cow;

use antiphon_access::keys::{KeyError, KeyState};
use antiphon_access::usage::InvalidParameter;
use antiphon_errors::{self as errors, ErrorRow, Fault, INTERNAL_TEXT, STORE_UNAVAILABLE_TEXT, StoreFailure};
use antiphon_protocol::error::{ApiError, ErrorKind};
use antiphon_store::StoreError;
use http::StatusCode;

use super::InvalidRequest;

#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    #[error(transparent)]
    Invalid(#[from] InvalidRequest),
    #[error("account {0:?} is not configured")]
    AccountNotFound(String),
    #[error("response {0:?} not found")]
    ResponseNotFound(String),
    #[error("conversation {0:?} not found")]
    ConversationNotFound(String),
    #[error(
        "all {places} places {of} in the live view are taken: close a page or client that uses one, or wait until one is free"
    )]
    TooManyWatchers { places: usize, of: &'static str },
    #[error("key {0:?} not found")]
    KeyNotFound(String),
    #[error("a key named {0:?} already exists (it may be revoked)")]
    KeyExists(String),
    #[error("key {name:?} is {}", state.as_str())]
    KeyNotActive { name: String, state: KeyState },
    #[error(
        "key {0:?} was rotated by somebody else meanwhile. Rotate it again if you need a secret of your own"
    )]
    KeyRotated(String),
    #[error("the stored limits of key {0:?} are invalid")]
    InvalidKeyLimits(String),
    #[error(
        "missing or incorrect admin token. Send it as 'authorization: Bearer apn-admin-…'; `antiphon admin token` creates a \
         new one"
    )]
    InvalidAdminToken,
    #[error("this token is read-only: use the token of the role admin")]
    ReadOnly,
    #[error("session {0:?} not found")]
    SessionNotFound(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

// === impl OperationError ===

impl OperationError {
    /// The error as a reply of the admin API.
    pub fn row(&self) -> ErrorRow {
        let client = |status, code, param| {
            let mut text = self.to_string();
            text[..1].make_ascii_uppercase();
            ErrorRow::new((status, Fault::Client, Some(code), param), text + ".")
        };
        let internal = || ErrorRow::new(errors::INTERNAL, INTERNAL_TEXT.to_owned());
        match self {
            Self::Invalid(InvalidRequest { code, param, message }) => ErrorRow::invalid(ApiError {
                kind: ErrorKind::InvalidRequest,
                code: Some(Cow::Borrowed(code)),
                param: param.clone().map(Cow::Owned),
                message: message.clone(),
            }),
            Self::AccountNotFound(_) => client(StatusCode::NOT_FOUND, "account_not_found", None),
            Self::ResponseNotFound(_) => client(StatusCode::NOT_FOUND, "response_not_found", None),
            Self::ConversationNotFound(_) => client(StatusCode::NOT_FOUND, "conversation_not_found", None),
            Self::TooManyWatchers { .. } => client(StatusCode::TOO_MANY_REQUESTS, "too_many_watchers", None)
                .retry_after(Some(errors::RETRY_AFTER)),
            Self::KeyNotFound(_) => client(StatusCode::NOT_FOUND, "key_not_found", None),
            Self::KeyExists(_) => client(StatusCode::CONFLICT, "key_exists", Some("name")),
            Self::KeyNotActive { .. } => client(StatusCode::CONFLICT, "key_not_active", None),
            Self::KeyRotated(_) => client(StatusCode::CONFLICT, "key_rotated", None),
            Self::InvalidAdminToken => client(StatusCode::UNAUTHORIZED, "invalid_admin_token", None),
            Self::ReadOnly => client(StatusCode::FORBIDDEN, "read_only", None),
            Self::SessionNotFound(_) => client(StatusCode::NOT_FOUND, "session_not_found", None),
            Self::InvalidKeyLimits(_) => internal(),
            Self::Store(error) if StoreFailure::from(error) == StoreFailure::Unavailable => {
                ErrorRow::new(errors::STORE_UNAVAILABLE, STORE_UNAVAILABLE_TEXT.to_owned())
            }
            Self::Store(_) => internal(),
        }
    }
}

impl From<KeyError> for OperationError {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Invalid { param, why } => Self::Invalid(InvalidRequest::value(param, why)),
            KeyError::NameTaken(name) => Self::KeyExists(name),
            KeyError::NotFound(name) => Self::KeyNotFound(name),
            KeyError::NotActive { name, state } => Self::KeyNotActive { name, state },
            KeyError::Rotated(name) => Self::KeyRotated(name),
            KeyError::Store(error) => Self::Store(error),
        }
    }
}

impl From<InvalidParameter> for OperationError {
    fn from(InvalidParameter { name, why }: InvalidParameter) -> Self {
        Self::Invalid(InvalidRequest::value(name, why))
    }
}
