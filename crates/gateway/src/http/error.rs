//! What can be wrong with a request before it becomes a turn, or with one that is not a turn.

use std::time::Duration;

use antiphon_access::keys::Denied;
use antiphon_errors::{
    self as errors, CONVERSATION_LOCKED_TEXT, ErrorRow, Fault, INTERNAL_TEXT, STORE_DAMAGED_TEXT,
    STORE_UNAVAILABLE_TEXT, StoreFailure,
};
use antiphon_protocol::error::ApiError;
use antiphon_runtime::whole_seconds;
use antiphon_store::{Status, StoreError};
use http::StatusCode;

use crate::body_memory::NoMemory;
use crate::conversations::{ConversationError, NoRoom};

/// Why a request is rejected. The text is the message that its client gets.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RequestError {
    /// The parser has written the message.
    #[error("{}", .0.message)]
    Invalid(ApiError),
    #[error("The request body is too large: the limit is {max_bytes} bytes, after decompression.")]
    BodyTooLarge { max_bytes: usize },
    #[error("The request body could not be read: {0}.")]
    BodyUnreadable(String),
    /// Holds what arrived while the gateway waited, and the wait that is always allowed.
    #[error(
        "Timed out reading the request body: {received_bytes} bytes arrived in {} s of waiting. The limit is {} s, and 1 s \
         more for every 16 KiB.",
        .waited.as_secs(), .limit.as_secs()
    )]
    BodyTimeout { received_bytes: usize, waited: Duration, limit: Duration },
    #[error("Unsupported content-encoding '{0}': use gzip, zstd or none.")]
    UnsupportedEncoding(String),
    #[error("{0}")]
    Overloaded(NoMemory),
    /// The memory ceiling is reached.
    #[error("The gateway is short of memory. Please retry in a moment.")]
    MemoryShort,
    /// The key is missing, unknown, revoked or expired.
    #[error("Incorrect API key provided. Send a valid key of this gateway as 'authorization: Bearer apn-…'.")]
    InvalidKey,
    /// An address has sent too many wrong keys. Holds the time until it may try again.
    #[error(
        "Too many requests without a valid key from this address. Please retry in {} s.",
        whole_seconds(*.0)
    )]
    TooManyAttempts(Duration),
    #[error("A request needs one Host header that names the gateway.")]
    BadHost,
    #[error("This address is served over TLS: use https:// instead of http:// in the base URL.")]
    HttpsRequired,
    /// Nobody has to have a key yet, and the request does not look like one of this machine.
    #[error(
        "Without a key, this gateway is served to this machine only, and not as '{0}': create a key, or add the name to \
         allowed_hosts."
    )]
    HostNotAllowed(String),
    #[error("Without a key, this gateway is not served to web pages of other origins: create a key.")]
    CrossSite,
    /// A form of the dashboard that no page of the dashboard has sent.
    #[error("This form was sent from a page of another origin. Open the dashboard and try again.")]
    CrossSiteForm,
    #[error("{message}")]
    InvalidQuery { param: &'static str, message: String },
    #[error("Response with id '{0}' not found.")]
    ResponseNotFound(String),
    #[error("Conversation with id '{0}' not found.")]
    ConversationNotFound(String),
    /// Another turn runs in the conversation.
    #[error("{}", CONVERSATION_LOCKED_TEXT)]
    ConversationLocked,
    #[error("{0}")]
    NoRoom(NoRoom),
    #[error("Item with id '{0}' not found.")]
    ItemNotFound(String),
    #[error("Cannot cancel a synchronous response.")]
    NotInBackground,
    /// How the response has ended.
    #[error("{}", ended_text(*.0))]
    HasEnded(Status),
    #[error("This response cannot be streamed because it was not created with stream=true.")]
    NotStreamed,
    #[error("This response cannot be streamed because it was not created with background=true.")]
    NotStreamedInBackground,
    /// The event log is no longer kept. Holds the age of the response.
    #[error("This response can no longer be streamed because it is more than {} old.", age_text(*.0))]
    LogExpired(Duration),
    #[error("The model '{0}' does not exist or you do not have access to it.")]
    ModelNotFound(String),
    #[error("Invalid URL ({0})")]
    UnknownRoute(String),
    #[error("Method not allowed: {0}.")]
    MethodNotAllowed(String),
    /// The configuration disables WebSocket mode.
    #[error("WebSocket mode is disabled on this gateway. Use HTTP.")]
    SocketsDisabled,
    #[error("The WebSocket handshake {0}.")]
    BadHandshake(&'static str),
    #[error("Binary messages are not supported: send JSON in a text message.")]
    BinaryMessage,
    /// A connection has the maximum of named lanes.
    #[error(
        "This websocket connection already has {max_lanes} streams, the maximum. Reuse one of them or open another connection."
    )]
    TooManyLanes { max_lanes: usize },
    /// A connection has reached its maximum age.
    #[error(
        "Responses websocket connection limit reached ({} minutes). Create a new websocket connection to continue.",
        .0.as_secs() / 60
    )]
    SocketMaxAge(Duration),
    #[error("{}", STORE_UNAVAILABLE_TEXT)]
    StoreUnavailable,
    #[error("{}", STORE_DAMAGED_TEXT)]
    StoreDamaged,
    /// A bug or a broken invariant.
    #[error("{}", INTERNAL_TEXT)]
    Internal,
}

