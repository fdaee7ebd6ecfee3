//! `/api/overview`, `/api/live` and `/api/log`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use antiphon_access::admin::Role;
use antiphon_operations::{
    AccountTurns, InvalidRequest, LIVE_INTERVAL, LiveFrame, LogList, LogParameters, Operations, Overview,
    OverviewParameters, TimeRange, Watcher, WatcherPlace,
};
use axum::Json;
use axum::extract::State;
use axum::response::sse::{Event, Sse};
use futures_util::Stream;
use futures_util::stream::unfold;
use http::HeaderMap;

use super::Operator;
use super::request::{NoParameters, Parameters};
use crate::http::app_state::AppState;
use crate::http::auth::bearer;
use crate::http::error_reply::ErrorReply;

/// How many frames a stream has. Then its client connects again, and shows its token again.
const MAX_FRAMES: u32 = 600;
/// How many frames a client gets until its token is verified again.
const FRAMES_PER_CHECK: u32 = 5;
/// When a client whose stream has ended connects again.
const RETRY: Duration = Duration::from_secs(2);

/// Get figures, series and what needs attention. At most two seconds old.
#[utoipa::path(
    get,
    path = "/api/overview",
    operation_id = "get_overview",
    tag = "overview",
    params(OverviewParameters),
    responses((status = OK, body = Overview))
)]
pub async fn get(
    _: Operator,
    State(operations): State<Arc<Operations>>,
    Parameters(parameters): Parameters<OverviewParameters>,
) -> Result<Json<Overview>, ErrorReply> {
    let overview = operations.overview(range(&operations, &parameters)?).await?;
    Ok(Json(Arc::unwrap_or_clone(overview)))
}

/// Get the turns of each account over time, and how many of them failed.
#[utoipa::path(
    get,
    path = "/api/overview/accounts",
    operation_id = "get_account_turns",
    tag = "overview",
    params(OverviewParameters),
    responses((status = OK, body = AccountTurns))
)]
pub async fn accounts(
    _: Operator,
    State(operations): State<Arc<Operations>>,
    Parameters(parameters): Parameters<OverviewParameters>,
) -> Result<Json<AccountTurns>, ErrorReply> {
    Ok(Json(operations.account_turns(range(&operations, &parameters)?).await?))
}

fn range(operations: &Operations, parameters: &OverviewParameters) -> Result<TimeRange, InvalidRequest> {
    let OverviewParameters { window, from, to } = parameters;
    TimeRange::parse(*window, from.as_deref(), to.as_deref(), operations.clock.now())
}

/// Watch live figures: server-sent events `frame`, one a second. The stream ends after ten minutes, and within seconds once its token
/// is replaced; clients connect again. At most 64 clients and pages with the same token watch at the same time.
#[utoipa::path(
    get,
    path = "/api/live",
    operation_id = "watch_live",
    tag = "overview",
    responses((status = OK, body = LiveFrame, content_type = "text/event-stream"))
)]
pub async fn live(
    Operator { role }: Operator,
    _: Parameters<NoParameters>,
    State(state): State<AppState>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ErrorReply> {
    let permit = state.operations.watch(Watcher::with_token(role))?;
    let first = state.operations.live().await?;
    let watched = Watched { state, role, headers, first: Some(first), sent: 0, _permit: permit };
    Ok(Sse::new(unfold(watched, Watched::next)))
}

/// A stream of live figures.
struct Watched {
    state: AppState,
    role: Role,
    /// With the token.
    headers: HeaderMap,
    first: Option<Arc<LiveFrame>>,
    sent: u32,
    _permit: WatcherPlace,
}

// === impl Watched ===

impl Watched {
    /// The next event. After `None` the client connects again, and learns why there is none.
    async fn next(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        let frame = match self.first.take() {
            Some(first) => first,
            None => {
                tokio::time::sleep(LIVE_INTERVAL).await;
                let is_over = self.sent >= MAX_FRAMES || self.state.turns.env.tasks.stopping().is_given();
                if is_over || (self.sent.is_multiple_of(FRAMES_PER_CHECK) && !self.has_token().await) {
                    return None;
                }
                self.state.operations.live().await.ok()?
            }
        };
        let event = Event::default().event("frame").retry(RETRY).json_data(&*frame).ok()?;
        self.sent += 1;
        Some((Ok(event), self))
    }

    async fn has_token(&self) -> bool {
        let token = bearer(&self.headers).and_then(|token| str::from_utf8(token).ok());
        self.state.operations.authenticate(token).await.is_ok_and(|role| role == self.role)
    }
}

/// List turns of the request log, newest first.
#[utoipa::path(
    get,
    path = "/api/log",
    operation_id = "list_log",
    tag = "responses",
    params(LogParameters),
    responses((status = OK, body = LogList))
)]
pub async fn log(
    _: Operator,
    State(operations): State<Arc<Operations>>,
    Parameters(parameters): Parameters<LogParameters>,
) -> Result<Json<LogList>, ErrorReply> {
    Ok(Json(operations.list_log(parameters).await?))
}
