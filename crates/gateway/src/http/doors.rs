//! What every door can reach.

use std::sync::Arc;
use std::time::Duration;

use antiphon_access::keys::Keys;
use axum::extract::FromRef;
use tokio::sync::Semaphore;

use super::operator::health::Readiness;
use super::socket::metrics::SocketMetrics;
use super::socket::rules::SocketRules;
use crate::metrics::Metrics;
use crate::operations::Operations;
use crate::turn::Turns;

#[derive(Clone)]
pub struct Doors {
    pub turns: Arc<Turns>,
    pub operations: Arc<Operations>,
    pub body_limits: Arc<BodyLimits>,
    pub sockets: Arc<SocketRules>,
    pub keys: Arc<Keys>,
    pub metrics: Arc<Metrics>,
    pub readiness: Arc<Readiness>,
    pub socket_metrics: Arc<SocketMetrics>,
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

impl FromRef<Doors> for Arc<Operations> {
    fn from_ref(doors: &Doors) -> Self {
        Self::clone(&doors.operations)
    }
}
