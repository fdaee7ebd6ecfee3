//! Gives back what crashed replicas hold of limits, and removes counters of windows long past.

use std::sync::Arc;
use std::time::Duration;

use antiphon_access::limits::Limits;
use antiphon_runtime::{Clock, Timestamp};
use antiphon_store::{Store, StoreError};

const INTERVAL: Duration = Duration::from_secs(30);
/// How long counters are kept after the end of their window.
const KEPT: Duration = Duration::from_hours(24);
/// How many rows one step changes: writers wait no longer than that takes.
const ROWS: u32 = 500;

/// Sweeps expired reservations. Must be called before the first turn: a process that has the store for itself was the only
/// one to hold anything in it before, so everything that is held by then is given back. `lifetime` is that of reservations.
pub fn sweep(
    limits: Arc<Limits>,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    lifetime: Duration,
) -> impl Future<Output = ()> {
    let now = clock.now();
    let first = match store.is_shared() {
        true => now,
        false => now.plus(lifetime.saturating_sub(Duration::from_millis(1))),
    };
    async move {
        sweep_once(&limits, &*store, first, now).await;
        loop {
            tokio::time::sleep(INTERVAL).await;
            if store.is_available() {
                let now = clock.now();
                sweep_once(&limits, &*store, now, now).await;
            }
        }
    }
}

async fn sweep_once(limits: &Limits, store: &dyn Store, expired_by: Timestamp, now: Timestamp) {
    let sweeping = async {
        loop {
            let swept = limits.sweep(expired_by, ROWS).await?;
            if swept > 0 {
                tracing::warn!(reservations = swept, "expired reservations were given back");
            }
            if swept < u64::from(ROWS) {
                break;
            }
        }
        while store.purge_counters(now.minus(KEPT), ROWS).await? {}
        Ok::<_, StoreError>(())
    };
    if let Err(error) = sweeping.await {
        tracing::debug!(%error, "expired reservations could not be given back; retrying later");
    }
}
