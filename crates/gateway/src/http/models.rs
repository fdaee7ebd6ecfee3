//! GET `/v1/models`: what the accounts offer together.

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderValue, header};

use super::Doors;
use super::error::Refused;
use crate::pool::ModelList;
use crate::turn::Failure;

pub async fn list(State(doors): State<Doors>) -> Response {
    json_reply(current(&doors).await.to_json().into())
}

pub async fn get(State(doors): State<Doors>, Path(id): Path<String>) -> Result<Response, Refused> {
    let models = current(&doors).await;
    let model = models.find(&id).ok_or_else(|| Failure::ModelNotFound(id.clone()))?;
    Ok(json_reply(model.object.clone()))
}

async fn current(doors: &Doors) -> ModelList {
    let turns = &doors.turns;
    turns.pool.refresh_catalogs(&turns.upstream, turns.clock.now()).await;
    turns.pool.models()
}

fn json_reply(body: Bytes) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
}
