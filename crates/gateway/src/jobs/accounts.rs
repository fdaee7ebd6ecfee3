//! Shares account state with other replicas, and probes accounts if that is configured.

use std::sync::Arc;
use std::time::Duration;

use antiphon_runtime::Clock;
use antiphon_store::Store;
use antiphon_upstream::pool::Pool;
use antiphon_upstream::transport::Upstream;

use super::outage::Outage;

/// How often to check whether probing has been configured.
const PROBE_CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// How often to verify doubted accounts that could not be verified before.
const VERIFY_INTERVAL: Duration = Duration::from_secs(30);
/// The least time between two verifications.
const VERIFY_PAUSE: Duration = Duration::from_secs(1);
/// How often to read what other replicas or operators changed.
const SHARE_INTERVAL: Duration = Duration::from_secs(1);
/// The least time between two reads.
const SHARE_PAUSE: Duration = Duration::from_millis(100);

/// Lists every upstream's models once, and finds out its API, so that the first turns know which account offers which model.
pub async fn load_catalogs(pool: Arc<Pool>, upstream: Upstream, clock: Arc<dyn Clock>) {
    let listing = pool.refresh_catalogs(&upstream, clock.now());
    tokio::join!(listing, pool.find_apis(&upstream, clock.now()));
    pool.check_credentials(&upstream).await;
}

/// Verifies accounts that became doubted, and again as long as they are.
pub async fn verify(pool: Arc<Pool>, upstream: Upstream) {
    loop {
        tokio::time::timeout(VERIFY_INTERVAL, pool.doubted()).await.ok();
        pool.verify(&upstream).await;
        tokio::time::sleep(VERIFY_PAUSE).await;
    }
}

/// Brings accounts back early that are cooling down after failures. Whether to do so may change while the gateway runs.
pub async fn probe(pool: Arc<Pool>, upstream: Upstream) {
    loop {
        let interval = pool.probe_interval();
        tokio::time::sleep(interval.unwrap_or(PROBE_CHECK_INTERVAL)).await;
        if interval.is_some() {
            pool.probe(&upstream).await;
        }
    }
}

/// Writes account state for other replicas and for the next start, and applies the changes of other replicas.
pub async fn share(pool: Arc<Pool>, store: Arc<dyn Store>) {
    let mut outage = Outage::new(
        "account state can't be shared: pauses and cooldowns of other processes are not followed",
        "account state can be shared again",
    );
    loop {
        outage.note(pool.sync(&*store).await, &*store);
        tokio::time::sleep(SHARE_PAUSE).await;
        tokio::time::timeout(SHARE_INTERVAL, pool.changed()).await.ok();
    }
}
