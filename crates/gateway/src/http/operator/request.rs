//! What a request to the admin API brings, read into the structs that describe it.

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts};
use http::Request;
use http::request::Parts;
use serde::de::DeserializeOwned;

use crate::http::doors::Doors;
use crate::http::error::RequestError;
use crate::http::error_reply::ErrorReply;
use crate::operations::{parse_object, parse_query};

/// What a request may bring: nobody names that many models.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// The parameters of an address.
pub struct Parameters<T>(pub T);

/// A body, which is a JSON object.
pub struct JsonBody<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Parameters<T> {
    type Rejection = ErrorReply;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ErrorReply> {
        Ok(Self(parse_query(parts.uri.query().unwrap_or_default())?))
    }
}

impl<T: DeserializeOwned> FromRequest<Doors> for JsonBody<T> {
    type Rejection = ErrorReply;

    async fn from_request(request: Request<Body>, doors: &Doors) -> Result<Self, ErrorReply> {
        let (parts, body) = request.into_parts();
        let body = doors.body_limits.receive(&parts.headers, body).await?.bytes;
        if body.len() > MAX_BODY_BYTES {
            return Err(RequestError::BodyTooLarge { max_bytes: MAX_BODY_BYTES }.into());
        }
        Ok(Self(parse_object(&body)?))
    }
}
