//! What is done about limits now and then.

use std::sync::Arc;
use std::time::Duration;

use antiphon_store::Timestamp;

use crate::turn::Turns;

/// How often to look for reservations that have expired.
const SWEEPING: Duration = Duration::from_secs(30);
/// How long counters are kept whose windows have ended.
const KEPT: Duration = Duration::from_hours(24);
/// How many rows one step changes: writers wait no longer than that takes.
const ROWS: u32 = 500;

/// Gives back what crashed replicas hold, and removes counters that nobody needs.
pub fn keep_limits(turns: Arc<Turns>) -> impl Future<Output = ()> {
    let now = turns.clock.now();
    // A process that has the store for itself was the only one to hold anything in it, in its life before: all is given back
    // that would have expired later.
    let is_alone = !turns.chains.store().is_shared();
    let lives = turns.rules.reservations_live().saturating_sub(Duration::from_millis(1));
    let first = if is_alone { now.plus(lives) } else { now };
    async move {
        sweep(&turns, first).await;
        loop {
            tokio::time::sleep(SWEEPING).await;
            if turns.chains.store().is_available() {
                sweep(&turns, turns.clock.now()).await;
            }
        }
    }
}

async fn sweep(turns: &Turns, until: Timestamp) {
    let store = turns.chains.store();
    let sweeping = async {
        loop {
            let swept = store.sweep(until, ROWS).await?;
            turns.metrics.limits.swept.inc_by(swept);
            if swept > 0 {
                tracing::warn!(reservations = swept, "reservations that had expired were given back");
            }
            if swept < u64::from(ROWS) {
                break;
            }
        }
        while store.purge_counters(turns.clock.now().minus(KEPT), ROWS).await? {}
        Ok::<_, antiphon_store::StoreError>(())
    };
    if let Err(error) = sweeping.await {
        tracing::debug!(%error, "expired reservations could not be given back, and are tried again later");
    }
}
