//! Replies of JSON that is rendered already.

use antiphon_runtime::offload::{is_short, offload};
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};

use super::error::RequestError;
use crate::body_memory::Reservation;

pub fn json_reply(body: impl Into<Body>) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body.into()).into_response()
}

/// Renders JSON of about this size: on another thread if that takes long. Its memory stays reserved until the client has it.
pub async fn rendered_reply(
    size_bytes: usize,
    memory: Reservation,
    json: impl FnOnce() -> Result<Vec<u8>, RequestError> + Send + 'static,
) -> Result<Response, RequestError> {
    if is_short(size_bytes) {
        return json().map(json_reply);
    }
    let rendering = offload(move || Ok(memory.hold(json()?.into())));
    rendering.await.map_err(|_| RequestError::Internal)?.map(json_reply)
}
