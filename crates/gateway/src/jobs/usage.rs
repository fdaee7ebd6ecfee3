//! Rolls the request log up into hours and days, and removes rollups that are too old.

use std::sync::Arc;
use std::time::Duration;

use antiphon_runtime::{Clock, Timestamp};
use antiphon_store::{Store, StoreError};

/// A row that came late is missing from the sums for as long at most.
const INTERVAL: Duration = Duration::from_mins(1);
/// How long after the longest turn an hour is assumed to be complete. Rows that come later have it rolled up again.
const SETTLING: Duration = Duration::from_mins(5);
/// How far back hours are rolled up again after a start: a process that died may have written rows late. Rows that came
/// later than that still count when they leave the log.
const AFTER_START: Duration = Duration::from_hours(24);
/// How many rows one step of a purge removes.
const PURGE_ROWS: u32 = 500;

/// How long rollups are kept; `None` is for ever.
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
    /// The first hour that may have rows which are not rolled up.
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

    /// # Errors
    ///
    /// Whatever the store fails with; hours that were rolled up before stay so.
    pub async fn run_once(&mut self) -> Result<(), StoreError> {
        let (store, now) = (&self.store, self.clock.now());
        let summed_up = store.rolled_up_until().await?;
        let since = self.since.unwrap_or_else(|| summed_up.minus(AFTER_START)).min(summed_up);
        let mut next = store.take_earliest_written().map_or(since, |earliest| earliest.min(since));
        self.since = Some(next);
        let until = now.minus(self.rules.longest_turn).minus(SETTLING);
        while let Some(hour) = store.roll_up_hour(next, until).await? {
            next = hour;
        }
        self.since = Some(until.max(next));
        let before = |retention: Option<Duration>| retention.map(|retention| now.minus(retention));
        let (hours, days) = (before(self.rules.hour_retention), before(self.rules.day_retention));
        while store.purge_usage(hours, days, PURGE_ROWS).await? {}
        Ok(())
    }
}
