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

/// The process can serve and store a turn, and is not being stopped.
pub async fn readyz(State(doors): State<Doors>) -> Response {
    if doors.turns.env.tasks.stopping().is_cancelled() {
        return not_ready("stopping");
    }
    match doors.readiness.check(&doors.turns, &doors.keys).await {
        Ok(()) => Json(json!({ "status": "ready" })).into_response(),
        Err(reason) => not_ready(reason),
    }
}

pub async fn metrics(State(doors): State<Doors>) -> Response {
    ([(header::CONTENT_TYPE, METRICS_TYPE)], doors.metrics.render()).into_response()
}

fn not_ready(reason: &str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "status": "not ready", "reason": reason })))
        .into_response()
}
