//! The state that all handlers share.

use std::sync::Arc;
use std::time::Duration;

use antiphon_access::keys::Keys;
use antiphon_errors::ErrorRow;
use antiphon_operations::Operations;
use axum::extract::FromRef;

use super::error::RequestError;
use super::origin::LocalOnly;
use super::readiness::Readiness;
use super::socket::metrics::SocketMetrics;
use super::socket::settings::SocketSettings;
use crate::body_memory::BodyMemory;
use crate::memory::MemoryCeiling;
use crate::metrics::Metrics;
use crate::turn::Turns;

#[derive(Clone)]
pub struct AppState {
    pub turns: Arc<Turns>,
    pub operations: Arc<Operations>,
    pub body_limits: Arc<BodyLimits>,
    pub memory: Arc<MemoryCeiling>,
    pub sockets: Arc<SocketSettings>,
    pub keys: Arc<Keys>,
    /// For requests without a key, and for a proxy on loopback that names an operator.
    pub local_only: Arc<LocalOnly>,
    /// Whether the operator lets everybody in without a key.
    pub lets_everybody_in: bool,
    pub metrics: Arc<Metrics>,
    /// The memory for replies to clients that need no key.
    pub open_replies: Arc<BodyMemory>,
    pub readiness: Arc<Readiness>,
    pub socket_metrics: Arc<SocketMetrics>,
    pub serves_dashboard: bool,
}

/// Limits on bodies in memory.
#[derive(Debug)]
pub struct BodyLimits {
    pub max_bytes: usize,
    /// How long to wait for a client in the middle of a body, and for memory.
    pub read_timeout: Duration,
    pub memory: Arc<BodyMemory>,
}

impl AppState {
    /// Counts a request that did not become a turn.
    pub fn count_rejected(&self, row: &ErrorRow) {
        self.turns.metrics.turn_failed(row.fault.as_str(), row.error.code.as_deref());
    }

    /// Counts and logs a request or a frame that did not become a turn.
    pub fn reject(&self, kind: &'static str, error: &RequestError) -> ErrorRow {
        let row = error.row();
        self.count_rejected(&row);
        // While memory is short, turns are refused in great number. The log says since when.
        if !matches!(error, RequestError::MemoryShort) {
            let (status, code) = (row.status.as_u16(), row.error.code.as_deref());
            tracing::info!(http.status = status, error.code = code, "{kind} rejected before parsing");
        }
        row
    }
}

impl FromRef<AppState> for Arc<Operations> {
    fn from_ref(state: &AppState) -> Self {
        Self::clone(&state.operations)
    }
}
