//! Replies of JSON that is rendered already.

use antiphon_runtime::offload::offload_if_long;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};

use super::error::RequestError;

pub fn json_reply(body: impl Into<Body>) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body.into()).into_response()
}

/// Renders JSON of about this size: on another thread if that takes long.
pub async fn rendered_reply(
    size_bytes: usize,
    json: impl FnOnce() -> Result<Vec<u8>, RequestError> + Send + 'static,
) -> Result<Response, RequestError> {
    let rendered = offload_if_long(size_bytes, json).await.map_err(|_| RequestError::Internal)?;
    rendered.map(json_reply)
}
