//! Metrics of the background jobs.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// Clones share their values.
#[derive(Debug, Clone, Default)]
pub struct JobMetrics {
    pub purged_responses: Counter,
    /// When the last purge ended, in UTC milliseconds; 0 for none.
    pub purged_at: Arc<AtomicI64>,
}

// === impl JobMetrics ===

impl JobMetrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "purged_responses",
            "Responses removed after deletion or expiry",
            self.purged_responses.clone(),
        );
    }
}
