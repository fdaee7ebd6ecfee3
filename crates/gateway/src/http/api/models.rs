//! GET `/v1/models`: what the accounts offer together, as far as the caller may use it.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderValue, header};

use crate::http::doors::Doors;
use crate::http::error::RequestError;
use crate::http::error_reply::ErrorReply;
use crate::http::segment::Segment;
use antiphon_access::keys::Caller;
use antiphon_upstream::account::ModelList;

pub async fn list(State(doors): State<Doors>, caller: Caller) -> Response {
    json_reply(current(&doors, &caller).await.to_json().into())
}

pub async fn get(
    State(doors): State<Doors>,
    caller: Caller,
    Segment(id): Segment,
) -> Result<Response, ErrorReply> {
    let models = current(&doors, &caller).await;
    let model = models.find(&id).ok_or_else(|| RequestError::ModelNotFound(id.clone()))?;
    Ok(json_reply(model.object.clone()))
}

async fn current(doors: &Doors, caller: &Caller) -> ModelList {
    let turns = &doors.turns;
    turns.pool.refresh_catalogs(&turns.upstream, turns.env.clock.now()).await;
    turns.pool.models().only(|model| caller.allows(model))
}

fn json_reply(body: Bytes) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
}
