//! Requests that no route takes.

use axum::body::Body;
use http::{Request, StatusCode};

use super::error::Refused;
use crate::turn::Failure;

pub async fn unknown_route(request: Request<Body>) -> Refused {
    Failure::UnknownRoute(format!("{} {}", request.method(), request.uri().path())).into()
}

pub async fn wrong_method(request: Request<Body>) -> (StatusCode, Refused) {
    let failure = Failure::MethodNotAllowed(format!("{} {}", request.method(), request.uri().path()));
    (failure.status(), failure.into())
}
