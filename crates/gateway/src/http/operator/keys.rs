//! `/api/keys`.

use std::sync::Arc;

use antiphon_access::audit::Actor;
use antiphon_access::keys::{KeyChanges, KeyView, KeyWithSecret, NewKey};
use antiphon_operations::{DeletedKey, KeyClientList, KeyList, LimitList, Operations, Page, RotateRequest};
use axum::Json;
use axum::extract::State;
use http::StatusCode;

use super::Operator;
use super::request::{JsonBody, NoParameters, Parameters};
use crate::http::error_reply::ErrorReply;
use crate::http::path_segment::PathSegment;

/// List keys, sorted by name. `after` is a key's `name`.
#[utoipa::path(
    get,
    path = "/api/keys",
    operation_id = "list_keys",
    tag = "keys",
    params(Page),
    responses((status = OK, body = KeyList))
)]
pub async fn list(
    _: Operator,
    State(operations): State<Arc<Operations>>,
    Parameters(page): Parameters<Page>,
) -> Result<Json<KeyList>, ErrorReply> {
    Ok(Json(operations.list_keys(&page).await?))
}

/// Create a key. Only this reply contains its secret.
#[utoipa::path(
    post,
    path = "/api/keys",
    operation_id = "create_key",
    tag = "keys",
    request_body(content = NewKey, description = "At most 64 KiB"),
    responses((status = CREATED, body = KeyWithSecret))
)]
pub async fn create(
    _: Operator,
    _: Parameters<NoParameters>,
    State(operations): State<Arc<Operations>>,
    JsonBody(new): JsonBody<NewKey>,
) -> Result<(StatusCode, Json<KeyWithSecret>), ErrorReply> {
    Ok((StatusCode::CREATED, Json(operations.create_key(new, Actor::AdminApi).await?)))
}

/// Get a key.
#[utoipa::path(
    get,
    path = "/api/keys/{name}",
    operation_id = "get_key",
    tag = "keys",
    params(("name" = String, Path)),
    responses((status = OK, body = KeyView))
)]
pub async fn get(
    _: Operator,
    _: Parameters<NoParameters>,
    State(operations): State<Arc<Operations>>,
    PathSegment(name): PathSegment,
) -> Result<Json<KeyView>, ErrorReply> {
    Ok(Json(operations.key(&name).await?))
}

/// Get the state of the limits of a key and its project.
#[utoipa::path(
    get,
    path = "/api/keys/{name}/limits",
    operation_id = "get_key_limits",
    tag = "keys",
    params(("name" = String, Path)),
    responses((status = OK, body = LimitList))
)]
pub async fn limits(
    _: Operator,
    _: Parameters<NoParameters>,
    State(operations): State<Arc<Operations>>,
    PathSegment(name): PathSegment,
) -> Result<Json<LimitList>, ErrorReply> {
    Ok(Json(operations.key_limits(&name).await?))
}

/// List the clients that use a key, by the name that they give themselves.
#[utoipa::path(
    get,
    path = "/api/keys/{name}/clients",
    operation_id = "list_key_clients",
    tag = "keys",
    params(("name" = String, Path)),
    responses((status = OK, body = KeyClientList))
)]
pub async fn clients(
    _: Operator,
    _: Parameters<NoParameters>,
    State(operations): State<Arc<Operations>>,
    PathSegment(name): PathSegment,
) -> Result<Json<KeyClientList>, ErrorReply> {
    Ok(Json(operations.key_clients(&name).await?))
}

/// Change what a key allows, and until when. It applies at once; other replicas notice it within two seconds.
#[utoipa::path(
    patch,
    path = "/api/keys/{name}",
    operation_id = "change_key",
    tag = "keys",
    params(("name" = String, Path)),
    request_body(content = KeyChanges, description = "At most 64 KiB"),
    responses((status = OK, body = KeyView))
)]
pub async fn change(
    _: Operator,
    _: Parameters<NoParameters>,
    State(operations): State<Arc<Operations>>,
    PathSegment(name): PathSegment,
    JsonBody(changes): JsonBody<KeyChanges>,
) -> Result<Json<KeyView>, ErrorReply> {
    Ok(Json(operations.change_key(&name, changes, Actor::AdminApi).await?))
}

/// Delete a key and free its name. The responses of its project stay.
#[utoipa::path(
    delete,
    path = "/api/keys/{name}",
    operation_id = "delete_key",
    tag = "keys",
    params(("name" = String, Path)),
    responses((status = OK, body = DeletedKey))
)]
pub async fn delete(
    _: Operator,
    _: Parameters<NoParameters>,
    State(operations): State<Arc<Operations>>,
    PathSegment(name): PathSegment,
) -> Result<Json<DeletedKey>, ErrorReply> {
    Ok(Json(operations.delete_key(&name, Actor::AdminApi).await?))
}

/// Replace the secret of a key. Only this reply contains the new secret.
#[utoipa::path(
    post,
    path = "/api/keys/{name}/rotate",
    operation_id = "rotate_key",
    tag = "keys",
    params(("name" = String, Path)),
    request_body(content = Option<RotateRequest>, description = "At most 64 KiB"),
    responses((status = OK, body = KeyWithSecret))
)]
pub async fn rotate(
    _: Operator,
    _: Parameters<NoParameters>,
    State(operations): State<Arc<Operations>>,
    PathSegment(name): PathSegment,
    JsonBody(request): JsonBody<RotateRequest>,
) -> Result<Json<KeyWithSecret>, ErrorReply> {
    Ok(Json(operations.rotate_key(&name, request.overlap(), Actor::AdminApi).await?))
}

/// Revoke a key permanently. It stays in lists and keeps its name.
#[utoipa::path(
    post,
    path = "/api/keys/{name}/revoke",
    operation_id = "revoke_key",
    tag = "keys",
    params(("name" = String, Path)),
    responses((status = OK, body = KeyView))
)]
pub async fn revoke(
    _: Operator,
    _: Parameters<NoParameters>,
    State(operations): State<Arc<Operations>>,
    PathSegment(name): PathSegment,
) -> Result<Json<KeyView>, ErrorReply> {
    Ok(Json(operations.revoke_key(&name, Actor::AdminApi).await?))
}
