//! Everything that can make a turn fail.

use std::borrow::Cow;
use std::time::Duration;

use antiphon_access::limits::{Exceeded, Rates};
use antiphon_errors::{
    self as errors, CONVERSATION_LOCKED_TEXT, ErrorRow, Fault, INTERNAL_TEXT, STORE_DAMAGED_TEXT,
    STORE_UNAVAILABLE_TEXT, StoreFailure,
};
use antiphon_protocol::error::{ApiError, ErrorKind};
use antiphon_runtime::whole_seconds;
use antiphon_store::StoreError;
use antiphon_upstream::pool::Verdict;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::body_memory::NoMemory;
use crate::conversations::NoRoom;

/// How long a client should wait when the queue of background turns is full.
const QUEUE_RETRY_AFTER: Duration = Duration::from_secs(10);
/// How long it should wait for a response that is still in progress.
const PARENT_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why a turn yields no response. The text is the message that its client gets.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Failure {
    /// All accounts are busy, and the queue is full or the wait was too long.
    #[error("All upstream accounts are busy. Please retry in a moment.")]
    AllBusy,
    /// The machine has no room for another connection to an upstream.
    #[error("The gateway can open no more connections. Please retry in a moment.")]
    NoConnections,
    /// For the items that the input references, or for what is kept of the reply.
    #[error("{0}")]
    Overloaded(NoMemory),
    /// The turn would exceed a limit of the caller's key or project.
    #[error("{0}")]
    LimitReached(Box<Exceeded>),
    /// All accounts are cooling down, at least one of them for a rate limit or a quota. Holds the time until the first is
    /// ready again.
    #[error(
        "All upstream accounts are rate limited or failing. Please retry in {} s.",
        whole_seconds(*.0)
    )]
    AllCoolingDown(Duration),
    /// All accounts are cooling down after failures. Holds the time until the first is ready again.
    #[error("All upstream accounts are failing. Please retry in {} s.", whole_seconds(*.0))]
    AllFailing(Duration),
    #[error("Previous response with id '{0}' not found.")]
    PreviousNotFound(String),
    #[error("Previous response with id '{0}' is still in progress. Wait for it to complete.")]
    PreviousNotCompleted(String),
    /// The project has the most queued background turns.
    #[error(
        "Too many background responses are queued. Please retry in {} s.",
        whole_seconds(QUEUE_RETRY_AFTER)
    )]
    QueueFull,
    #[error(
        "Continuing the previous response would make the chain too large: {size} {what}, the limit is {limit}."
    )]
    ContextTooLarge { what: &'static str, limit: usize, size: usize },
    #[error(
        "The history of the conversation is too large: {size} bytes, the limit is {limit}. Delete items, or continue \
         in another conversation."
    )]
    ConversationTooLarge { limit: usize, size: usize },
    /// The stored items that the input references. Holds their least size in bytes.
    #[error(
        "The items that the input references are too large: at least {size} bytes, the limit is {limit}."
    )]
    InputTooLarge { limit: usize, size: usize },
    #[error("Conversation with id '{0}' not found.")]
    ConversationNotFound(String),
    /// Another turn runs in the conversation.
    #[error("{}", CONVERSATION_LOCKED_TEXT)]
    ConversationLocked,
    /// The conversation, or its project, may not hold more.
    #[error("{0}")]
    NoRoom(NoRoom),
    #[error("This API key may not use the model '{0}'.")]
    ModelNotAllowed(String),
    #[error("Item with id '{0}' not found.")]
    ItemNotFound(String),
    /// `near` asks for models of similar names.
    #[error("The model '{model}' does not exist or you do not have access to it.{near}")]
    ModelNotFound { model: String, near: String },
    /// No account that offers the model has the endpoint.
    #[error("No upstream account has '{path}' for the model '{model}'.")]
    EndpointMissing { path: &'static str, model: String },
    #[error("No upstream account can serve this request.")]
    NoAccount,
    /// Those of the gateway's accounts, not the client's.
    #[error(
        "The upstream refused the credentials of every account that could serve this request. This is for the gateway's \
         operator to correct: the client's key is valid."
    )]
    CredentialsRefused,
    /// No upstream that is left can have what the request asks for. The dialect has written the message.
    #[error("{}", .0.message)]
    Unsupported(Box<ApiError>),
    /// The upstream's own error, passed on unchanged.
    #[error("The upstream replied with status {}.", .0.status.as_u16())]
    UpstreamError(Box<UpstreamErrorReply>),
    /// There is no connection to it.
    #[error("The upstream can't be reached: {0}.")]
    UpstreamUnreachable(Cow<'static, str>),
    #[error("The upstream failed: {0}.")]
    UpstreamFailed(Cow<'static, str>),
    #[error("The upstream timed out: {0}.")]
    UpstreamTimeout(&'static str),
    /// A stream ended before its terminal event.
    #[error("The upstream's stream was interrupted: {0}.")]
    StreamInterrupted(String),
    /// The shutdown timeout was reached before the turn ended.
    #[error("The gateway stopped before the response was complete. Please retry.")]
    Stopped,
    #[error("{}", STORE_UNAVAILABLE_TEXT)]
    StoreUnavailable,
    #[error("{}", STORE_DAMAGED_TEXT)]
    StoreDamaged,
    /// A bug or a broken invariant; the log has the cause.
    #[error("{}", INTERNAL_TEXT)]
    Internal,
    /// The client has left.
    #[error("The client is gone.")]
    ClientGone,
}

/// Why a turn yields no response, and what the client's rate limits have left.
#[derive(Debug, Clone)]
pub struct TurnError {
    pub failure: Failure,
    /// `None` for a caller without limits, and for a turn that failed before they were checked.
    pub rates: Option<Box<Rates>>,
}

/// An upstream's error reply.
#[derive(Debug, Clone)]
pub struct UpstreamErrorReply {
    pub status: StatusCode,
    /// The upstream's headers that a client may see.
    pub headers: HeaderMap,
    pub body: Bytes,
}

// === impl Failure ===

impl Failure {
    pub fn turn_too_long() -> Self {
        Self::StreamInterrupted("the turn exceeded its time limit".to_owned())
    }

    pub fn row(&self) -> ErrorRow {
        use Fault::{Client, Limits, Upstream};
        const PARENT: Option<&str> = Some("previous_response_id");
        let class = match self {
            Self::Unsupported(error) => return ErrorRow::invalid(ApiError::clone(error)),
            Self::AllBusy | Self::NoConnections | Self::Overloaded(_) => errors::OVERLOADED,
            Self::LimitReached(exceeded) if exceeded.rule.is_budget() => {
                (StatusCode::TOO_MANY_REQUESTS, Limits, Some("insufficient_quota"), None)
            }
            Self::LimitReached(_) | Self::QueueFull => {
                (StatusCode::TOO_MANY_REQUESTS, Limits, Some("rate_limit_exceeded"), None)
            }
            Self::AllFailing(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, Upstream, Some("no_account_available"), None)
            }
            Self::AllCoolingDown(_) => {
                (StatusCode::TOO_MANY_REQUESTS, Upstream, Some("rate_limit_exceeded"), None)
            }
            Self::PreviousNotFound(_) => {
                (StatusCode::BAD_REQUEST, Client, Some("previous_response_not_found"), PARENT)
            }
            Self::PreviousNotCompleted(_) => {
                (StatusCode::CONFLICT, Client, Some("previous_response_not_completed"), PARENT)
            }
            Self::ContextTooLarge { .. } => {
                (StatusCode::BAD_REQUEST, Client, Some("context_too_large"), PARENT)
            }
            Self::ConversationTooLarge { .. } => {
                (StatusCode::BAD_REQUEST, Client, Some("context_too_large"), Some("conversation"))
            }
            Self::InputTooLarge { .. } => {
                (StatusCode::BAD_REQUEST, Client, Some("context_too_large"), Some("input"))
            }
            Self::ConversationNotFound(_) => (StatusCode::NOT_FOUND, Client, None, None),
            Self::ConversationLocked => errors::CONVERSATION_LOCKED,
            Self::NoRoom(no_room) => no_room.class(),
            Self::ModelNotAllowed(_) => {
                (StatusCode::FORBIDDEN, Client, Some("model_not_allowed"), Some("model"))
            }
            Self::ItemNotFound(_) => (StatusCode::NOT_FOUND, Client, None, Some("input")),
            Self::ModelNotFound { .. } => errors::MODEL_NOT_FOUND,
            Self::EndpointMissing { .. } => {
                (StatusCode::NOT_FOUND, Client, Some("endpoint_not_available"), None)
            }
            Self::NoAccount | Self::CredentialsRefused => {
                (StatusCode::SERVICE_UNAVAILABLE, Upstream, Some("no_account_available"), None)
            }
            Self::UpstreamError(reply) => (reply.status, reply.fault(), Some("upstream_error"), None),
            Self::UpstreamUnreachable(_) => {
                (StatusCode::BAD_GATEWAY, Upstream, Some("upstream_unreachable"), None)
            }
            Self::UpstreamFailed(_) => (StatusCode::BAD_GATEWAY, Upstream, Some("upstream_failed"), None),
            Self::UpstreamTimeout(_) => {
                (StatusCode::GATEWAY_TIMEOUT, Upstream, Some("upstream_timeout"), None)
            }
            Self::StreamInterrupted(_) => (StatusCode::BAD_GATEWAY, Upstream, Some("server_error"), None),
            Self::Stopped => (StatusCode::SERVICE_UNAVAILABLE, Fault::Gateway, Some("server_error"), None),
            Self::StoreUnavailable => errors::STORE_UNAVAILABLE,
            Self::StoreDamaged => errors::STORE_DAMAGED,
            Self::Internal => errors::INTERNAL,
            Self::ClientGone => (StatusCode::INTERNAL_SERVER_ERROR, Client, Some("internal_error"), None),
        };
        ErrorRow::new(class, self.to_string()).retry_after(self.wait())
    }

    /// How long the client should wait, if that is known.
    fn wait(&self) -> Option<Duration> {
        match self {
            Self::LimitReached(exceeded) => Some(exceeded.retry_after()),
            Self::AllCoolingDown(wait) | Self::AllFailing(wait) => Some(*wait),
            Self::QueueFull => Some(QUEUE_RETRY_AFTER),
            Self::PreviousNotCompleted(_) => Some(PARENT_RETRY_AFTER),
            _ => None,
        }
    }

    /// The error as an object of the API.
    pub fn api_error(&self) -> ApiError {
        self.row().error
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "store error");
        match StoreFailure::from(&error) {
            StoreFailure::Unavailable => Self::StoreUnavailable,
            StoreFailure::Damaged => Self::StoreDamaged,
            StoreFailure::Internal => Self::Internal,
        }
    }
}

