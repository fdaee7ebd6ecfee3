//! Removes responses that other replicas have deleted from the cache of chains.

use std::sync::Arc;
use std::time::Duration;

use antiphon_runtime::Clock;
use antiphon_store::chain::Chains;

/// Well within [`Chains::STALENESS`].
const INTERVAL: Duration = Duration::from_secs(1);
/// How far the clocks of replicas may differ.
const CLOCK_SKEW: Duration = Duration::from_secs(10);
/// For the deletions that the server commits although their replica has given them up.
const GRACE: Duration = Duration::from_secs(2);

/// A deletion has the time of its request, and can be read only once it is committed: it may wait for `commit_timeout` in the queue of its
/// replica, and for as long in the database.
pub async fn watch(chains: Arc<Chains>, clock: Arc<dyn Clock>, commit_timeout: Duration) {
    let look_back = (CLOCK_SKEW + GRACE).saturating_add(commit_timeout.saturating_mul(2));
    let mut read_at = clock.now();
    loop {
        let now = clock.now();
        match chains.learn_deletions(read_at.minus(look_back)).await {
            Ok(()) => read_at = now,
            Err(error) => tracing::debug!(%error, "deletions by other replicas could not be read"),
        }
        tokio::time::sleep(INTERVAL).await;
    }
}
