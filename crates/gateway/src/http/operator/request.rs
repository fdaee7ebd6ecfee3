//! Parses the parameters and bodies of requests to the admin API.

use antiphon_operations::{parse_object, parse_query};
use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts};
use http::Request;
use http::request::Parts;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::body_memory::Tenant;
use crate::http::app_state::AppState;
use crate::http::error::RequestError;
use crate::http::error_reply::ErrorReply;

/// The largest body: enough for any list of models.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// The query parameters of a request.
pub struct Parameters<T>(pub T);

/// The query parameters of a route that has none.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoParameters {}

/// A body that is a JSON object.
pub struct JsonBody<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Parameters<T> {
    type Rejection = ErrorReply;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ErrorReply> {
        Ok(Self(parse_query(parts.uri.query().unwrap_or_default())?))
    }
}

impl<T: DeserializeOwned> FromRequest<AppState> for JsonBody<T> {
    type Rejection = ErrorReply;

    async fn from_request(request: Request<Body>, state: &AppState) -> Result<Self, ErrorReply> {
        let (parts, body) = request.into_parts();
        let share = state.body_limits.memory.share(Tenant::Operators);
        let body = state.body_limits.receive(&parts.headers, body, &share).await?.bytes;
        if body.len() > MAX_BODY_BYTES {
            return Err(RequestError::BodyTooLarge { max_bytes: MAX_BODY_BYTES }.into());
        }
        Ok(Self(parse_object(&body)?))
    }
}
