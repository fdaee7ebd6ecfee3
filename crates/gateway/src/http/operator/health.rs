//! Health, readiness and metrics, for operators' machines.

use std::time::Duration;

use antiphon_access::keys::network_of;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::{StatusCode, header};
use serde_json::json;

use crate::body_memory::{Reservation, Tenant};
use crate::http::app_state::AppState;
use crate::http::auth::Peer;
use crate::http::error::RequestError;
use crate::http::error_reply::ErrorReply;

const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The process is alive.
pub async fn healthz() -> Json<serde_json::Value> {
    Json(json!({ "status": "ok", "version": env!("CARGO_PKG_VERSION") }))
}

/// The process can serve and store a turn, and no shutdown has begun.
pub async fn readyz(State(state): State<AppState>) -> Response {
    if state.turns.env.tasks.stopping().is_given() {
        return not_ready("stopping");
    }
    match state.readiness.check(&state.turns, &state.keys).await {
        Ok(()) => Json(json!({ "status": "ready" })).into_response(),
        Err(reason) => not_ready(reason),
    }
}

/// Anyone may ask for them, any number of times, and read nothing.
pub async fn metrics(
    State(state): State<AppState>,
    Extension(Peer(address)): Extension<Peer>,
) -> Result<Response, ErrorReply> {
    let text = state.metrics.render();
    let mut memory = Reservation::empty(&state.open_replies.share(Tenant::Network(network_of(address))));
    let bytes = text.len().min(memory.max_bytes());
    let mut patience = Duration::ZERO;
    memory.grow(bytes, &mut patience).await.map_err(RequestError::from)?;
    Ok(([(header::CONTENT_TYPE, METRICS_TYPE)], memory.hold(text.into())).into_response())
}

fn not_ready(reason: &str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "status": "not ready", "reason": reason })))
        .into_response()
}
