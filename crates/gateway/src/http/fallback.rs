//! Requests that no route takes.

use axum::body::Body;
use http::Request;

use super::error::RequestError;
use super::error_reply::ErrorReply;

pub async fn unknown_route(request: Request<Body>) -> ErrorReply {
    RequestError::UnknownRoute(format!("{} {}", request.method(), request.uri().path())).into()
}

pub async fn wrong_method(request: Request<Body>) -> ErrorReply {
    RequestError::MethodNotAllowed(format!("{} {}", request.method(), request.uri().path())).into()
}
