//! Renews the locks of the turns that run in conversations.

use std::sync::Arc;
use std::time::Duration;

use crate::conversations::Conversations;

/// A lock survives two renewals that fail.
const INTERVAL: Duration = Duration::from_secs(8);

/// Never returns.
pub async fn renew_locks(conversations: Arc<Conversations>) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        if let Err(error) = conversations.renew_locks().await {
            tracing::warn!(%error, "locks of conversations could not be renewed; retrying later");
        }
    }
}
