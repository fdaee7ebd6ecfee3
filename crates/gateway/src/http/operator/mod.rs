//! The admin API, with which operators inspect and change a running gateway.
//!
//! Each function describes its own route. This file is the table of routes, from which the OpenAPI document is built.

mod accounts;
mod audit;
mod conversations;
mod document;
pub mod health;
mod keys;
mod overview;
mod request;
mod responses;
mod sessions;
mod settings;
mod usage;

use antiphon_access::admin::Role;
use antiphon_operations::OperationError;
use axum::Router;
use axum::extract::FromRequestParts;
use http::request::Parts;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::http::app_state::AppState;
use crate::http::auth::{bearer, client_address, count_invalid_admin_token};
use crate::http::error_reply::ErrorReply;

pub fn router() -> Router<AppState> {
    described_routes().into()
}

fn described_routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(document::base_document())
        .routes(routes!(keys::list, keys::create))
        .routes(routes!(keys::get, keys::change, keys::delete))
        .routes(routes!(keys::limits))
        .routes(routes!(keys::clients))
        .routes(routes!(keys::rotate))
        .routes(routes!(keys::revoke))
        .routes(routes!(accounts::list))
        .routes(routes!(accounts::get))
        .routes(routes!(accounts::pause))
        .routes(routes!(accounts::resume))
        .routes(routes!(accounts::test))
        .routes(routes!(usage::get))
        .routes(routes!(audit::list))
        .routes(routes!(conversations::list))
        .routes(routes!(conversations::turns))
        .routes(routes!(overview::get))
        .routes(routes!(overview::accounts))
        .routes(routes!(overview::live))
        .routes(routes!(overview::log))
        .routes(routes!(responses::get))
        .routes(routes!(responses::chain))
        .routes(routes!(responses::background))
        .routes(routes!(settings::config))
        .routes(routes!(settings::store))
        .routes(routes!(sessions::list, sessions::end_all))
        .routes(routes!(sessions::end))
        .routes(routes!(sessions::tokens))
        .routes(routes!(sessions::replace_viewer_token))
        .routes(routes!(document::get))
}

/// Proof that the caller has an admin token: a handler that takes it serves only operators. A viewer only gets as far as a
/// handler that changes nothing.
pub struct Operator {
    pub role: Role,
}

impl FromRequestParts<AppState> for Operator {
    type Rejection = ErrorReply;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ErrorReply> {
        let token = bearer(&parts.headers).and_then(|token| str::from_utf8(token).ok());
        let error = match state.operations.authenticate(token).await {
            Ok(Role::Viewer) if !parts.method.is_safe() => OperationError::ReadOnly,
            Ok(role) => return Ok(Self { role }),
            Err(error) => error,
        };
        if matches!(error, OperationError::InvalidAdminToken) {
            count_invalid_admin_token(state, client_address(&parts.extensions))?;
        }
        Err(error.into())
    }
}
