//! Removes responses that other replicas have deleted from the cache of chains.

use std::sync::Arc;
use std::time::Duration;

use antiphon_runtime::Clock;
use antiphon_store::chain::Chains;

/// Well within [`Chains::STALENESS`].
const INTERVAL: Duration = Duration::from_secs(1);
/// How far the clocks of replicas may differ.
const CLOCK_SKEW: Duration = Duration::from_secs(10);

pub async fn watch(chains: Arc<Chains>, clock: Arc<dyn Clock>) {
    let mut read_at = clock.now();
    loop {
        let now = clock.now();
        match chains.learn_deletions(read_at.minus(CLOCK_SKEW)).await {
            Ok(()) => read_at = now,
            Err(error) => tracing::debug!(%error, "deletions by other replicas could not be read"),
        }
        tokio::time::sleep(INTERVAL).await;
    }
}
