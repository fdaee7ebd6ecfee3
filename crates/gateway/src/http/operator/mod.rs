//! The admin API: what an operator can see and change while the gateway runs. Errors are as everywhere else.
//!
//! Each function says what its route is, takes and gives; the table of routes is here, and becomes the OpenAPI document that
//! the server itself serves.

mod accounts;
mod audit;
mod document;
pub mod health;
mod keys;
mod request;
mod usage;

use axum::Router;
use axum::extract::FromRequestParts;
use http::request::Parts;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::http::auth::{address, bearer};
use crate::http::doors::Doors;
use crate::http::error::RequestError;
use crate::http::error_reply::ErrorReply;
use crate::operations::OperationError;

pub fn router() -> Router<Doors> {
    described_routes().into()
}

fn described_routes() -> OpenApiRouter<Doors> {
    OpenApiRouter::with_openapi(document::frame())
        .routes(routes!(keys::list, keys::create))
        .routes(routes!(keys::get, keys::delete))
        .routes(routes!(keys::limits))
        .routes(routes!(keys::rotate))
        .routes(routes!(keys::revoke))
        .routes(routes!(accounts::list))
        .routes(routes!(accounts::get))
        .routes(routes!(accounts::pause))
        .routes(routes!(accounts::resume))
        .routes(routes!(accounts::test))
        .routes(routes!(usage::get))
        .routes(routes!(audit::list))
        .routes(routes!(document::get))
}

/// Proof that the caller has the admin token: a door that takes this is open to operators alone.
pub struct Operator;

impl FromRequestParts<Doors> for Operator {
    type Rejection = ErrorReply;

    async fn from_request_parts(parts: &mut Parts, doors: &Doors) -> Result<Self, ErrorReply> {
        let token = bearer(&parts.headers).and_then(|token| str::from_utf8(token).ok());
        let Err(error) = doors.operations.authenticate(token).await else { return Ok(Self) };
        if matches!(error, OperationError::InvalidAdminToken) {
            doors.keys.count_failure(address(&parts.extensions)).map_err(RequestError::from)?;
        }
        Err(error.into())
    }
}
