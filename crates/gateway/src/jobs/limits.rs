//! Releases reservations that nobody will settle, and removes counters of windows long past.

use std::sync::Arc;
use std::time::Duration;

use antiphon_access::limits::Limits;
use antiphon_runtime::{Clock, Timestamp};
use antiphon_store::{Abandoned, Store, StoreError};

const INTERVAL: Duration = Duration::from_secs(30);
/// How long counters are kept after the end of their window.
const KEPT: Duration = Duration::from_hours(24);
/// How many rows one step changes: writers wait no longer than that takes.
const ROWS: u32 = 500;

/// Sweeps expired reservations. A process that has the store for itself begins with all that were there before it.
pub async fn sweep(limits: Arc<Limits>, store: Arc<dyn Store>, clock: Arc<dyn Clock>) {
    let mut abandoned =
        if store.is_shared() { Abandoned::Expired } else { Abandoned::NotOf(limits.replica()) };
    loop {
        if store.is_available() {
            match sweep_once(&limits, &*store, abandoned, clock.now()).await {
                Ok(()) => abandoned = Abandoned::Expired,
                Err(error) => tracing::debug!(%error, "reservations could not be released; retrying later"),
            }
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn sweep_once(
    limits: &Limits,
    store: &dyn Store,
    abandoned: Abandoned,
    now: Timestamp,
) -> Result<(), StoreError> {
    let released = sweep_all(limits, abandoned, now).await?;
    if released > 0 {
        tracing::warn!(reservations = released, "reservations that nobody settled were released");
    }
    while store.purge_counters(now.minus(KEPT), ROWS).await? {}
    Ok(())
}

/// Returns how many reservations were released.
pub(super) async fn sweep_all(
    limits: &Limits,
    abandoned: Abandoned,
    now: Timestamp,
) -> Result<u64, StoreError> {
    let mut released = 0;
    loop {
        let swept = limits.sweep(abandoned, now, ROWS).await?;
        released += swept;
        if swept < u64::from(ROWS) {
            return Ok(released);
        }
    }
}
