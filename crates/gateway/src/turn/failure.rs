//! Everything that can keep a turn from succeeding.

use std::borrow::Cow;
use std::time::Duration;

use antiphon_access::limits::{Exceeded, Rates};
use antiphon_protocol::error::{ApiError, ErrorKind};
use antiphon_runtime::whole_seconds;
use antiphon_store::StoreError;
use antiphon_upstream::pool::Verdict;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::errors::{
    self, ErrorRow, Fault, INTERNAL_TEXT, STORE_DAMAGED_TEXT, STORE_UNAVAILABLE_TEXT, StoreFailure,
};

/// Why a turn yields no response, in the words that its client gets.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Failure {
    /// Every account has as many turns as it may, and so has the queue, or the wait was too long.
    #[error("Every upstream account has as many requests as it may. Please retry in a moment.")]
    Busy,
    /// A limit of the caller's key or project is in the way.
    #[error("{0}")]
    LimitReached(Box<Exceeded>),
    /// Every account is cooling down, the first for so long, and one of them for a rate limit or a quota.
    #[error(
        "Every upstream account is rate limited or failing. Please retry in {} s.",
        whole_seconds(*.0)
    )]
    Cooling(Duration),
    /// Every account is cooling down after failures, the first for so long.
    #[error("Every upstream account is failing. Please retry in {} s.", whole_seconds(*.0))]
    AllFailing(Duration),
    #[error("Previous response with id '{0}' not found.")]
    PreviousNotFound(String),
    #[error("Previous response with id '{0}' is still in progress. Wait for it to complete.")]
    PreviousNotCompleted(String),
    #[error("The history of the previous response is too large: {size} {what}, and the limit is {limit}.")]
    ContextTooLarge { what: &'static str, limit: usize, size: usize },
    #[error("Conversation with id '{0}' not found.")]
    ConversationNotFound(String),
    /// The key is not for this model.
    #[error("This API key may not use the model '{0}'.")]
    ModelNotAllowed(String),
    #[error("Item with id '{0}' not found.")]
    ItemNotFound(String),
    #[error("The model '{0}' does not exist or you do not have access to it.")]
    ModelNotFound(String),
    #[error("No upstream account can serve this request now.")]
    NoAccount,
    /// The upstream's own answer, passed on as it is.
    #[error("The upstream answered {}.", .0.status.as_u16())]
    UpstreamError(Box<UpstreamErrorReply>),
    #[error("The upstream can't be reached: {0}.")]
    UpstreamUnreachable(Cow<'static, str>),
    #[error("The upstream timed out: {0}.")]
    UpstreamTimeout(&'static str),
    /// The upstream did not bring a stream to its end that had begun.
    #[error("The upstream's stream broke off: {0}.")]
    StreamBroken(String),
    #[error("{}", STORE_UNAVAILABLE_TEXT)]
    StoreUnavailable,
    #[error("{}", STORE_DAMAGED_TEXT)]
    StoreDamaged,
    /// Something that must not happen; the cause is in the log.
    #[error("{}", INTERNAL_TEXT)]
    Internal,
    /// Nobody is there to be told.
    #[error("The client is gone.")]
    ClientGone,
}

/// Why a turn yields no response, with what its client may still ask for.
#[derive(Debug, Clone)]
pub struct TurnError {
    pub failure: Failure,
    /// `None` for a caller without limits, and for a turn that came to an end before they were looked at.
    pub rates: Option<Box<Rates>>,
}

/// An upstream's error reply.
#[derive(Debug, Clone)]
pub struct UpstreamErrorReply {
    pub status: StatusCode,
    /// Those of the upstream's headers that a client may see.
    pub headers: HeaderMap,
    pub body: Bytes,
}

// === impl Failure ===

impl Failure {
    pub fn row(&self) -> ErrorRow {
        use Fault::{Client, Limits, Upstream};
        const PARENT: Option<&str> = Some("previous_response_id");
        let class = match self {
            Self::Busy => errors::OVERLOADED,
            Self::LimitReached(exceeded) if exceeded.rule.is_budget() => {
                (StatusCode::TOO_MANY_REQUESTS, Limits, Some("insufficient_quota"), None)
            }
            Self::LimitReached(_) => {
                (StatusCode::TOO_MANY_REQUESTS, Limits, Some("rate_limit_exceeded"), None)
            }
            Self::AllFailing(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, Upstream, Some("no_account_available"), None)
            }
            Self::Cooling(_) => (StatusCode::TOO_MANY_REQUESTS, Upstream, Some("rate_limit_exceeded"), None),
            Self::PreviousNotFound(_) => {
                (StatusCode::BAD_REQUEST, Client, Some("previous_response_not_found"), PARENT)
            }
            Self::PreviousNotCompleted(_) => {
                (StatusCode::BAD_REQUEST, Client, Some("previous_response_not_completed"), PARENT)
            }
            Self::ContextTooLarge { .. } => {
                (StatusCode::BAD_REQUEST, Client, Some("context_too_large"), PARENT)
            }
            Self::ConversationNotFound(_) => (StatusCode::NOT_FOUND, Client, None, None),
            Self::ModelNotAllowed(_) => {
                (StatusCode::FORBIDDEN, Client, Some("model_not_allowed"), Some("model"))
            }
            Self::ItemNotFound(_) => (StatusCode::NOT_FOUND, Client, None, Some("input")),
            Self::ModelNotFound(_) => errors::MODEL_NOT_FOUND,
            Self::NoAccount => {
                (StatusCode::SERVICE_UNAVAILABLE, Upstream, Some("no_account_available"), None)
            }
            Self::UpstreamError(reply) => {
                let fault = if reply.status.is_client_error() { Client } else { Upstream };
                (reply.status, fault, Some("upstream_error"), None)
            }
            Self::UpstreamUnreachable(_) => {
                (StatusCode::BAD_GATEWAY, Upstream, Some("upstream_unreachable"), None)
            }
            Self::UpstreamTimeout(_) => {
                (StatusCode::GATEWAY_TIMEOUT, Upstream, Some("upstream_timeout"), None)
            }
            Self::StreamBroken(_) => (StatusCode::BAD_GATEWAY, Upstream, Some("server_error"), None),
            Self::StoreUnavailable => errors::STORE_UNAVAILABLE,
            Self::StoreDamaged => errors::STORE_DAMAGED,
            Self::Internal => errors::INTERNAL,
            Self::ClientGone => (StatusCode::INTERNAL_SERVER_ERROR, Client, Some("internal_error"), None),
        };
        ErrorRow::new(class, self.to_string()).retry_after(self.rest())
    }

    /// How long what is in the way lasts, if that is known.
    fn rest(&self) -> Option<Duration> {
        match self {
            Self::LimitReached(exceeded) => Some(exceeded.retry_after()),
            Self::Cooling(rest) | Self::AllFailing(rest) => Some(*rest),
            _ => None,
        }
    }

    /// The error as the API words it.
    pub fn api_error(&self) -> ApiError {
        self.row().error
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "the store failed");
        match StoreFailure::from(&error) {
            StoreFailure::Unavailable => Self::StoreUnavailable,
            StoreFailure::Damaged => Self::StoreDamaged,
            StoreFailure::Internal => Self::Internal,
        }
    }
}

// === impl UpstreamErrorReply ===

impl UpstreamErrorReply {
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
