//! The part of an address that names something.

use axum::extract::{FromRequestParts, Path};
use http::request::Parts;

use super::error::Refused;
use crate::turn::Failure;

/// What the address says in the one place that is free in its route. One that is no text names nothing.
pub struct Segment(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(text)) => Ok(Self(text)),
            Err(_) => Err(Failure::UnknownRoute(format!("{} {}", parts.method, parts.uri.path())).into()),
        }
    }
}
