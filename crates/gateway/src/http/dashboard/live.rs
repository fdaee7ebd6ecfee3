//! Live figures as server-sent events.

use std::convert::Infallible;

use antiphon_access::sessions::SessionId;
use antiphon_operations::{LIVE_INTERVAL, Watcher, WatcherPlace};
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, header};

use super::gate::{SignedIn, secret};
use super::page::Problem;
use crate::http::app_state::AppState;

/// How many events a watcher gets until its session is checked again.
const EVENTS_PER_CHECK: u32 = 10;

/// A page that shows live figures.
struct LivePage {
    state: AppState,
    session: SessionId,
    /// Of the session.
    secret: String,
    events: u32,
    _place: WatcherPlace,
}

pub async fn watch(
    SignedIn(session): SignedIn,
    State(state): State<AppState>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let place = state.operations.watch(Watcher::in_session(&session))?;
    let secret = secret(&headers).unwrap_or_default().to_owned();
    let page = LivePage { state, session: session.id, secret, events: 0, _place: place };
    let events = stream::unfold(page, LivePage::next);
    let reply_headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((reply_headers, Body::from_stream(events)).into_response())
}

// === impl LivePage ===

impl LivePage {
    /// The next event; `None` when the session has ended, the store fails or the gateway stops.
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        if self.events > 0 {
            tokio::time::sleep(LIVE_INTERVAL).await;
        }
        let is_stopping = self.state.turns.env.tasks.stopping().is_given();
        if is_stopping || (self.events.is_multiple_of(EVENTS_PER_CHECK) && !self.has_session().await) {
            return None;
        }
        self.events += 1;
        let frame = self.state.operations.live().await.ok()?;
        let running = serde_json::to_string(&frame.running).ok()?;
        Some((Ok(format!("data: {running}\n\n").into()), self))
    }

    async fn has_session(&self) -> bool {
        let found = self.state.operations.find_session(&self.secret).await;
        found.is_ok_and(|found| found.is_some_and(|session| session.id == self.session))
    }
}
