//! Tells the service manager that the gateway is alive, for as long as every worker is.

use std::sync::Arc;
use std::time::Duration;

use antiphon_runtime::workers::Workers;
use sd_notify::NotifyState;

/// Runs for as long as the gateway does. The service manager restarts a gateway that is silent for `interval`.
pub async fn notify(workers: Arc<Workers>, interval: Duration) {
    let pause = interval / 3;
    loop {
        tokio::time::sleep(pause).await;
        match tokio::time::timeout(pause, workers.respond()).await {
            Ok(()) => {
                if let Err(error) = sd_notify::notify(&[NotifyState::Watchdog]) {
                    tracing::warn!(%error, "the service manager cannot be notified");
                }
            }
            Err(_) => tracing::error!(
                ?pause,
                "a worker does not respond; the service manager may restart the gateway"
            ),
        }
    }
}
