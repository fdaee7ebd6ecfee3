//! What every door can reach.

use std::sync::Arc;
use std::time::Duration;

use antiphon_access::keys::Keys;
use axum::extract::FromRef;
use tokio::sync::Semaphore;

use super::origin::LocalOnly;
use super::readiness::Readiness;
use super::socket::metrics::SocketMetrics;
use super::socket::rules::SocketRules;
use crate::errors::ErrorRow;
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
    /// For requests without a key; `None` if the operator lets everybody in.
    pub local_only: Option<Arc<LocalOnly>>,
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

impl Doors {
    /// Counts a request that has not become a turn.
    pub fn count_rejected(&self, row: &ErrorRow) {
        self.turns.metrics.turn_failed(row.fault.as_str(), row.error.code.as_deref());
    }
}

impl FromRef<Doors> for Arc<Operations> {
    fn from_ref(doors: &Doors) -> Self {
        Self::clone(&doors.operations)
    }
}
