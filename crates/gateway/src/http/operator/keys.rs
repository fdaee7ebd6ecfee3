//! `/api/keys`: the credentials of clients.

use std::time::Duration;

use antiphon_store::StoredKey;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::page::Page;
use super::{Fields, Operator, refuse};
use crate::http::doors::Doors;
use crate::http::error::Refused;
use crate::http::segment::Segment;
use crate::turn::Failure;
use antiphon_access::audit::Actor;
use antiphon_access::keys::{Issuer, KeyError, KeyView, KeyWithSecret, NewKey};
use antiphon_access::limits::{KeyRules, LimitView, Rules};

#[derive(Debug, Serialize, ToSchema)]
pub struct KeyList {
    /// By name.
    keys: Vec<KeyView>,
    has_more: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct LimitList {
    limits: Vec<LimitView>,
}

/// A key that is to be made.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it describes what a request brings, which is read field by field")]
pub struct KeyRequest {
    /// What lists and logs call it; no other key may have it.
    #[schema(pattern = "^[A-Za-z0-9_.-]{1,64}$", example = "laptop")]
    name: String,
    /// The project whose responses it sees. Not given: one of its own.
    #[schema(pattern = "^[A-Za-z0-9_.-]{1,64}$")]
    project: Option<String>,
    /// Patterns of the models that it may use, with `*` for any letters and `?` for one. Not given: every model.
    #[schema(max_items = 100)]
    models: Option<Vec<ModelPattern>>,
    /// When it ends, in RFC 3339 with its zone; to come. Not given: never.
    #[schema(format = DateTime, example = "2030-01-31T18:00:00+01:00")]
    expires_at: Option<String>,
    /// What it may use how much of.
    #[schema(value_type = Option<Object>)]
    limits: Option<Map<String, Value>>,
}

/// A model's name, with `*` for any letters and `?` for one.
#[derive(ToSchema)]
#[schema(pattern = r"^[^\s\u0000-\u001f\u007f-\u009f\[\]{}\\]{1,256}$", example = "gpt-*")]
#[expect(dead_code, reason = "it describes what a request brings, which is read field by field")]
pub struct ModelPattern(String);

#[derive(ToSchema)]
#[expect(dead_code, reason = "it describes what a request brings, which is read field by field")]
pub struct RotateRequest {
    /// For how long the secret of now works too. Not given: not at all.
    #[schema(minimum = 0, maximum = 2_592_000)]
    overlap_seconds: Option<u64>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct DeletedKey {
    id: String,
    name: String,
    deleted: bool,
}

/// Every key, by name; `after` takes a key's `name`.
#[utoipa::path(
    get,
    path = "/api/keys",
    operation_id = "list_keys",
    tag = "keys",
    params(Page),
    responses((status = OK, body = KeyList))
)]
pub async fn list(_: Operator, State(doors): State<Doors>, page: Page) -> Result<Json<KeyList>, Refused> {
    let after = page.after.as_deref().unwrap_or_default();
    let rows = doors.turns.chains.store().list_keys_after(after, page.rows()).await.map_err(Failure::from)?;
    let (keys, has_more) = page.cut(rows);
    Ok(Json(KeyList { keys: keys.iter().map(|key| view(&doors, key)).collect(), has_more }))
}

/// Makes a key. Its secret is in the reply, and nowhere else.
#[utoipa::path(
    post,
    path = "/api/keys",
    operation_id = "create_key",
    tag = "keys",
    request_body = KeyRequest,
    responses((status = CREATED, body = KeyWithSecret))
)]
pub async fn create(
    _: Operator,
    State(doors): State<Doors>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<KeyWithSecret>), Refused> {
    let mut fields = Fields::receive(&doors, &headers, body).await?;
    let new = NewKey {
        name: fields.need("name")?,
        project: fields.take("project")?,
        models: fields.take("models")?.unwrap_or_default(),
        expires_at: fields.take("expires_at")?,
        limits: fields.take("limits")?.unwrap_or_default(),
    };
    fields.end()?;
    let (key, secret) = issuer(&doors).create(new).await.map_err(Failure::from)?;
    take_effect(&doors).await;
    Ok((StatusCode::CREATED, Json(KeyWithSecret::new(view(&doors, &key), &secret))))
}

