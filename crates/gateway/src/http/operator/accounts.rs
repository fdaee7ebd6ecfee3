//! `/api/accounts`.

use std::sync::Arc;

use antiphon_access::audit::Actor;
use antiphon_operations::{Account, AccountList, AskModel, Operations, Page, TestedAccount};
use axum::Json;
use axum::extract::State;

use super::Operator;
use super::request::{NoParameters, Parameters};
use crate::http::error_reply::ErrorReply;
use crate::http::path_segment::PathSegment;

/// List accounts. `after` is an account's `name`.
#[utoipa::path(
    get,
    path = "/api/accounts",
    operation_id = "list_accounts",
    tag = "accounts",
    params(Page),
    responses((status = OK, body = AccountList))
)]
pub async fn list(
    _: Operator,
    State(operations): State<Arc<Operations>>,
    Parameters(page): Parameters<Page>,
) -> Result<Json<AccountList>, ErrorReply> {
    Ok(Json(operations.list_accounts(&page)?))
}

/// Get an account.
#[utoipa::path(
    get,
    path = "/api/accounts/{name}",
    operation_id = "get_account",
    tag = "accounts",
    params(("name" = String, Path)),
    responses((status = OK, body = Account))
)]
pub async fn get(
    _: Operator,
    _: Parameters<NoParameters>,
    State(operations): State<Arc<Operations>>,
    PathSegment(name): PathSegment,
) -> Result<Json<Account>, ErrorReply> {
    Ok(Json(operations.account(&name)?))
}

/// Pause an account: it gets no new turns; running turns continue.
#[utoipa::path(
    post,
    path = "/api/accounts/{name}/pause",
    operation_id = "pause_account",
    tag = "accounts",
    params(("name" = String, Path)),
    responses((status = OK, body = Account))
)]
pub async fn pause(
    _: Operator,
    _: Parameters<NoParameters>,
    State(operations): State<Arc<Operations>>,
    PathSegment(name): PathSegment,
) -> Result<Json<Account>, ErrorReply> {
    Ok(Json(operations.pause_account(&name, Actor::AdminApi).await?))
}

/// Resume an account: ends a pause, a cooldown or a disabled state.
#[utoipa::path(
    post,
    path = "/api/accounts/{name}/resume",
    operation_id = "resume_account",
    tag = "accounts",
    params(("name" = String, Path)),
    responses((status = OK, body = Account))
)]
pub async fn resume(
    _: Operator,
    _: Parameters<NoParameters>,
    State(operations): State<Arc<Operations>>,
    PathSegment(name): PathSegment,
) -> Result<Json<Account>, ErrorReply> {
    Ok(Json(operations.resume_account(&name, Actor::AdminApi).await?))
}

/// Test an account by listing its upstream's models with its own credential.
#[utoipa::path(
    post,
    path = "/api/accounts/{name}/test",
    operation_id = "test_account",
    tag = "accounts",
    params(("name" = String, Path)),
    responses((status = OK, body = TestedAccount))
)]
pub async fn test(
    _: Operator,
    _: Parameters<NoParameters>,
    State(operations): State<Arc<Operations>>,
    PathSegment(name): PathSegment,
) -> Result<Json<TestedAccount>, ErrorReply> {
    Ok(Json(operations.probe_account(&name, AskModel::None).await?))
}
