//! Metrics of turns: number, duration, tokens, cost and failures.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use antiphon_protocol::usage::Usage;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::metrics_by::MetricsBy;
use super::{Door, Reasoning};

const DURATION_BUCKETS: [f64; 13] =
    [0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TurnLabels {
    transport: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    fault: &'static str,
    code: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasoningLabels {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TokenLabels {
    kind: &'static str,
}

/// The metrics of turns.
#[derive(Debug)]
pub struct TurnMetrics {
    pub in_flight: Gauge,
    pub by: MetricsBy,
    /// All turns that have ended.
    pub ended: Counter,
    turns: Family<TurnLabels, Counter>,
    failures: Family<FailureLabels, Counter>,
    tokens: Family<TokenLabels, Counter>,
    cost_usd: Counter<f64, AtomicU64>,
    unpriced: Counter,
    cut_off: Counter,
    usage_estimated: Counter,
    duration: Histogram,
    first_event: Histogram,
    by_reasoning: Family<ReasoningLabels, Counter>,
    /// The counters of `by_reasoning`, looked up once.
    reasoning: [Counter; 3],
}

// === impl TurnMetrics ===

impl TurnMetrics {
    /// Counts a turn by what its account got of the encrypted items.
    pub fn count_reasoning(&self, reasoning: Reasoning) {
        self.reasoning[reasoning as usize].inc();
    }

    pub fn turn_ended(
        &self,
        door: &Door,
        outcome: &'static str,
        duration: Duration,
        first_event: Option<Duration>,
    ) {
        self.ended.inc();
        self.turns.get_or_create(&TurnLabels { transport: door.name(), outcome }).inc();
        self.duration.observe(duration.as_secs_f64());
        if let Some(first) = first_event {
            self.first_event.observe(first.as_secs_f64());
        }
    }

    /// Counts unknown codes of upstreams together, as the number of label values must stay small.
    pub fn turn_failed(&self, fault: &'static str, code: Option<&str>) {
        let code =
            if fault == "upstream" || fault == "client" { metric_code(code) } else { code.unwrap_or("none") };
        self.failures.get_or_create(&FailureLabels { fault, code: code.to_owned() }).inc();
    }

    /// A turn was cut off at the shutdown timeout.
    pub fn turn_cut_off(&self) {
        self.cut_off.inc();
    }

    /// A turn was served whose upstream reported no usage.
    pub fn usage_estimated(&self) {
        self.usage_estimated.inc();
    }

    pub fn count_tokens(&self, usage: &Usage) {
        let kinds = [
            ("input", usage.input_tokens),
            ("cached", usage.cached_tokens),
            ("output", usage.output_tokens),
            ("reasoning", usage.reasoning_tokens),
        ];
        for (kind, count) in kinds.into_iter().filter(|(_, count)| *count > 0) {
            self.tokens.get_or_create(&TokenLabels { kind }).inc_by(count);
        }
    }

    /// `None` stands for a model without a price.
    pub fn count_cost(&self, cost_nano_usd: Option<u64>) {
        match cost_nano_usd {
            Some(cost) => self.cost_usd.inc_by(cost as f64 / 1e9),
            None => self.unpriced.inc() as f64,
        };
    }

    pub fn register(&self, registry: &mut Registry) {
        self.by.register(registry);
        registry.register("turns", "Finished turns, by transport and outcome", self.turns.clone());
        registry.register("turns_in_flight", "Turns in flight", self.in_flight.clone());
        registry.register(
            "failures",
            "Failed turns and requests, by fault and error code",
            self.failures.clone(),
        );
        registry.register_with_unit(
            "turn_duration",
            "Duration of a turn",
            Unit::Seconds,
            self.duration.clone(),
        );
        registry.register_with_unit(
            "first_event",
            "Time from the start of a turn to its first event or collected reply",
            Unit::Seconds,
            self.first_event.clone(),
        );
        registry.register("tokens", "Tokens that upstreams reported, by kind", self.tokens.clone());
        registry.register_with_unit(
            "cost",
            "Cost of turns, by the prices of their models",
            Unit::Other("usd".to_owned()),
            self.cost_usd.clone(),
        );
        registry.register(
            "unpriced_turns",
            "Turns with tokens whose model has no price",
            self.unpriced.clone(),
        );
        registry.register(
            "turns_cut_off",
            "Turns that were cut off at the shutdown timeout",
            self.cut_off.clone(),
        );
        registry.register(
            "turns_usage_estimated",
            "Turns whose usage is estimated, as a chat or embeddings upstream reported none",
            self.usage_estimated.clone(),
        );
        registry.register(
            "turns_reasoning",
            "Turns by the state of the encrypted items in their chain: full, stripped or rebuilt",
            self.by_reasoning.clone(),
        );
    }
}

impl Default for TurnMetrics {
    fn default() -> Self {
        let by_reasoning = Family::<ReasoningLabels, Counter>::default();
        let reasoning = Reasoning::ALL.map(|reasoning| {
            by_reasoning.get_or_create_owned(&ReasoningLabels { state: reasoning.as_str() })
        });
        Self {
            in_flight: Gauge::default(),
            by: MetricsBy::default(),
            ended: Counter::default(),
            turns: Family::default(),
            failures: Family::default(),
            tokens: Family::default(),
            cost_usd: Counter::default(),
            unpriced: Counter::default(),
            cut_off: Counter::default(),
            usage_estimated: Counter::default(),
            duration: Histogram::new(DURATION_BUCKETS),
            first_event: Histogram::new(DURATION_BUCKETS),
            by_reasoning,
            reasoning,
        }
    }
}

/// The label value of an error code.
fn metric_code(code: Option<&str>) -> &str {
    const KNOWN: [&str; 26] = [
        "previous_response_not_found",
        "previous_response_not_completed",
        "missing_required_parameter",
        "invalid_type",
        "invalid_value",
        "invalid_json",
        "unknown_parameter",
        "array_above_max_length",
        "mutually_exclusive_parameters",
        "unsupported_value",
        "context_too_large",
        "context_length_exceeded",
        "invalid_encrypted_content",
        "model_not_found",
        "rate_limit_exceeded",
        "insufficient_quota",
        "invalid_api_key",
        "invalid_admin_token",
        "no_account_available",
        "upstream_unreachable",
        "upstream_failed",
        "upstream_timeout",
        "request_too_large",
        "request_timeout",
        "server_error",
        "server_is_overloaded",
    ];
    match code {
        None => "none",
        Some(code) => KNOWN.into_iter().find(|known| *known == code).unwrap_or("other"),
    }
}