/// One key.
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
    State(doors): State<Doors>,
    Segment(name): Segment,
) -> Result<Json<KeyView>, Refused> {
    let key = issuer(&doors).find(&name).await.map_err(Failure::from)?;
    Ok(Json(view(&doors, &key)))
}

/// How the limits of a key stand, and those of its project.
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
    State(doors): State<Doors>,
    Segment(name): Segment,
) -> Result<Json<LimitList>, Refused> {
    let key = issuer(&doors).find(&name).await.map_err(Failure::from)?;
    let turns = &doors.turns;
    // A key whose limits can't be read lets nobody in; it must not look as if it had none.
    let written = serde_json::from_str(&key.limits).map_err(|_| Failure::Internal)?;
    let rules = Rules::parse(&written).map_err(|_| Failure::Internal)?;
    let of_key = KeyRules { id: key.id, rules: &rules };
    let limits =
        turns.limits.view(of_key, &key.project, turns.env.clock.now()).await.map_err(Failure::from)?;
    Ok(Json(LimitList { limits }))
}

/// Removes a key and frees its name. What its project has stored stays.
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
    State(doors): State<Doors>,
    Segment(name): Segment,
) -> Result<Json<DeletedKey>, Refused> {
    let key = issuer(&doors).delete(&name).await.map_err(Failure::from)?;
    take_effect(&doors).await;
    Ok(Json(DeletedKey { id: key.id.to_string(), name: key.name, deleted: true }))
}

/// Gives a key another secret, which is in the reply, and nowhere else.
#[utoipa::path(
    post,
    path = "/api/keys/{name}/rotate",
    operation_id = "rotate_key",
    tag = "keys",
    params(("name" = String, Path)),
    request_body = Option<RotateRequest>,
    responses((status = OK, body = KeyWithSecret))
)]
pub async fn rotate(
    _: Operator,
    State(doors): State<Doors>,
    Segment(name): Segment,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<KeyWithSecret>, Refused> {
    let mut fields = Fields::receive(&doors, &headers, body).await?;
    let overlap = Duration::from_secs(fields.take("overlap_seconds")?.unwrap_or_default());
    fields.end()?;
    let (key, secret) = issuer(&doors).rotate(&name, overlap).await.map_err(Failure::from)?;
    take_effect(&doors).await;
    Ok(Json(KeyWithSecret::new(view(&doors, &key), &secret)))
}

/// Ends a key for good. It stays in lists, and its name taken.
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
    State(doors): State<Doors>,
    Segment(name): Segment,
) -> Result<Json<KeyView>, Refused> {
    let key = issuer(&doors).revoke(&name).await.map_err(Failure::from)?;
    take_effect(&doors).await;
    Ok(Json(view(&doors, &key)))
}

fn issuer(doors: &Doors) -> Issuer<'_> {
    let turns = &doors.turns;
    Issuer { store: &**turns.chains.store(), clock: &*turns.env.clock, actor: Actor::AdminApi }
}

fn view(doors: &Doors, key: &StoredKey) -> KeyView {
    KeyView::new(key, doors.turns.env.clock.now())
}

/// Here at once; other replicas hear of it by themselves, and so does this one if it can't now.
async fn take_effect(doors: &Doors) {
    if let Err(error) = doors.keys.refresh(&**doors.turns.chains.store()).await {
        tracing::warn!(%error, "a change of keys takes effect as soon as the store can be read");
    }
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        let message = || {
            let mut text = error.to_string();
            text[..1].make_ascii_uppercase();
            format!("{text}.")
        };
        match &error {
            KeyError::Invalid { param, message } => refuse("invalid_value", Some(param), message.clone()),
            KeyError::NotFound(name) => Self::KeyNotFound(name.clone()),
            KeyError::NameTaken(_) => {
                Self::Conflict { code: "key_exists", param: Some("name"), message: message() }
            }
            KeyError::NotActive { .. } => {
                Self::Conflict { code: "key_not_active", param: None, message: message() }
            }
            KeyError::Store(error) => error.clone().into(),
        }
    }
}
