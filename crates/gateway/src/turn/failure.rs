//! Everything that can keep a turn, or a look at a stored one, from succeeding: the one client-facing error.

use std::borrow::Cow;
use std::time::Duration;

use antiphon_protocol::error::{ApiError, ErrorKind};
use antiphon_store::StoreError;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use antiphon_access::keys::Denied;
use antiphon_access::limits::{Exceeded, Rates};
use antiphon_upstream::pool::Verdict;

/// Why the client does not get what it asked for.
#[derive(Debug, Clone)]
pub enum Failure {
    /// The request can't be understood; worded where it was parsed.
    Request(ApiError),
    BodyTooLarge {
        max_bytes: usize,
    },
    BodyUnreadable(String),
    BodyTimeout(Duration),
    UnsupportedEncoding(String),
    /// Too many request bodies are held at once.
    Overloaded,
    /// Every account has as many turns as it may, and so has the queue, or the wait was too long.
    Busy,
    /// A limit of the caller's key or project is in the way.
    LimitReached(Box<Exceeded>),
    /// Every account is left alone for so long.
    Cooling(Duration),
    PreviousNotFound(String),
    PreviousNotCompleted(String),
    ContextTooLarge {
        what: &'static str,
        limit: usize,
        size: usize,
    },
    /// The stored items that an input names come to at least so many bytes.
    InputTooLarge {
        limit: usize,
        size: usize,
    },
    ResponseNotFound(String),
    ConversationNotFound(String),
    AccountNotFound(String),
    /// The admin token is missing or wrong.
    NotAnOperator,
    /// The key is missing, unknown, revoked or expired.
    InvalidKey,
    /// One address has failed so often to be let in; it may try again after so long.
    TooManyAttempts(Duration),
    /// The key is not for this model.
    ModelNotAllowed(String),
    KeyNotFound(String),
    /// What is asked for can't be done with what is there.
    Conflict {
        code: &'static str,
        param: Option<&'static str>,
        message: String,
    },
    ItemNotFound(String),
    NotInBackground,
    InvalidQuery {
        param: &'static str,
        message: String,
    },
    ModelNotFound(String),
    NoAccount,
    /// The upstream's own answer, passed on as it is.
    Refused(Box<Refusal>),
    UpstreamUnreachable(Cow<'static, str>),
    UpstreamTimeout(&'static str),
    /// The upstream did not bring a stream to its end that had begun.
    StreamBroken(String),
    StoreUnavailable,
    /// Something that must not happen; the cause is in the log.
    Internal,
    /// Nobody is there to be told.
    ClientGone,
    UnknownRoute(String),
    MethodNotAllowed(String),
    /// The operator has switched WebSocket mode off.
    SocketsOff,
    BadHandshake(&'static str),
    BinaryMessage,
    /// A connection has as many named lanes as it may.
    TooManyLanes {
        max_lanes: usize,
    },
    /// A connection is as old as it may get.
    SocketTooOld(Duration),
}

/// Why a turn yields nothing, with what its client may still ask for.
#[derive(Debug, Clone)]
pub struct Rejected {
    pub failure: Failure,
    /// `None` for a caller without limits, and for a turn that came to an end before they were looked at.
    pub rates: Option<Box<Rates>>,
}

/// An upstream's error reply.
#[derive(Debug, Clone)]
pub struct Refusal {
    pub status: StatusCode,
    /// Those of the upstream's headers that a client may see.
    pub headers: HeaderMap,
    pub body: Bytes,
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

/// How long a client should wait before it tries again when the store or the gateway could not take its request.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Whole seconds, rounded up, and at least one: who comes back earlier is refused again.
pub fn seconds(rest: Duration) -> u64 {
    (rest.as_millis().div_ceil(1000)).max(1).try_into().unwrap_or(u64::MAX)
}

// === impl Failure ===

impl Failure {
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Request(_)
            | Self::BodyUnreadable(_)
            | Self::PreviousNotFound(_)
            | Self::PreviousNotCompleted(_)
            | Self::ContextTooLarge { .. }
            | Self::InputTooLarge { .. }
            | Self::NotInBackground
            | Self::InvalidQuery { .. }
            | Self::BadHandshake(_)
            | Self::BinaryMessage
            | Self::TooManyLanes { .. }
            | Self::SocketTooOld(_) => StatusCode::BAD_REQUEST,
            Self::SocketsOff => StatusCode::UPGRADE_REQUIRED,
            Self::BodyTimeout(_) => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedEncoding(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::ResponseNotFound(_)
            | Self::ConversationNotFound(_)
            | Self::AccountNotFound(_)
            | Self::KeyNotFound(_)
            | Self::ItemNotFound(_)
            | Self::ModelNotFound(_)
            | Self::UnknownRoute(_) => StatusCode::NOT_FOUND,
            Self::NotAnOperator | Self::InvalidKey => StatusCode::UNAUTHORIZED,
            Self::ModelNotAllowed(_) => StatusCode::FORBIDDEN,
            Self::Conflict { .. } => StatusCode::CONFLICT,
            Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Refused(refusal) => refusal.status,
            Self::UpstreamUnreachable(_) | Self::StreamBroken(_) => StatusCode::BAD_GATEWAY,
            Self::UpstreamTimeout(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::LimitReached(_) | Self::Cooling(_) | Self::TooManyAttempts(_) => {
                StatusCode::TOO_MANY_REQUESTS
            }
            Self::Overloaded | Self::Busy | Self::NoAccount | Self::StoreUnavailable => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Internal | Self::ClientGone => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    pub fn fault(&self) -> Fault {
        match self {
            Self::Refused(refusal) if refusal.status.is_client_error() => Fault::Client,
            Self::Refused(_)
            | Self::UpstreamUnreachable(_)
            | Self::UpstreamTimeout(_)
            | Self::StreamBroken(_)
            | Self::Cooling(_)
            | Self::NoAccount => Fault::Upstream,
            Self::LimitReached(_) => Fault::Limits,
            Self::StoreUnavailable => Fault::Store,
            Self::Internal | Self::Overloaded | Self::Busy => Fault::Gateway,
            Self::Request(_)
            | Self::BodyTooLarge { .. }
            | Self::BodyUnreadable(_)
            | Self::BodyTimeout(_)
            | Self::UnsupportedEncoding(_)
            | Self::PreviousNotFound(_)
            | Self::PreviousNotCompleted(_)
            | Self::ContextTooLarge { .. }
            | Self::InputTooLarge { .. }
            | Self::ResponseNotFound(_)
            | Self::ConversationNotFound(_)
            | Self::AccountNotFound(_)
            | Self::NotAnOperator
            | Self::InvalidKey
            | Self::TooManyAttempts(_)
            | Self::ModelNotAllowed(_)
            | Self::KeyNotFound(_)
            | Self::Conflict { .. }
            | Self::ItemNotFound(_)
            | Self::NotInBackground
            | Self::InvalidQuery { .. }
            | Self::ModelNotFound(_)
            | Self::ClientGone
            | Self::UnknownRoute(_)
            | Self::MethodNotAllowed(_)
            | Self::SocketsOff
            | Self::BadHandshake(_)
            | Self::BinaryMessage
            | Self::TooManyLanes { .. }
            | Self::SocketTooOld(_) => Fault::Client,
        }
    }

    /// When a client may try again, if that can be said.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::LimitReached(exceeded) => Some(exceeded.retry_after()),
            Self::Cooling(rest) | Self::TooManyAttempts(rest) => Some(*rest),
            _ => (self.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(RETRY_AFTER),
        }
    }

    /// The error as the API words it.
    pub fn api_error(&self) -> ApiError {
        let kind = match self.status() {
            status if status.is_server_error() => ErrorKind::Server,
            StatusCode::TOO_MANY_REQUESTS if self.is_budget() => ErrorKind::InsufficientQuota,
            StatusCode::TOO_MANY_REQUESTS => ErrorKind::RateLimit,
            StatusCode::UNAUTHORIZED => ErrorKind::Authentication,
            StatusCode::FORBIDDEN => ErrorKind::Permission,
            _ => ErrorKind::InvalidRequest,
        };
        let (code, param, message) = match self {
            Self::Request(error) => return error.clone(),
            Self::PreviousNotFound(id) => (
                Some("previous_response_not_found"),
                Some("previous_response_id"),
                format!("Previous response with id '{id}' not found."),
            ),
            Self::PreviousNotCompleted(id) => (
                Some("previous_response_not_completed"),
                Some("previous_response_id"),
                format!("Previous response with id '{id}' is still in progress. Wait for it to complete."),
            ),
            Self::ContextTooLarge { what, limit, size } => (
                Some("context_too_large"),
                Some("previous_response_id"),
                format!(
                    "The history of the previous response is too large: {size} {what}, and the limit is {limit}."
                ),
            ),
            Self::InputTooLarge { limit, size } => (
                Some("context_too_large"),
                Some("input"),
                format!(
                    "The items that the input references are too large: at least {size} bytes, and the limit is {limit}."
                ),
            ),
            Self::ResponseNotFound(id) => (None, None, format!("Response with id '{id}' not found.")),
            Self::ConversationNotFound(id) => (None, None, format!("Conversation with id '{id}' not found.")),
            Self::AccountNotFound(name) => (
                Some("account_not_found"),
                None,
                format!("There is no account '{name}' in the configuration."),
            ),
            Self::NotAnOperator => (
                Some("invalid_admin_token"),
                None,
                "Send the admin token as 'authorization: Bearer apn-admin-…'; `antiphon admin token` makes another."
                    .to_owned(),
            ),
            Self::ModelNotAllowed(model) => (
                Some("model_not_allowed"),
                Some("model"),
                format!("This API key may not use the model '{model}'."),
            ),
            Self::KeyNotFound(name) => {
                (Some("key_not_found"), None, format!("There is no key named '{name}'."))
            }
            Self::Conflict { code, param, message } => (Some(*code), *param, message.clone()),
            Self::ItemNotFound(id) => (None, Some("input"), format!("Item with id '{id}' not found.")),
            Self::NotInBackground => (None, None, "Cannot cancel a synchronous response.".to_owned()),
            Self::InvalidQuery { param, message } => (Some("invalid_value"), Some(*param), message.clone()),
            Self::ModelNotFound(model) => (
                Some("model_not_found"),
                Some("model"),
                format!("The model '{model}' does not exist or you do not have access to it."),
            ),
            Self::TooManyLanes { max_lanes } => (
                Some("websocket_stream_limit_reached"),
                Some("stream_id"),
                format!(
                    "This websocket connection has {max_lanes} streams already. Use one of them, or another connection."
                ),
            ),
            _ => self.gateway_error(),
        };
        ApiError { kind, code: code.map(Cow::from), param: param.map(Cow::from), message }
    }

    fn is_budget(&self) -> bool {
        matches!(self, Self::LimitReached(exceeded) if exceeded.rule.is_budget())
    }

    /// The failures that are not about what the request names.
    fn gateway_error(&self) -> (Option<&'static str>, Option<&'static str>, String) {
        let (code, message) = match self {
            Self::BodyTooLarge { max_bytes } => (
                "request_too_large",
                format!(
                    "The request body is too large: the limit is {max_bytes} bytes, after decompression."
                ),
            ),
            Self::BodyUnreadable(why) => {
                ("invalid_body", format!("The request body could not be read: {why}."))
            }
            Self::BodyTimeout(after) => (
                "request_timeout",
                format!("The request body did not arrive: nothing came for {} s.", after.as_secs()),
            ),
            Self::UnsupportedEncoding(encoding) => (
                "unsupported_content_encoding",
                format!(
                    "Unsupported content-encoding '{encoding}': send the body as it is, or as gzip or zstd."
                ),
            ),
            Self::InvalidKey => (
                "invalid_api_key",
                "Incorrect API key provided. Send one that is valid here as 'authorization: Bearer apn-…'."
                    .to_owned(),
            ),
            Self::TooManyAttempts(rest) => (
                "rate_limit_exceeded",
                format!(
                    "Too many requests without a valid key came from this address. Please retry in {} s.",
                    seconds(*rest)
                ),
            ),
            Self::Overloaded => (
                "server_is_overloaded",
                "The gateway holds as many request bodies as it may. Please retry in a moment.".to_owned(),
            ),
            Self::Busy => (
                "server_is_overloaded",
                "Every upstream account has as many requests as it may. Please retry in a moment.".to_owned(),
            ),
            Self::LimitReached(exceeded) => {
                let code = if self.is_budget() { "insufficient_quota" } else { "rate_limit_exceeded" };
                (code, exceeded.to_string())
            }
            Self::Cooling(rest) => (
                "rate_limit_exceeded",
                format!(
                    "Every upstream account is rate limited or failing. Please retry in {} s.",
                    seconds(*rest)
                ),
            ),
            Self::NoAccount => {
                ("no_account_available", "No upstream account can serve this request now.".to_owned())
            }
            Self::UpstreamUnreachable(why) => {
                ("upstream_unreachable", format!("The upstream can't be reached: {why}."))
            }
            Self::UpstreamTimeout(what) => ("upstream_timeout", format!("The upstream timed out: {what}.")),
            Self::StreamBroken(why) => ("server_error", format!("The upstream's stream broke off: {why}.")),
            Self::StoreUnavailable => (
                "store_unavailable",
                "The store of responses is unavailable. Please retry in a moment.".to_owned(),
            ),
            Self::UnknownRoute(route) => ("unknown_url", format!("Unknown request URL: {route}.")),
            Self::MethodNotAllowed(route) => ("method_not_allowed", format!("Not allowed: {route}.")),
            Self::Refused(refusal) => {
                ("upstream_error", format!("The upstream answered {}.", refusal.status.as_u16()))
            }
            _ => self.socket_error(),
        };
        (Some(code), None, message)
    }

    /// The failures of WebSocket mode alone, and last the gateway's own.
    fn socket_error(&self) -> (&'static str, String) {
        match self {
            Self::SocketsOff => {
                ("websocket_disabled", "WebSocket mode is switched off here: use HTTP.".to_owned())
            }
            Self::BadHandshake(why) => ("invalid_handshake", format!("The WebSocket handshake {why}.")),
            Self::BinaryMessage => (
                "unsupported_message",
                "Binary messages are not supported: send JSON in a text message.".to_owned(),
            ),
            Self::SocketTooOld(age) => (
                "websocket_connection_limit_reached",
                format!(
                    "Responses websocket connection limit reached ({} minutes). Create a new websocket connection to continue.",
                    age.as_secs() / 60
                ),
            ),
            _ => ("internal_error", "The gateway failed. The cause is in its log.".to_owned()),
        }
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self::Request(error)
    }
}

impl From<Denied> for Failure {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::NoValidKey => Self::InvalidKey,
            Denied::TooManyAttempts(rest) => Self::TooManyAttempts(rest),
            Denied::KeysUnknown => Self::StoreUnavailable,
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        tracing::error!(error = %error, "the store failed");
        match error {
            StoreError::Unavailable(_) | StoreError::Deadline(_) | StoreError::Unusable(_) => {
                Self::StoreUnavailable
            }
            StoreError::Refused(_) | StoreError::BrokenChain { .. } | StoreError::Corrupt(_) => {
                Self::Internal
            }
        }
    }
}

// === impl Refusal ===

impl Refusal {
    /// What a stream's first event says, as the error reply that it stands for.
    pub fn of_event(verdict: &Verdict, code: String, message: String) -> Self {
        let (status, kind) = match verdict {
            Verdict::RateLimited { .. } => (StatusCode::TOO_MANY_REQUESTS, ErrorKind::RateLimit),
            Verdict::OutOfQuota { .. } => (StatusCode::TOO_MANY_REQUESTS, ErrorKind::InsufficientQuota),
            _ => (StatusCode::BAD_GATEWAY, ErrorKind::Server),
        };
        let error = ApiError { kind, code: Some(code.into()), param: None, message };
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Self { status, headers, body: error.envelope().into() }
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
