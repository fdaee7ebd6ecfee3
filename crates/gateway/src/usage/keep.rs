//! Keeping usage: closed hours are summed up, and what is too old goes.

use std::sync::Arc;
use std::time::Duration;

use antiphon_store::{StoreError, Timestamp};

use crate::turn::Turns;

/// How often: a row that came late is missing for as long at most.
const INTERVAL: Duration = Duration::from_mins(1);
/// How long after the longest turn an hour is taken for closed. Rows that come later have it summed up again.
const SETTLING: Duration = Duration::from_mins(5);
/// How far back the hours are summed up again after a start: rows may have been written late by a process that died then.
/// Those that came later still count when they leave the log.
const AFTER_START: Duration = Duration::from_hours(24);
/// How many rows one step of a purge removes.
const PURGE_ROWS: u32 = 500;

/// Sums up the request log, a closed hour at a time.
pub struct Keeper {
    turns: Arc<Turns>,
    /// From when on there are rows that may not be summed up.
    since: Option<Timestamp>,
}

/// Runs for as long as the gateway does.
pub async fn keep_usage(turns: Arc<Turns>) {
    let mut keeper = Keeper::new(turns);
    loop {
        if let Err(error) = keeper.keep().await {
            tracing::warn!(%error, "usage could not be summed up, and is later");
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

// === impl Keeper ===

impl Keeper {
    pub fn new(turns: Arc<Turns>) -> Self {
        Self { turns, since: None }
    }

    pub async fn keep(&mut self) -> Result<(), StoreError> {
        let (store, rules) = (self.turns.chains.store(), &self.turns.rules);
        let now = self.turns.clock.now();
        let summed_up = store.rolled_up_until().await?;
        let since = self.since.unwrap_or_else(|| summed_up.minus(AFTER_START)).min(summed_up);
        let mut next = store.take_earliest_written().map_or(since, |earliest| earliest.min(since));
        self.since = Some(next);
        let until = now.minus(rules.turn).minus(SETTLING);
        while let Some(hour) = store.roll_up_hour(next, until).await? {
            next = hour;
        }
        self.since = Some(until.max(next));
        let before = |limit: Option<Duration>| limit.map(|limit| now.minus(limit));
        let hours = before(rules.usage.hour_retention.limit());
        let days = before(rules.usage.day_retention.limit());
        while store.purge_usage(hours, days, PURGE_ROWS).await? {}
        Ok(())
    }
}
