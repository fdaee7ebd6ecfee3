//! Metrics of traces: what was exported, and what was lost.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Counts spans. Clones share their values.
#[derive(Debug, Clone, Default)]
pub struct TraceMetrics {
    exported: Counter,
    dropped: Family<LossLabels, Counter>,
}

/// Why spans were lost.
#[derive(Debug, Clone, Copy)]
pub enum Lost {
    /// Too many of them waited.
    QueueFull,
    /// The collector could not be reached, or refused the request.
    Failed,
    /// The collector took others of the same request.
    Rejected,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LossLabels {
    reason: &'static str,
}

// === impl TraceMetrics ===

impl TraceMetrics {
    pub fn exported(&self, spans: u64) {
        self.exported.inc_by(spans);
    }

    pub fn lost(&self, why: Lost, spans: u64) {
        if spans == 0 {
            return;
        }
        let reason = match why {
            Lost::QueueFull => "queue_full",
            Lost::Failed => "failed",
            Lost::Rejected => "rejected",
        };
        self.dropped.get_or_create(&LossLabels { reason }).inc_by(spans);
    }

    pub fn register(&self, registry: &mut Registry) {
        registry.register("trace_spans_exported", "Spans that the collector took", self.exported.clone());
        registry.register(
            "trace_spans_dropped",
            "Spans that were lost, by reason: queue_full, failed or rejected",
            self.dropped.clone(),
        );
    }
}
