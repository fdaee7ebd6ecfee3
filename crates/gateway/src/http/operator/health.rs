//! What operators' machines ask: is it alive, can it serve, and what has it done.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde_json::json;

use crate::http::doors::Doors;

const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The process answers.
pub async fn healthz() -> Json<serde_json::Value> {
    Json(json!({ "status": "ok" }))
}

/// The process can serve: the store reads and writes, and it is not being stopped.
pub async fn readyz(State(doors): State<Doors>) -> Response {
    let turns = &doors.turns;
    if turns.env.tasks.stopping().is_cancelled() {
        return not_ready("stopping");
    }
    match turns.chains.store().check().await {
        Ok(()) => Json(json!({ "status": "ready" })).into_response(),
        Err(error) => {
            tracing::warn!(%error, "not ready");
            not_ready("the store is unavailable")
        }
    }
}

pub async fn metrics(State(doors): State<Doors>) -> Response {
    ([(header::CONTENT_TYPE, METRICS_TYPE)], doors.metrics.render()).into_response()
}

fn not_ready(reason: &str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "status": "not ready", "reason": reason })))
        .into_response()
}
