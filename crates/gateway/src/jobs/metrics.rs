//! Metrics of the background jobs.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// Clones share their values.
#[derive(Debug, Clone, Default)]
pub struct JobMetrics {
    pub purged_responses: Counter,
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
