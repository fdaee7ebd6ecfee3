//! Live figures: what runs now, how many turns end in a second, and the last turns.

use std::sync::Arc;
use std::time::{Duration, Instant};

use antiphon_runtime::rfc3339;
use antiphon_store::LogQuery;
use serde::Serialize;
use utoipa::ToSchema;

use super::log::LoggedTurn;
use super::overview::Running;
use super::process::LatestFrame;
use super::watchers::{Watcher, WatcherPlace};
use super::{OperationError, Operations};

/// How often there is a new frame. All watchers share it.
pub const INTERVAL: Duration = Duration::from_secs(1);
const LAST_TURNS: u32 = 20;

#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct LiveFrame {
    /// In RFC 3339.
    pub at: String,
    pub running: Running,
    /// Turns that ended at this gateway, in a second.
    pub turns_per_second: f64,
    /// Turns in flight by account.
    pub accounts: Vec<LiveAccount>,
    /// The turns that began last and have ended, at all replicas, newest first.
    pub last_turns: Vec<LoggedTurn>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct LiveAccount {
    pub name: String,
    pub in_flight: u32,
    pub state: &'static str,
}

// === impl Operations ===

impl Operations {
    /// Takes the place of a watcher, of which there are few.
    pub fn watch(&self, watcher: Watcher) -> Result<WatcherPlace, OperationError> {
        self.process.watchers.take(watcher)
    }

    /// The latest frame; at most a second old.
    pub async fn live(&self) -> Result<Arc<LiveFrame>, OperationError> {
        let mut latest = self.process.live.lock().await;
        let ended = self.process.ended_turns.get();
        let rate = match &*latest {
            Some(latest) if latest.at.elapsed() < INTERVAL => return Ok(Arc::clone(&latest.frame)),
            Some(LatestFrame { at, ended_turns, .. }) => {
                ended.saturating_sub(*ended_turns) as f64 / at.elapsed().as_secs_f64()
            }
            None => 0.0,
        };
        let frame = Arc::new(self.read_frame(rate).await?);
        *latest = Some(LatestFrame { at: Instant::now(), ended_turns: ended, frame: Arc::clone(&frame) });
        Ok(frame)
    }

    async fn read_frame(&self, turns_per_second: f64) -> Result<LiveFrame, OperationError> {
        let query = LogQuery { max_rows: LAST_TURNS, ..LogQuery::default() };
        let page = self.store.search_log(query).await?;
        let (names, now) = (self.key_names(), self.clock.now());
        let account = |view: antiphon_upstream::pool::AccountView| LiveAccount {
            name: view.account.name.clone(),
            in_flight: view.state.in_flight,
            state: view.state.label(now),
        };
        Ok(LiveFrame {
            at: rfc3339(now),
            running: self.running(),
            turns_per_second: (turns_per_second * 10.0).round() / 10.0,
            accounts: self.pool.view().into_iter().map(account).collect(),
            last_turns: page.rows.iter().map(|row| LoggedTurn::new(row, &names)).collect(),
        })
    }
}
