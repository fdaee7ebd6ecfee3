//! What every door can reach.

use std::sync::Arc;
use std::time::Duration;

use antiphon_access::keys::Keys;
use tokio::sync::Semaphore;

use super::socket::metrics::SocketMetrics;
use super::socket::rules::SocketRules;
use crate::metrics::Metrics;
use crate::turn::Turns;

#[derive(Clone)]
pub struct Doors {
    pub turns: Arc<Turns>,
    pub body_limits: Arc<BodyLimits>,
    pub sockets: Arc<SocketRules>,
    pub keys: Arc<Keys>,
    pub metrics: Arc<Metrics>,
    pub socket_metrics: Arc<SocketMetrics>,
    /// How long usage is kept by the hour; `None` is for ever.
    pub hour_retention: Option<Duration>,
}

/// How much of clients' request bodies is held in memory.
#[derive(Debug)]
pub struct BodyLimits {
    pub max_bytes: usize,
    /// How long a client may take between two pieces of a body.
    pub read_timeout: Duration,
    /// One permit a KiB, over all connections.
    pub memory: Arc<Semaphore>,
}
