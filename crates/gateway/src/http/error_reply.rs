//! Renders all failures: as an HTTP reply or as a frame of a WebSocket.

#[cfg(test)]
mod tests;

use antiphon_access::limits::Rates;
use antiphon_errors::ErrorRow;
use antiphon_operations::{InvalidRequest, OperationError};
use antiphon_protocol::json;
use antiphon_protocol::socket::{StreamId, error_frame};
use antiphon_runtime::whole_seconds;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::error::RequestError;
use crate::turn::{Failure, TurnError, UpstreamErrorReply};

/// A failure that is to be rendered.
#[derive(Debug)]
pub struct ErrorReply {
    row: ErrorRow,
    /// An upstream's own error, which is passed on unchanged.
    upstream: Option<Box<UpstreamErrorReply>>,
    /// What the client's rate limits have left, if that is known.
    rates: Option<Box<Rates>>,
}

// === impl ErrorReply ===

impl ErrorReply {
    /// The failure as a frame, for a lane or for the connection.
    pub fn frame(&self, stream_id: Option<&StreamId>) -> Bytes {
        let upstream_error = self.upstream.as_ref().and_then(|reply| error_object(&reply.body));
        let error = upstream_error.map_or_else(|| self.row.error.object(), <[u8]>::to_vec);
        let headers = self.headers();
        let texts = headers.iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
        error_frame(self.row.status.as_u16(), &error, stream_id, texts).into()
    }

    /// The headers, except those about the body.
    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(reply) = &self.upstream {
            headers.clone_from(&reply.headers);
            headers.remove(header::CONTENT_TYPE);
        } else if let Some(wait) = self.row.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(whole_seconds(wait)));
        }
        if let Some(rates) = &self.rates {
            rates.replace(&mut headers);
        }
        headers
    }
}

impl IntoResponse for ErrorReply {
    fn into_response(self) -> Response {
        let mut headers = self.headers();
        let (content_type, body) = match self.upstream {
            Some(reply) => (reply.headers.get(header::CONTENT_TYPE).cloned(), reply.body),
            None => {
                if is_last_of_connection(self.row.status) {
                    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                (Some(HeaderValue::from_static("application/json")), self.row.error.envelope().into())
            }
        };
        if let Some(content_type) = content_type {
            headers.insert(header::CONTENT_TYPE, content_type);
        }
        let mut reply = Response::new(body.into());
        *reply.status_mut() = self.row.status;
        *reply.headers_mut() = headers;
        reply
    }
}

impl From<ErrorRow> for ErrorReply {
    fn from(row: ErrorRow) -> Self {
        Self { row, upstream: None, rates: None }
    }
}

impl From<RequestError> for ErrorReply {
    fn from(error: RequestError) -> Self {
        error.row().into()
    }
}

impl From<OperationError> for ErrorReply {
    fn from(error: OperationError) -> Self {
        if let OperationError::Store(error) = &error {
            tracing::error!(%error, "store error");
        }
        error.row().into()
    }
}

impl From<InvalidRequest> for ErrorReply {
    fn from(invalid: InvalidRequest) -> Self {
        OperationError::Invalid(invalid).into()
    }
}

impl From<TurnError> for ErrorReply {
    fn from(TurnError { failure, rates }: TurnError) -> Self {
        let row = failure.row();
        let upstream = if let Failure::UpstreamError(reply) = failure { Some(reply) } else { None };
        Self { row, upstream, rates }
    }
}

/// Whether the rest of the request is never read, or was to be a WebSocket's.
fn is_last_of_connection(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT | StatusCode::UPGRADE_REQUIRED
    )
}

/// The error object of an error reply.
fn error_object(body: &[u8]) -> Option<&[u8]> {
    json::validate(body).ok()?;
    json::member(body, "error").filter(|error| error.first() == Some(&b'{'))
}
