//! Health, readiness and metrics, for operators' machines.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde_json::json;

use crate::http::app_state::AppState;

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

pub async fn metrics(State(state): State<AppState>) -> Response {
    ([(header::CONTENT_TYPE, METRICS_TYPE)], state.metrics.render()).into_response()
}

fn not_ready(reason: &str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "status": "not ready", "reason": reason })))
        .into_response()
}
