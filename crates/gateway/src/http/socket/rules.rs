//! What the operator configured about WebSockets.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

#[derive(Debug)]
pub struct SocketRules {
    pub is_enabled: bool,
    pub max_age: Duration,
    pub ping_interval: Duration,
    /// For what connections remember, a permit a KiB.
    pub memory: Arc<Semaphore>,
}