fn age_text(age: Duration) -> String {
    match age.as_secs() {
        seconds @ 0..120 => format!("{seconds} seconds"),
        seconds => format!("{} minutes", seconds / 60),
    }
}

fn ended_text(status: Status) -> &'static str {
    match status {
        Status::Completed => "Cannot cancel a completed response.",
        Status::Failed => "Cannot cancel a failed response.",
        Status::Incomplete | Status::Cancelled => "Cannot cancel a response in terminal state.",
    }
}

// === impl RequestError ===

impl RequestError {
    pub fn row(&self) -> ErrorRow {
        let invalid = |code, param| (StatusCode::BAD_REQUEST, Fault::Client, code, param);
        let client = |status, code| (status, Fault::Client, code, None);
        let class = match self {
            Self::Invalid(error) => return ErrorRow::invalid(error.clone()),
            Self::BodyTooLarge { .. } => client(StatusCode::PAYLOAD_TOO_LARGE, Some("request_too_large")),
            Self::BodyUnreadable(_) => invalid(Some("invalid_body"), None),
            Self::BodyTimeout { .. } => client(StatusCode::REQUEST_TIMEOUT, Some("request_timeout")),
            Self::UnsupportedEncoding(_) => {
                client(StatusCode::UNSUPPORTED_MEDIA_TYPE, Some("unsupported_content_encoding"))
            }
            Self::Overloaded(_) | Self::MemoryShort => errors::OVERLOADED,
            Self::InvalidKey => client(StatusCode::UNAUTHORIZED, Some("invalid_api_key")),
            Self::TooManyAttempts(_) => client(StatusCode::TOO_MANY_REQUESTS, Some("rate_limit_exceeded")),
            Self::BadHost => invalid(Some("invalid_host"), None),
            Self::HttpsRequired => invalid(Some("https_required"), None),
            Self::HostNotAllowed(_) => client(StatusCode::FORBIDDEN, Some("host_not_allowed")),
            Self::CrossSite | Self::CrossSiteForm => {
                client(StatusCode::FORBIDDEN, Some("cross_site_request"))
            }
            Self::InvalidQuery { param, .. } => invalid(Some("invalid_value"), Some(*param)),
            Self::ResponseNotFound(_) | Self::ConversationNotFound(_) | Self::ItemNotFound(_) => {
                client(StatusCode::NOT_FOUND, None)
            }
            Self::ConversationLocked => errors::CONVERSATION_LOCKED,
            Self::NoRoom(no_room) => no_room.class(),
            Self::NotInBackground => invalid(None, None),
            Self::HasEnded(_) => invalid(Some("invalid_request_error"), Some("response_id")),
            Self::NotStreamed | Self::NotStreamedInBackground | Self::LogExpired(_) => {
                invalid(Some("invalid_request_error"), Some("stream"))
            }
            Self::ModelNotFound(_) => errors::MODEL_NOT_FOUND,
            Self::UnknownRoute(_) => client(StatusCode::NOT_FOUND, Some("unknown_url")),
            Self::MethodNotAllowed(_) => client(StatusCode::METHOD_NOT_ALLOWED, Some("method_not_allowed")),
            Self::SocketsDisabled => client(StatusCode::UPGRADE_REQUIRED, Some("websocket_disabled")),
            Self::BadHandshake(_) => invalid(Some("invalid_handshake"), None),
            Self::BinaryMessage => invalid(Some("unsupported_message"), None),
            Self::TooManyLanes { .. } => invalid(Some("websocket_stream_limit_reached"), Some("stream_id")),
            Self::SocketMaxAge(_) => invalid(Some("websocket_connection_limit_reached"), None),
            Self::StoreUnavailable => errors::STORE_UNAVAILABLE,
            Self::StoreDamaged => errors::STORE_DAMAGED,
            Self::Internal => errors::INTERNAL,
        };
        let wait = if let Self::TooManyAttempts(wait) = self { Some(*wait) } else { None };
        ErrorRow::new(class, self.to_string()).retry_after(wait)
    }
}

impl From<NoMemory> for RequestError {
    fn from(error: NoMemory) -> Self {
        Self::Overloaded(error)
    }
}

impl From<ApiError> for RequestError {
    fn from(error: ApiError) -> Self {
        Self::Invalid(error)
    }
}

impl From<Denied> for RequestError {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::NoValidKey => Self::InvalidKey,
            Denied::TooManyAttempts(wait) => Self::TooManyAttempts(wait),
            Denied::KeysUnavailable => Self::StoreUnavailable,
        }
    }
}

impl From<ConversationError> for RequestError {
    fn from(error: ConversationError) -> Self {
        match error {
            ConversationError::NotFound(name) => Self::ConversationNotFound(name),
            ConversationError::ItemNotFound(name) => Self::ItemNotFound(name),
            ConversationError::Locked => Self::ConversationLocked,
            ConversationError::NoRoom(no_room) => Self::NoRoom(no_room),
            ConversationError::Invalid(error) => Self::Invalid(error),
            ConversationError::Store(error) => error.into(),
            ConversationError::Internal => Self::Internal,
        }
    }
}

impl From<StoreError> for RequestError {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "store error");
        match StoreFailure::from(&error) {
            StoreFailure::Unavailable => Self::StoreUnavailable,
            StoreFailure::Damaged => Self::StoreDamaged,
            StoreFailure::Internal => Self::Internal,
        }
    }
}
