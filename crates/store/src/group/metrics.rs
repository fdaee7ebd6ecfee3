//! What the writers measure.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::NotCommitted;

const BUCKETS: [f64; 12] = [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0];

#[derive(Debug, Clone)]
pub(super) struct CommitMetrics {
    duration: Histogram,
    pub(super) failures: Counter,
}

// === impl CommitMetrics ===

impl CommitMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Duration of a commit, which turns that end at the same time share";
        registry.register_with_unit("store_commit", help, Unit::Seconds, self.duration.clone());
        let help = "Commits that failed because the store was unavailable or too slow";
        registry.register("store_failed_commits", help, self.failures.clone());
    }

    pub(super) fn note<T>(&self, took: Duration, committed: &Result<T, NotCommitted>) {
        self.duration.observe(took.as_secs_f64());
        if matches!(committed, Err(NotCommitted::Unavailable(_) | NotCommitted::Deadline)) {
            self.failures.inc();
        }
    }
}

impl Default for CommitMetrics {
    fn default() -> Self {
        Self { duration: Histogram::new(BUCKETS), failures: Counter::default() }
    }
}
