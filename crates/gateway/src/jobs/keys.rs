//! Picks up changed keys, and writes when keys were last used, and by which clients.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use antiphon_access::keys::Keys;
use antiphon_store::Store;

use super::outage::Outage;

const WATCH_INTERVAL: Duration = Duration::from_secs(1);
const WRITE_INTERVAL: Duration = Duration::from_mins(1);

/// Picks up keys that another process created or changed.
pub async fn watch(keys: Arc<Keys>, store: Arc<dyn Store>) {
    let mut outage = Outage::new(
        "keys can't be read: changed and revoked keys stay as they were",
        "keys can be read again",
    );
    loop {
        tokio::time::sleep(WATCH_INTERVAL).await;
        outage.note(keys.refresh(&*store).await, &*store);
    }
}

/// Writes when keys were last used, and by which clients. Separate from [`watch`], as it is slow with many keys.
pub async fn write_last_uses(keys: Arc<Keys>, store: Arc<dyn Store>) {
    let mut written = HashMap::new();
    loop {
        tokio::time::sleep(WRITE_INTERVAL).await;
        if let Err(error) = keys.write_last_uses(&*store, &mut written).await {
            tracing::debug!(%error, "last uses of keys could not be written; retrying");
        }
        if let Err(error) = keys.write_clients(&*store).await {
            tracing::debug!(%error, "clients of keys could not be written; retrying");
        }
    }
}
