//! Maintains the store: purges deleted and expired data, and checks whether a failed store is available again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use antiphon_runtime::Clock;
use antiphon_store::{PurgeProgress, Purged, Store, StoreError};

use super::metrics::JobMetrics;

/// How often an unavailable store is checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How often a lasting outage is logged again.
const REMINDER_INTERVAL: Duration = Duration::from_mins(1);
/// The number of rows per step of a purge, which bounds how long other writers wait: about as long as for a commit.
const BATCH_ROWS: u32 = 25;
/// How long the writer belongs to the turns after a step, as a multiple of how long that took.
const PAUSE_FACTOR: u32 = 3;
/// A purge pauses less after this time, still less after twice, and not at all after three times this: it has fallen behind.
const PATIENCE: Duration = Duration::from_mins(10);
/// After so long, a purge begins again with the oldest responses instead of where the last one ended: a conversation that is purged late
/// releases responses that expired before that.
const FULL_INTERVAL: Duration = Duration::from_hours(1);

/// When to purge, and what must be kept.
#[derive(Debug, Clone, Copy)]
pub struct PurgeRules {
    pub interval: Duration,
    /// Deleted and expired responses are kept this long, as a running turn may replay them.
    pub longest_turn: Duration,
    /// How long rows of the request log are kept; `None` keeps them for ever.
    pub log_retention: Option<Duration>,
    /// How long a conversation is kept that nobody changes; `None` keeps it for ever.
    pub conversation_retention: Option<Duration>,
    /// How long the responses of deleted conversations live; `None` means for ever.
    pub retention: Option<Duration>,
}

pub async fn maintain(store: Arc<dyn Store>, clock: Arc<dyn Clock>, rules: PurgeRules, metrics: JobMetrics) {
    let pause = CHECK_INTERVAL.min(rules.interval);
    let (mut since_purge, mut outage) = (Duration::ZERO, Outage::default());
    let (mut progress, mut begun) = (PurgeProgress::default(), Instant::now());
    loop {
        tokio::time::sleep(pause).await;
        since_purge += pause;
        if !store.is_available() || !store.has_its_file() {
            outage.record(store.check().await);
        } else if since_purge >= rules.interval {
            since_purge = Duration::ZERO;
            if begun.elapsed() >= FULL_INTERVAL {
                (progress, begun) = (PurgeProgress::default(), Instant::now());
            }
            if let Err(error) = purge(&*store, &*clock, rules, &mut progress, &metrics).await {
                tracing::warn!(%error, "the purge failed; retrying later");
                progress = PurgeProgress::default();
            }
        }
    }
}

/// The reason of an outage and when it was last logged.
#[derive(Default)]
struct Outage(Option<(String, Instant)>);

impl Outage {
    fn record(&mut self, checked: Result<(), StoreError>) {
        let Err(error) = checked else {
            tracing::info!("the store is available again");
            self.0 = None;
            return;
        };
        let reason = error.to_string();
        let is_logged =
            |(logged, at): &(String, Instant)| *logged == reason && at.elapsed() < REMINDER_INTERVAL;
        if !self.0.as_ref().is_some_and(is_logged) {
            tracing::warn!(%error, "the store is unavailable; turns that need it are rejected");
            self.0 = Some((reason, Instant::now()));
        }
    }
}

/// Deletes conversations that have expired, and releases the responses of deleted ones, which then expire.
async fn purge_conversations(
    store: &dyn Store,
    clock: &dyn Clock,
    rules: PurgeRules,
) -> Result<(), StoreError> {
    let began = Instant::now();
    if let Some(kept) = rules.conversation_retention {
        let now = clock.now();
        let expire = || store.expire_conversations(now.minus(kept), now, rules.retention, BATCH_ROWS);
        while with_pause(began, expire()).await? {}
    }
    let purge = || store.purge_conversations(clock.now().minus(rules.longest_turn), BATCH_ROWS);
    while with_pause(began, purge()).await? {}
    Ok(())
}

/// Runs a step of a purge, and then leaves the writer to the turns for a while.
async fn with_pause<T>(purge_began: Instant, step: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let done = step.await;
    tokio::time::sleep(pause(began.elapsed(), purge_began.elapsed())).await;
    done
}

/// The pause after a step of a purge that has run for some time.
fn pause(step: Duration, purge: Duration) -> Duration {
    let less = u32::try_from(purge.as_secs() / PATIENCE.as_secs()).unwrap_or(u32::MAX);
    step * PAUSE_FACTOR.saturating_sub(less)
}

async fn purge(
    store: &dyn Store,
    clock: &dyn Clock,
    rules: PurgeRules,
    progress: &mut PurgeProgress,
    metrics: &JobMetrics,
) -> Result<(), StoreError> {
    // First, because of the responses that it releases.
    purge_conversations(store, clock, rules).await?;
    let (mut responses, mut log_rows) = (0, 0);
    let began = Instant::now();
    loop {
        let now = clock.now();
        let log_before = rules.log_retention.map(|retention| now.minus(retention));
        let step = store.purge(progress, now.minus(rules.longest_turn), log_before, BATCH_ROWS);
        let purged = with_pause(began, step).await?;
        if purged == Purged::default() {
            break;
        }
        metrics.purged_responses.inc_by(purged.responses);
        (responses, log_rows) = (responses + purged.responses, log_rows + purged.log_rows);
    }
    metrics.purged_at.store(clock.now().unix_ms(), Ordering::Relaxed);
    if responses + log_rows > 0 {
        tracing::info!(responses, log_rows, "purged deleted and expired data");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_purge_that_takes_long_pauses_less() {
        let step = Duration::from_millis(2);
        let pause_after = |minutes| pause(step, Duration::from_mins(minutes));
        assert_eq!([0, 9].map(pause_after), [3 * step; 2]);
        assert_eq!([10, 20, 30].map(pause_after), [2 * step, step, Duration::ZERO]);
        assert_eq!(pause_after(60 * 24 * 365), Duration::ZERO);
    }
}
