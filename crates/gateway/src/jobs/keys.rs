//! Keys: changes made elsewhere are read, and last uses written.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use antiphon_access::keys::Keys;
use antiphon_store::Store;

const WATCH_INTERVAL: Duration = Duration::from_secs(1);
const NOTE_INTERVAL: Duration = Duration::from_mins(1);

/// Picks up keys that were created or revoked by another process.
pub async fn watch(keys: Arc<Keys>, store: Arc<dyn Store>) {
    loop {
        tokio::time::sleep(WATCH_INTERVAL).await;
        if let Err(error) = keys.refresh(&*store).await {
            tracing::debug!(%error, "changes of keys could not be read");
        }
    }
}

/// Writes when keys were last used. Apart from [`watch`], as it takes a while with many keys.
pub async fn note_uses(keys: Arc<Keys>, store: Arc<dyn Store>) {
    let mut noted = HashMap::new();
    loop {
        tokio::time::sleep(NOTE_INTERVAL).await;
        if let Err(error) = keys.write_last_uses(&*store, &mut noted).await {
            tracing::debug!(%error, "last uses of keys could not be written");
        }
    }
}
