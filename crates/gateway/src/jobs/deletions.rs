//! Removes responses that other replicas have deleted from the cache of chains.

use std::sync::Arc;
use std::time::Duration;

use antiphon_runtime::Clock;
use antiphon_store::chain::Chains;

use super::outage::Outage;

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
    let mut outage = Outage::new(
        "deletions by other replicas can't be read: what they delete may be continued here for a while",
        "deletions by other replicas can be read again",
    );
    loop {
        let now = clock.now();
        let learnt = chains.learn_deletions(read_at.minus(look_back)).await;
        if learnt.is_ok() {
            read_at = now;
        }
        outage.note(learnt, &**chains.store());
        tokio::time::sleep(INTERVAL).await;
    }
}
