//! What the operator configured about WebSockets.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

#[derive(Debug)]
pub struct SocketSettings {
    pub is_enabled: bool,
    pub max_age: Duration,
    pub ping_interval: Duration,
    /// For the responses that connections remember: one permit per KiB.
    pub memory: Arc<Semaphore>,
}
