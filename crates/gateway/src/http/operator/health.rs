//! What operators' machines ask: is it alive, can it serve, and what has it done.

use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde_json::json;
use tokio::sync::Mutex;

use crate::http::doors::Doors;

const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Probes cost the store no more than one check in this time.
const KNOWN_FOR: Duration = Duration::from_secs(1);

/// The process answers.
pub async fn healthz() -> Json<serde_json::Value> {
    Json(json!({ "status": "ok" }))
}

/// The process can serve and store a turn, and is not being stopped.
pub async fn readyz(State(doors): State<Doors>) -> Response {
    if doors.turns.env.tasks.stopping().is_cancelled() {
        return not_ready("stopping");
    }
    match doors.readiness.find_out(&doors).await {
        Ok(()) => Json(json!({ "status": "ready" })).into_response(),
        Err(reason) => not_ready(reason),
    }
}

/// Whether the gateway is ready, as it was found out last. Probes that come together share one check of the store.
#[derive(Debug, Default)]
pub struct Readiness(Mutex<Option<Known>>);

#[derive(Debug)]
struct Known {
    at: Instant,
    /// What the store itself said then.
    was_available: bool,
    outcome: Result<(), &'static str>,
}

// === impl Readiness ===

impl Readiness {
    /// Why it is not ready, if it is not.
    async fn find_out(&self, doors: &Doors) -> Result<(), &'static str> {
        let store = doors.turns.chains.store();
        let mut known = self.0.lock().await;
        if let Some(known) = &*known
            && known.at.elapsed() < KNOWN_FOR
            && known.was_available == store.is_available()
        {
            return known.outcome;
        }
        let outcome = check(doors).await;
        *known = Some(Known { at: Instant::now(), was_available: store.is_available(), outcome });
        outcome
    }
}

async fn check(doors: &Doors) -> Result<(), &'static str> {
    if let Err(error) = doors.turns.chains.store().check().await {
        tracing::warn!(%error, "not ready");
        return Err("the store is unavailable");
    }
    if !doors.keys.are_known() {
        return Err("the keys could not be read yet");
    }
    if doors.turns.pool.accounts().is_empty() {
        return Err("no account is configured");
    }
    Ok(())
}

pub async fn metrics(State(doors): State<Doors>) -> Response {
    ([(header::CONTENT_TYPE, METRICS_TYPE)], doors.metrics.render()).into_response()
}

fn not_ready(reason: &str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "status": "not ready", "reason": reason })))
        .into_response()
}
