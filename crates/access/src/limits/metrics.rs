//! Metrics of limits. Never labelled by key: there may be any number of keys.

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

/// The metrics of limits.
#[derive(Debug, Default)]
pub struct LimitMetrics {
    rejections: Family<LimitLabels, Counter>,
    reservations: Gauge,
    pub swept: Counter,
}

// === impl LimitMetrics ===

impl LimitMetrics {
    /// A turn would have exceeded this one.
    pub fn rejected(&self, rule: &Rule) {
        let limit = match rule.measure {
            Measure::Requests => "requests",
            Measure::Turns => "concurrent_turns",
            Measure::Tokens if rule.is_budget() => "token_budget",
            Measure::Tokens => "tokens",
            Measure::Cost => "cost_budget",
        };
        self.rejections.get_or_create(&LimitLabels { limit }).inc();
    }

    /// A turn of this process holds something, until this is dropped.
    pub fn held(&self) -> GaugeGuard {
        GaugeGuard::new(&self.reservations)
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "limit_rejections",
            "Turns that would have exceeded a limit, by its kind",
            self.rejections.clone(),
        );
        registry.register(
            "reservations",
            "Turns of this process that hold something of a limit",
            self.reservations.clone(),
        );
        registry.register(
            "reservations_swept",
            "Reservations that had expired and were given back",
            self.swept.clone(),
        );
    }
}
