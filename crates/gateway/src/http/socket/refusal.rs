//! Failures as frames: the counterpart of an HTTP error.

use antiphon_protocol::json;
use antiphon_protocol::socket::{StreamId, error_frame};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};

use crate::turn::{Failure, Rejected, seconds};

/// Renders a failure, for a lane or for the connection.
pub fn render(failure: &Failure, stream_id: Option<&StreamId>) -> Bytes {
    render_with(failure, &headers(failure), stream_id)
}

/// As [`render`], for a turn.
pub fn render_turn(Rejected { failure, rates }: &Rejected, stream_id: Option<&StreamId>) -> Bytes {
    let mut headers = headers(failure);
    if let Some(rates) = rates {
        rates.replace(&mut headers);
    }
    render_with(failure, &headers, stream_id)
}

/// What would be headers over HTTP.
fn headers(failure: &Failure) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Failure::Refused(refusal) = failure {
        headers.clone_from(&refusal.headers);
        headers.remove(header::CONTENT_TYPE);
    } else if let Some(after) = failure.retry_after() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds(after)));
    }
    headers
}

/// The upstream's own error is passed on as it is.
fn render_with(failure: &Failure, headers: &HeaderMap, stream_id: Option<&StreamId>) -> Bytes {
    let upstreams = match failure {
        Failure::Refused(refusal) => upstream_error(&refusal.body),
        _ => None,
    };
    let ours;
    let error = match upstreams {
        Some(error) => error,
        None => {
            ours = failure.api_error().object();
            &ours
        }
    };
    let headers = headers.iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
    error_frame(failure.status().as_u16(), error, stream_id, headers).into()
}

/// The error object in an error reply of the API.
fn upstream_error(body: &[u8]) -> Option<&[u8]> {
    json::validate(body).ok()?;
    json::member(body, "error").filter(|error| error.first() == Some(&b'{'))
}
