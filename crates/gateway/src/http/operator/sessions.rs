//! `/api/sessions` and `/api/tokens`.

use std::sync::Arc;

use antiphon_access::admin::Role;
use antiphon_access::audit::Actor;
use antiphon_operations::{EndedSession, IssuedToken, Operations, SessionList, TokenList};
use axum::Json;
use axum::extract::State;

use super::Operator;
use super::request::{NoParameters, Parameters};
use crate::http::error_reply::ErrorReply;
use crate::http::path_segment::PathSegment;

/// List the sessions in the dashboard, newest first.
#[utoipa::path(
    get,
    path = "/api/sessions",
    operation_id = "list_sessions",
    tag = "sessions",
    responses((status = OK, body = SessionList))
)]
pub async fn list(
    _: Operator,
    _: Parameters<NoParameters>,
    State(operations): State<Arc<Operations>>,
) -> Result<Json<SessionList>, ErrorReply> {
    Ok(Json(operations.list_sessions().await?))
}

/// End all sessions in the dashboard.
#[utoipa::path(
    delete,
    path = "/api/sessions",
    operation_id = "end_sessions",
    tag = "sessions",
    responses((status = OK, body = SessionList))
)]
pub async fn end_all(
    _: Operator,
    _: Parameters<NoParameters>,
    State(operations): State<Arc<Operations>>,
) -> Result<Json<SessionList>, ErrorReply> {
    Ok(Json(operations.end_all_sessions(Actor::AdminApi).await?))
}

/// End a session in the dashboard.
#[utoipa::path(
    delete,
    path = "/api/sessions/{id}",
    operation_id = "end_session",
    tag = "sessions",
    params(("id" = String, Path)),
    responses((status = OK, body = EndedSession))
)]
pub async fn end(
    _: Operator,
    _: Parameters<NoParameters>,
    State(operations): State<Arc<Operations>>,
    PathSegment(id): PathSegment,
) -> Result<Json<EndedSession>, ErrorReply> {
    Ok(Json(operations.end_session(&id, Actor::AdminApi).await?))
}

/// List the admin tokens, without the tokens themselves.
#[utoipa::path(
    get,
    path = "/api/tokens",
    operation_id = "list_tokens",
    tag = "sessions",
    responses((status = OK, body = TokenList))
)]
pub async fn tokens(
    _: Operator,
    _: Parameters<NoParameters>,
    State(operations): State<Arc<Operations>>,
) -> Result<Json<TokenList>, ErrorReply> {
    Ok(Json(operations.list_admin_tokens().await?))
}

/// Replace the viewer's token, or create the first. Only this reply contains it.
#[utoipa::path(
    post,
    path = "/api/tokens/viewer",
    operation_id = "replace_viewer_token",
    tag = "sessions",
    responses((status = OK, body = IssuedToken))
)]
pub async fn replace_viewer_token(
    _: Operator,
    _: Parameters<NoParameters>,
    State(operations): State<Arc<Operations>>,
) -> Result<Json<IssuedToken>, ErrorReply> {
    Ok(Json(operations.replace_admin_token(Role::Viewer, Actor::AdminApi).await?))
}
