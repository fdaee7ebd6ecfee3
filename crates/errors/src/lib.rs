//! The table of errors: each failure is one row, for clients and operators alike.
//!
//! Turns, requests and operations have their own error types, each with one exhaustive match that yields the row.

use std::borrow::Cow;
use std::time::Duration;

use antiphon_protocol::error::{ApiError, ErrorKind};
use antiphon_store::StoreError;
use http::StatusCode;

/// How long a client should wait after a failure of the store or the gateway.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);

pub const CONVERSATION_LOCKED: Class =
    (StatusCode::BAD_REQUEST, Fault::Client, Some("conversation_locked"), Some("conversation"));
pub const CONVERSATION_LOCKED_TEXT: &str =
    "Another process is currently operating on this conversation. Please retry in a few seconds.";
pub const INTERNAL: Class = (StatusCode::INTERNAL_SERVER_ERROR, Fault::Gateway, Some("internal_error"), None);
pub const INTERNAL_TEXT: &str = "Internal error. The gateway's log has the cause.";
pub const MODEL_NOT_FOUND: Class =
    (StatusCode::NOT_FOUND, Fault::Client, Some("model_not_found"), Some("model"));
pub const OVERLOADED: Class =
    (StatusCode::SERVICE_UNAVAILABLE, Fault::Gateway, Some("server_is_overloaded"), None);
pub const STORE_UNAVAILABLE: Class =
    (StatusCode::SERVICE_UNAVAILABLE, Fault::Store, Some("store_unavailable"), None);
pub const STORE_UNAVAILABLE_TEXT: &str = "The response store is unavailable. Please retry in a moment.";

pub const STORE_DAMAGED: Class =
    (StatusCode::INTERNAL_SERVER_ERROR, Fault::Store, Some("store_damaged"), None);
pub const STORE_DAMAGED_TEXT: &str =
    "A stored response that this request needs is damaged. The gateway's log names it.";

const MAX_QUOTED_CHARS: usize = 200;

/// Status, fault, code and param.
pub type Class = (StatusCode, Fault, Option<&'static str>, Option<&'static str>);

/// One failure, as clients, operators, logs and metrics see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorRow {
    pub status: StatusCode,
    pub fault: Fault,
    pub error: ApiError,
    /// How long a client should wait, if that is known.
    pub retry_after: Option<Duration>,
}

/// Whose fault a failure is; the label of the failure metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    Client,
    Limits,
    Upstream,
    Store,
    Gateway,
}

/// What a failure of the store means to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreFailure {
    /// It may work again in a moment.
    Unavailable,
    /// What is stored can't be read; a retry fails too.
    Damaged,
    Internal,
}

/// Shortens a name from a client for an error message.
pub fn quoted(name: &str) -> String {
    match name.char_indices().nth(MAX_QUOTED_CHARS) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}

// === impl StoreFailure ===

impl From<&StoreError> for StoreFailure {
    fn from(error: &StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) | StoreError::Deadline(_) | StoreError::Unusable(_) => {
                Self::Unavailable
            }
            StoreError::BrokenChain { .. } | StoreError::Corrupt(_) => Self::Damaged,
            StoreError::Refused(_) => Self::Internal,
        }
    }
}

// === impl ErrorRow ===

impl ErrorRow {
    pub fn new((status, fault, code, param): Class, message: String) -> Self {
        let kind = match status {
            status if status.is_server_error() => ErrorKind::Server,
            StatusCode::TOO_MANY_REQUESTS if code == Some("insufficient_quota") => {
                ErrorKind::InsufficientQuota
            }
            StatusCode::TOO_MANY_REQUESTS => ErrorKind::RateLimit,
            StatusCode::UNAUTHORIZED => ErrorKind::Authentication,
            StatusCode::FORBIDDEN => ErrorKind::Permission,
            _ => ErrorKind::InvalidRequest,
        };
        let (code, param) = (code.map(Cow::from), param.map(Cow::from));
        let error = ApiError { kind, code, param, message };
        let retry_after = (status == StatusCode::SERVICE_UNAVAILABLE).then_some(RETRY_AFTER);
        Self { status, fault, error, retry_after }
    }

    /// A request that could not be parsed.
    pub fn invalid(error: ApiError) -> Self {
        Self { status: StatusCode::BAD_REQUEST, fault: Fault::Client, error, retry_after: None }
    }

    #[must_use]
    pub fn retry_after(self, wait: Option<Duration>) -> Self {
        Self { retry_after: wait.or(self.retry_after), ..self }
    }
}

// === impl Fault ===

impl Fault {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Limits => "limits",
            Self::Upstream => "upstream",
            Self::Store => "store",
            Self::Gateway => "gateway",
        }
    }
}
