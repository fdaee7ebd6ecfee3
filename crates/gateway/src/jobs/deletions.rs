//! Keeps the cache of chains from showing what other replicas have deleted.

use std::sync::Arc;
use std::time::Duration;

use antiphon_runtime::Clock;
use antiphon_store::chain::Chains;

/// Well within [`Chains::STALENESS`].
const INTERVAL: Duration = Duration::from_secs(1);
/// How far the clocks of replicas may be apart.
const CLOCK_SKEW: Duration = Duration::from_secs(10);

pub async fn watch(chains: Arc<Chains>, clock: Arc<dyn Clock>) {
    let mut learnt_at = clock.now();
    loop {
        let now = clock.now();
        match chains.learn_deletions(learnt_at.minus(CLOCK_SKEW)).await {
            Ok(()) => learnt_at = now,
            Err(error) => tracing::debug!(%error, "deletions by other replicas could not be read"),
        }
        tokio::time::sleep(INTERVAL).await;
    }
}
