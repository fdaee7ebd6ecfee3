//! Keeps the store in order: purges what is deleted or expired, and retries a store that has failed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use antiphon_runtime::Clock;
use antiphon_store::{Store, StoreError};

use super::metrics::JobMetrics;

/// How often a store that failed is retried.
const RETRY: Duration = Duration::from_secs(1);
/// How often an outage that lasts is logged.
const REMINDER: Duration = Duration::from_mins(1);
/// How many rows one step of a purge removes: writers wait no longer than that takes.
const PURGE_ROWS: u32 = 500;

/// What a purge may remove, and when.
#[derive(Debug, Clone, Copy)]
pub struct PurgeRules {
    pub interval: Duration,
    /// A turn may need an ancestor that was deleted or has expired for as long as it runs.
    pub longest_turn: Duration,
    /// How long rows stay in the request log; `None` is for ever.
    pub log_retention: Option<Duration>,
}

pub async fn maintain(store: Arc<dyn Store>, clock: Arc<dyn Clock>, rules: PurgeRules, metrics: JobMetrics) {
    let pause = RETRY.min(rules.interval);
    let (mut since_purge, mut outage) = (Duration::ZERO, Outage::default());
    loop {
        tokio::time::sleep(pause).await;
        since_purge += pause;
        if !store.is_available() || !store.is_in_place() {
            outage.note(store.check().await);
        } else if since_purge >= rules.interval {
            since_purge = Duration::ZERO;
            purge(&*store, &*clock, rules, &metrics).await;
        }
    }
}

/// What was logged of an outage: it is told once, and then from time to time.
#[derive(Default)]
struct Outage(Option<(String, Instant)>);

impl Outage {
    fn note(&mut self, checked: Result<(), StoreError>) {
        let Err(error) = checked else {
            tracing::info!("the store is available again");
            self.0 = None;
            return;
        };
        let reason = error.to_string();
        let is_told = |(told, at): &(String, Instant)| *told == reason && at.elapsed() < REMINDER;
        if !self.0.as_ref().is_some_and(is_told) {
            tracing::warn!(%error, "turns that need the store are refused");
            self.0 = Some((reason, Instant::now()));
        }
    }
}

async fn purge(store: &dyn Store, clock: &dyn Clock, rules: PurgeRules, metrics: &JobMetrics) {
    loop {
        let now = clock.now();
        let log_before = rules.log_retention.map(|retention| now.minus(retention));
        match store.purge(now.minus(rules.longest_turn), log_before, PURGE_ROWS).await {
            Ok(purged) => {
                metrics.purged_responses.inc_by(purged.responses);
                if purged.responses + purged.log_rows == 0 {
                    return;
                }
                tracing::info!(responses = purged.responses, log_rows = purged.log_rows, "purged");
            }
            Err(error) => return tracing::warn!(%error, "the purge failed and will be retried"),
        }
    }
}
