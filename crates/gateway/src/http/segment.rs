//! The part of an address that names something.

use axum::extract::{FromRequestParts, Path};
use http::request::Parts;

use super::error::RequestError;
use super::error_reply::ErrorReply;

/// What the address says in the one place that is free in its route. One that is no text names nothing.
pub struct Segment(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = ErrorReply;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ErrorReply> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(text)) => Ok(Self(text)),
            Err(_) => {
                Err(RequestError::UnknownRoute(format!("{} {}", parts.method, parts.uri.path())).into())
            }
        }
    }
}
