//! The variable segment of a path.

use axum::extract::{FromRequestParts, Path};
use http::request::Parts;

use super::error::RequestError;
use super::error_reply::ErrorReply;

/// The variable segment of a route. One that is not valid UTF-8 names nothing: the reply is 404.
pub struct PathSegment(pub String);

impl<S: Send + Sync> FromRequestParts<S> for PathSegment {
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
