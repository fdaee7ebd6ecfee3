//! GET `/v1/models`: the models of all accounts that the caller may use.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderValue, header};

use crate::http::app_state::AppState;
use crate::http::error::RequestError;
use crate::http::error_reply::ErrorReply;
use crate::http::path_segment::PathSegment;
use antiphon_access::keys::Caller;
use antiphon_upstream::account::ModelList;

pub async fn list(State(state): State<AppState>, caller: Caller) -> Response {
    json_reply(visible_models(&state, &caller).await.to_json().into())
}

pub async fn get(
    State(state): State<AppState>,
    caller: Caller,
    PathSegment(id): PathSegment,
) -> Result<Response, ErrorReply> {
    let models = visible_models(&state, &caller).await;
    let model = models.find(&id).ok_or_else(|| RequestError::ModelNotFound(id.clone()))?;
    Ok(json_reply(model.object.clone()))
}

async fn visible_models(state: &AppState, caller: &Caller) -> ModelList {
    let turns = &state.turns;
    turns.pool.refresh_catalogs(&turns.upstream, turns.env.clock.now()).await;
    turns.pool.models().only(|model| caller.allows(model))
}

fn json_reply(body: Bytes) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
}
