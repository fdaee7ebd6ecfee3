//! Metrics of background turns.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The metrics of background turns.
#[derive(Debug, Default)]
pub struct BackgroundMetrics {
    pub queued: Gauge,
    pub running: Gauge,
    pub taken_over: Counter,
    pub log_failures: Counter,
}

// === impl BackgroundMetrics ===

impl BackgroundMetrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "background_queued",
            "Background turns that wait in this process",
            self.queued.clone(),
        );
        registry.register(
            "background_running",
            "Background turns that this process runs",
            self.running.clone(),
        );
        registry.register(
            "background_taken_over",
            "Background turns that were taken over from another process",
            self.taken_over.clone(),
        );
        registry.register(
            "background_log_failures",
            "Background turns that stopped because their events could not be logged",
            self.log_failures.clone(),
        );
    }
}
