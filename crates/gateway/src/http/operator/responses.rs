//! `/api/responses` and `/api/background`.

use std::sync::Arc;

use antiphon_access::admin::Role;
use antiphon_access::audit::Actor;
use antiphon_operations::{
    BackgroundList, BackgroundParameters, Bodies, Chain, ChainParameters, OperationError, Operations,
    ResponseDetail, ResponseParameters,
};
use axum::Json;
use axum::extract::State;
use axum::response::Response;

use super::Operator;
use super::request::Parameters;
use crate::body_memory::Tenant;
use crate::http::app_state::AppState;
use crate::http::error::RequestError;
use crate::http::error_reply::ErrorReply;
use crate::http::json_reply::rendered_reply;
use crate::http::path_segment::PathSegment;

/// Get a response of any project. `bodies` is for admins only, and in the audit log.
#[utoipa::path(
    get,
    path = "/api/responses/{id}",
    operation_id = "get_response",
    tag = "responses",
    params(("id" = String, Path), ResponseParameters),
    responses((status = OK, body = ResponseDetail))
)]
pub async fn get(
    operator: Operator,
    State(state): State<AppState>,
    PathSegment(id): PathSegment,
    Parameters(parameters): Parameters<ResponseParameters>,
) -> Result<Response, ErrorReply> {
    let detail = match parameters.bodies {
        true if operator.role != Role::Admin => return Err(OperationError::ReadOnly.into()),
        true => state.operations.response_with_bodies(&id, Actor::AdminApi).await?,
        false => state.operations.response(&id).await?,
    };
    let size_bytes = detail.bodies.as_ref().map_or(0, Bodies::size_bytes);
    let json = move || serde_json::to_vec(&detail).map_err(|_| RequestError::Internal);
    let share = state.body_limits.memory.share(Tenant::Operators);
    let memory = state.body_limits.hold(&share, size_bytes).await?;
    Ok(rendered_reply(size_bytes, memory, json).await?)
}

/// Get the chain of a response, from its root to a leaf, with its branches.
#[utoipa::path(
    get,
    path = "/api/responses/{id}/chain",
    operation_id = "get_chain",
    tag = "responses",
    params(("id" = String, Path), ChainParameters),
    responses((status = OK, body = Chain))
)]
pub async fn chain(
    _: Operator,
    State(operations): State<Arc<Operations>>,
    PathSegment(id): PathSegment,
    Parameters(parameters): Parameters<ChainParameters>,
) -> Result<Json<Chain>, ErrorReply> {
    Ok(Json(operations.chain(&id, &parameters).await?))
}

/// List background turns, newest first.
#[utoipa::path(
    get,
    path = "/api/background",
    operation_id = "list_background",
    tag = "responses",
    params(BackgroundParameters),
    responses((status = OK, body = BackgroundList))
)]
pub async fn background(
    _: Operator,
    State(operations): State<Arc<Operations>>,
    Parameters(parameters): Parameters<BackgroundParameters>,
) -> Result<Json<BackgroundList>, ErrorReply> {
    Ok(Json(operations.list_background(&parameters).await?))
}