// === impl UpstreamErrorReply ===

/// The codes of responses that failed because of their request: on another account it would fail again.
const REQUEST_CODES: [&str; 17] = [
    "invalid_request_error",
    "invalid_prompt",
    "bio_policy",
    "invalid_image",
    "invalid_image_format",
    "invalid_base64_image",
    "invalid_image_url",
    "image_too_large",
    "image_too_small",
    "image_parse_error",
    "image_content_policy_violation",
    "invalid_image_mode",
    "image_file_too_large",
    "unsupported_image_media_type",
    "empty_image_file",
    "failed_to_download_image",
    "image_file_not_found",
];

impl UpstreamErrorReply {
    /// The error reply that stands for an error event at the start of a stream.
    pub fn from_event(verdict: &Verdict, code: String, message: String) -> Self {
        let is_overflow = code == "context_length_exceeded";
        let (status, kind) = match verdict {
            Verdict::RateLimited { .. } | Verdict::TooLarge => {
                (StatusCode::TOO_MANY_REQUESTS, ErrorKind::RateLimit)
            }
            Verdict::OutOfQuota { .. } => (StatusCode::TOO_MANY_REQUESTS, ErrorKind::InsufficientQuota),
            _ if is_overflow || REQUEST_CODES.contains(&&*code) => {
                (StatusCode::BAD_REQUEST, ErrorKind::InvalidRequest)
            }
            _ => (StatusCode::BAD_GATEWAY, ErrorKind::Server),
        };
        let param = is_overflow.then(|| "input".into());
        let error = ApiError { kind, code: Some(code.into()), param, message };
        let mut this = Self { status, headers: HeaderMap::new(), body: Bytes::new() };
        this.replace_body(error.envelope().into());
        this
    }

    /// Limits and quotas are those of the gateway's own accounts: no client can correct them.
    fn fault(&self) -> Fault {
        match self.status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::PAYMENT_REQUIRED => Fault::Upstream,
            status if status.is_client_error() => Fault::Client,
            _ => Fault::Upstream,
        }
    }

    /// Gives it another body, in JSON.
    pub fn replace_body(&mut self, body: Bytes) {
        self.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.body = body;
    }
}
