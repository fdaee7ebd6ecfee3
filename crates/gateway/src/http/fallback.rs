//! Requests that match no route.

use axum::body::Body;
use http::Request;

use super::error::RequestError;
use super::error_reply::ErrorReply;

pub async fn unknown_route(request: Request<Body>) -> ErrorReply {
    RequestError::UnknownRoute(format!("{} {}", request.method(), request.uri().path())).into()
}

pub async fn method_not_allowed(request: Request<Body>) -> ErrorReply {
    RequestError::MethodNotAllowed(format!("{} {}", request.method(), request.uri().path())).into()
}
