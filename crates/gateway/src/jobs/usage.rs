//! Rolls the request log up into hours and days, and removes expired rollups.

use std::sync::Arc;
use std::time::Duration;

use antiphon_runtime::{Clock, Timestamp};
use antiphon_store::{Store, StoreError};

/// Also the longest time that a late row is missing from the rollups.
const INTERVAL: Duration = Duration::from_mins(1);
/// An hour counts as complete after the longest turn and this margin. A row that is later still has it rolled up again.
const LATE_ROW_MARGIN: Duration = Duration::from_mins(5);
/// How far back hours are rolled up again after a start, as a crashed process may have written rows late. Rows that are
/// later still count once they leave the log.
const STARTUP_LOOKBACK: Duration = Duration::from_hours(3);
/// The number of rows per step of a purge, which bounds how long other writers wait.
const BATCH_ROWS: u32 = 500;

/// How long rollups are kept; `None` keeps them for ever.
#[derive(Debug, Clone, Copy)]
pub struct RollupRules {
    pub longest_turn: Duration,
    pub hour_retention: Option<Duration>,
    pub day_retention: Option<Duration>,
}

/// Rolls up one complete hour at a time.
pub struct Rollup {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    rules: RollupRules,
    /// The first hour that may have rows which are not rolled up yet.
    since: Option<Timestamp>,
}

pub async fn roll_up(store: Arc<dyn Store>, clock: Arc<dyn Clock>, rules: RollupRules) {
    let mut rollup = Rollup::new(Arc::clone(&store), clock, rules);
    loop {
        if store.is_available()
            && let Err(error) = rollup.run_once().await
        {
            tracing::warn!(%error, "usage could not be rolled up; retrying later");
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

// === impl Rollup ===

impl Rollup {
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, rules: RollupRules) -> Self {
        Self { store, clock, rules, since: None }
    }

    /// Rolls up all complete hours and purges expired rollups.
    ///
    /// # Errors
    ///
    /// Fails if the store does; hours that were rolled up before stay rolled up.
    pub async fn run_once(&mut self) -> Result<(), StoreError> {
        let (store, now) = (&self.store, self.clock.now());
        let rolled_up = store.rolled_up_until().await?;
        let since = self.since.unwrap_or_else(|| rolled_up.minus(STARTUP_LOOKBACK)).min(rolled_up);
        let mut next = store.take_earliest_written().map_or(since, |earliest| earliest.min(since));
        self.since = Some(next);
        let until = now.minus(self.rules.longest_turn).minus(LATE_ROW_MARGIN);
        while let Some(hour) = store.roll_up_hour(next, until).await? {
            next = hour;
        }
        self.since = Some(until.max(next));
        let cutoff = |retention: Option<Duration>| retention.map(|retention| now.minus(retention));
        let (hours, days) = (cutoff(self.rules.hour_retention), cutoff(self.rules.day_retention));
        while store.purge_usage(hours, days, BATCH_ROWS).await? {}
        Ok(())
    }
}
