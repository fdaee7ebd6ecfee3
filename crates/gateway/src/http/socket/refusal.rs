//! Failures as frames: the counterpart of an HTTP error.

use antiphon_protocol::json;
use antiphon_protocol::socket::{StreamId, error_frame};
use bytes::Bytes;
use http::header;

use crate::turn::{Failure, seconds};

/// Renders a failure, for a lane or for the connection. The upstream's own error is passed on as it is.
pub fn render(failure: &Failure, stream_id: Option<&StreamId>) -> Bytes {
    let status = failure.status().as_u16();
    if let Failure::Refused(refusal) = failure {
        let headers = refusal.headers.iter().filter(|(name, _)| *name != header::CONTENT_TYPE);
        let headers = headers.filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
        let ours;
        let error = match upstream_error(&refusal.body) {
            Some(error) => error,
            None => {
                ours = failure.api_error().object();
                &ours
            }
        };
        return error_frame(status, error, stream_id, headers).into();
    }
    let after = failure.retry_after().map(|after| seconds(after).to_string());
    let headers = after.iter().map(|after| ("retry-after", after.as_str()));
    error_frame(status, &failure.api_error().object(), stream_id, headers).into()
}

/// The error object in an error reply of the API.
fn upstream_error(body: &[u8]) -> Option<&[u8]> {
    json::validate(body).ok()?;
    json::member(body, "error").filter(|error| error.first() == Some(&b'{'))
}
