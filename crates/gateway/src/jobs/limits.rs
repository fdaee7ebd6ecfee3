//! Releases reservations of crashed replicas, and removes the counters of past windows.

use std::sync::Arc;
use std::time::Duration;

use antiphon_access::limits::Limits;
use antiphon_runtime::{Clock, Timestamp};
use antiphon_store::{Abandoned, Store, StoreError};

const SWEEP_INTERVAL: Duration = Duration::from_secs(30);
/// How long counters are kept after the end of their window.
const COUNTER_RETENTION: Duration = Duration::from_hours(24);
/// The number of rows per step, which bounds how long other writers wait.
const BATCH_ROWS: u32 = 500;

/// Releases expired reservations. `lifetime` is the lifetime of a reservation.
///
/// Must be called before the first turn. If no other replica shares the store, all reservations in it are left over from an
/// earlier process, and the first sweep releases all of them.
pub fn sweep(
    limits: Arc<Limits>,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    lifetime: Duration,
) -> impl Future<Output = ()> {
    let now = clock.now();
    let first_cutoff = match store.is_shared() {
        true => now,
        false => now.plus(lifetime.saturating_sub(Duration::from_millis(1))),
    };
    async move {
        sweep_once(&limits, &*store, first_cutoff, now).await;
        loop {
            tokio::time::sleep(SWEEP_INTERVAL).await;
            if store.is_available() {
                let now = clock.now();
                sweep_once(&limits, &*store, now, now).await;
            }
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn sweep_once(limits: &Limits, store: &dyn Store, expired_by: Timestamp, now: Timestamp) {
    let sweeping = async {
        loop {
            let swept = limits.sweep(expired_by, BATCH_ROWS).await?;
            if swept > 0 {
                tracing::warn!(reservations = swept, "released expired reservations");
            }
            if swept < u64::from(BATCH_ROWS) {
                break;
            }
        }
        while store.purge_counters(now.minus(COUNTER_RETENTION), BATCH_ROWS).await? {}
        Ok::<_, StoreError>(())
    };
    if let Err(error) = sweeping.await {
        tracing::debug!(%error, "expired reservations could not be released; retrying later");
    }
}
