//! Background turns: renews the leases of those that run here, takes over those that nobody runs, and removes expired logs.

use std::sync::Arc;
use std::time::Duration;

use antiphon_runtime::Clock;
use antiphon_store::Store;

use super::renewing::pause_after;
use crate::turn::{Turns, Unmatched};

/// How often to look for turns of this process that clients of other processes cancel.
const CANCEL_INTERVAL: Duration = Duration::from_millis(500);
/// How often a store is checked that did not work.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Readers that follow a turn read its last events even if it is deleted.
const READER_GRACE: Duration = Duration::from_secs(10);
/// The number of turns per step of a purge, which bounds how long other writers wait.
const BATCH_ROWS: u32 = 100;

/// Renews the leases of this process's turns, well before they expire, except of those that it has lost track of. Stops the turns
/// that are no longer its own.
pub async fn renew_leases(turns: Arc<Turns>) {
    let interval = turns.background.settings.lease / 3;
    let (mut unmatched, mut pause) = (Unmatched::default(), interval);
    loop {
        tokio::time::sleep(pause).await;
        let renewed = turns.renew_leases().await;
        pause = pause_after(&renewed, interval);
        let matched = async {
            renewed?;
            turns.match_leases(&mut unmatched).await
        };
        if let Err(error) = matched.await {
            tracing::debug!(%error, "leases of background turns could not be renewed");
        }
    }
}

/// Takes over the turns of processes that have died or stopped.
pub async fn take_over(turns: Arc<Turns>) {
    let interval = turns.background.settings.lease / 6;
    loop {
        if let Err(error) = turns.take_over().await {
            tracing::debug!(%error, "background turns could not be taken over; retrying");
            wait_for_owners(&turns).await;
        }
        tokio::time::sleep(interval).await;
    }
}

/// After an outage of the store all leases seem to have expired. Waits until it works, and then so long that owners that live have
/// renewed theirs.
async fn wait_for_owners(turns: &Turns) {
    let store = turns.chains.store();
    if !store.is_shared() {
        return;
    }
    while store.check().await.is_err() {
        tokio::time::sleep(CHECK_INTERVAL).await;
    }
    tokio::time::sleep(turns.background.settings.lease / 2).await;
}

/// Cancels what clients of other processes cancel.
pub async fn obey_cancellations(turns: Arc<Turns>) {
    loop {
        tokio::time::sleep(CANCEL_INTERVAL).await;
        if let Err(error) = turns.obey_cancellations().await {
            tracing::debug!(%error, "cancellations could not be read; retrying");
        }
    }
}

/// Removes turns that have ended, with their logs, once they are no longer kept.
pub async fn purge(store: Arc<dyn Store>, clock: Arc<dyn Clock>, interval: Duration) {
    loop {
        tokio::time::sleep(interval).await;
        loop {
            match store.purge_background(clock.now().minus(READER_GRACE), BATCH_ROWS).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    tracing::debug!(%error, "background turns could not be purged; retrying later");
                    break;
                }
            }
        }
    }
}
