//! GET `/v1/models`: the models of all accounts that the caller may use.

use antiphon_runtime::hex;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use sha2::{Digest, Sha256};

use crate::http::app_state::AppState;
use crate::http::error::RequestError;
use crate::http::error_reply::ErrorReply;
use crate::http::json_reply::json_reply;
use crate::http::path_segment::PathSegment;
use crate::http::query::ModelsQuery;
use antiphon_access::keys::Caller;
use antiphon_upstream::account::ModelList;

pub async fn list(
    State(state): State<AppState>,
    caller: Caller,
    query: ModelsQuery,
    headers: HeaderMap,
) -> Response {
    let body = visible_models(&state, &caller).await.to_json(query.for_codex);
    let tag = format!("\"{}\"", hex::encode(&Sha256::digest(&body)[..16]));
    let mut reply = match has_tag(&headers, &tag) {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => json_reply(body),
    };
    reply.headers_mut().extend(HeaderValue::try_from(tag).map(|tag| (header::ETAG, tag)));
    reply
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

/// Whether the client has the list with this tag.
fn has_tag(headers: &HeaderMap, tag: &str) -> bool {
    let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut known = known.flat_map(|value| value.split(',')).map(str::trim);
    known.any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag)
}
