//! Replies of JSON that is rendered already.

use antiphon_runtime::offload::{is_short, offload};
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderValue, header};

use super::error::RequestError;
use crate::body_memory::Reservation;

/// A long text, and its memory, which is reserved until the client has taken all of it.
struct Long {
    text: Vec<u8>,
    _memory: Reservation,
}

impl AsRef<[u8]> for Long {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

pub fn json_reply(body: impl Into<Body>) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body.into()).into_response()
}

/// Renders JSON of about this size: on another thread if that takes long.
pub async fn rendered_reply(
    size_bytes: usize,
    mut memory: Reservation,
    json: impl FnOnce() -> Result<Vec<u8>, RequestError> + Send + 'static,
) -> Result<Response, RequestError> {
    if is_short(size_bytes) {
        return json().map(json_reply);
    }
    let rendering = offload(move || {
        let text = json()?;
        memory.shrink_to(text.len());
        Ok(Bytes::from_owner(Long { text, _memory: memory }))
    });
    rendering.await.map_err(|_| RequestError::Internal)?.map(json_reply)
}
