//! Releases reservations that nobody will settle, and removes the counters of past windows.

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

/// Releases expired reservations.
///
/// If no other replica shares the store, all reservations of earlier processes are left over, and the first sweep releases
/// all of them.
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
        tokio::time::sleep(SWEEP_INTERVAL).await;
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
        tracing::warn!(reservations = released, "released reservations that nobody settled");
    }
    while store.purge_counters(now.minus(COUNTER_RETENTION), BATCH_ROWS).await? {}
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
        let swept = limits.sweep(abandoned, now, BATCH_ROWS).await?;
        released += swept;
        if swept < u64::from(BATCH_ROWS) {
            return Ok(released);
        }
    }
}
