//! The variable segments of a path.

use axum::extract::{FromRequestParts, Path};
use http::request::Parts;

use super::error::RequestError;
use super::error_reply::ErrorReply;

/// The variable segment of a route. One that is not valid UTF-8 names nothing: the reply is 404.
pub struct PathSegment(pub String);

/// The two variable segments of a route.
pub struct PathSegments(pub String, pub String);

impl<S: Send + Sync> FromRequestParts<S> for PathSegment {
    type Rejection = ErrorReply;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ErrorReply> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(text)) => Ok(Self(text)),
            Err(_) => Err(unknown(parts)),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for PathSegments {
    type Rejection = ErrorReply;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ErrorReply> {
        match Path::<(String, String)>::from_request_parts(parts, state).await {
            Ok(Path((first, second))) => Ok(Self(first, second)),
            Err(_) => Err(unknown(parts)),
        }
    }
}

fn unknown(parts: &Parts) -> ErrorReply {
    RequestError::UnknownRoute(format!("{} {}", parts.method, parts.uri.path())).into()
}
