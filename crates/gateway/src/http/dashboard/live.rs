//! Live figures as server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use antiphon_access::sessions::SessionId;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, StatusCode, header};
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;

use super::gate::{SignedIn, secret};
use crate::http::app_state::AppState;

/// How many pages may watch at the same time.
pub const MAX_WATCHERS: usize = 32;

const INTERVAL: Duration = Duration::from_secs(1);
/// How many events a watcher gets until its session is checked again.
const EVENTS_PER_CHECK: u32 = 10;

/// A page that shows live figures.
struct Watcher {
    state: AppState,
    session: SessionId,
    /// Of the session.
    secret: String,
    events: u32,
    _place: OwnedSemaphorePermit,
}

pub async fn watch(
    SignedIn(session): SignedIn,
    State(state): State<AppState>,
    headers: HeaderMap,
) -> Response {
    let Ok(place) = state.watchers.clone().try_acquire_owned() else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let secret = secret(&headers).unwrap_or_default().to_owned();
    let watcher = Watcher { state, session: session.id, secret, events: 0, _place: place };
    let events = stream::unfold(watcher, Watcher::next);
    let reply_headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    (reply_headers, Body::from_stream(events)).into_response()
}

// === impl Watcher ===

impl Watcher {
    /// The next event; `None` when the session has ended or the gateway stops.
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        if self.events > 0 {
            tokio::time::sleep(INTERVAL).await;
        }
        let is_stopping = self.state.turns.env.tasks.stopping().is_given();
        if is_stopping || (self.events.is_multiple_of(EVENTS_PER_CHECK) && !self.has_session().await) {
            return None;
        }
        self.events += 1;
        let event = format!("data: {}\n\n", figures(&self.state));
        Some((Ok(event.into()), self))
    }

    async fn has_session(&self) -> bool {
        let found = self.state.operations.find_session(&self.secret).await;
        found.is_ok_and(|found| found.is_some_and(|session| session.id == self.session))
    }
}

/// What this process does now.
pub fn figures(state: &AppState) -> serde_json::Value {
    let background = &state.turns.background.metrics;
    json!({
        "turns": state.turns.metrics.in_flight.get(),
        "sockets": state.socket_metrics.open.get(),
        "background": background.running.get(),
        "queued": background.queued.get(),
    })
}
