//! Metrics of limits. They have no label for the key, as the number of keys is unbounded.

use antiphon_store::Measure;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Rule;
use antiphon_runtime::GaugeGuard;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabels {
    limit: &'static str,
}

#[derive(Debug, Default)]
pub struct LimitMetrics {
    rejections: Family<LimitLabels, Counter>,
    reservations: Gauge,
    pub swept: Counter,
}

// === impl LimitMetrics ===

impl LimitMetrics {
    /// Counts a turn that was rejected by this limit.
    pub fn count_rejection(&self, rule: &Rule) {
        let limit = match rule.measure {
            Measure::Requests => "requests",
            Measure::Turns => "concurrent_turns",
            Measure::Tokens if rule.is_budget() => "token_budget",
            Measure::Tokens => "tokens",
            Measure::Cost => "cost_budget",
        };
        self.rejections.get_or_create(&LimitLabels { limit }).inc();
    }

    /// Counts a reservation until the guard is dropped.
    pub fn reservation_guard(&self) -> GaugeGuard {
        GaugeGuard::new(&self.reservations)
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "limit_rejections",
            "Turns rejected by a limit, by kind of limit",
            self.rejections.clone(),
        );
        registry.register(
            "reservations",
            "Turns of this process that hold a reservation",
            self.reservations.clone(),
        );
        registry.register(
            "reservations_swept",
            "Expired reservations that were released",
            self.swept.clone(),
        );
    }
}
