//! Renews the locks of the turns that run in conversations.

use std::sync::Arc;
use std::time::Duration;

use super::renewing::pause_after;
use crate::conversations::Conversations;

/// A lock survives two renewals that fail.
const INTERVAL: Duration = Duration::from_secs(8);

/// Never returns.
pub async fn renew_locks(conversations: Arc<Conversations>) {
    let mut pause = INTERVAL;
    loop {
        tokio::time::sleep(pause).await;
        let renewed = conversations.renew_locks().await;
        if let Err(error) = &renewed {
            tracing::warn!(%error, "locks of conversations could not be renewed; retrying");
        }
        pause = pause_after(&renewed, INTERVAL);
    }
}
