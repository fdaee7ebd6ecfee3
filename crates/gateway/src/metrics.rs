//! The list of metrics. A registry is a value, so that tests in parallel do not share one.

mod limits;
mod sockets;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use antiphon_protocol::usage::Usage;
use antiphon_store::chain::Chains;
use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

pub use self::limits::LimitMeters;
pub use self::sockets::SocketMeters;
use crate::pool::{AccountView, Pool};
use crate::telemetry;
use crate::turn::{Reasoning, Transport};

const DURATION_BUCKETS: [f64; 13] =
    [0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TurnLabels {
    transport: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FailureLabels {
    fault: &'static str,
    code: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AccountLabels {
    account: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AttemptLabels {
    account: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StateLabels {
    account: String,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasoningLabels {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReloadLabels {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TokenLabels {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SocketTurnLabels {
    account: String,
    socket: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FallbackLabels {
    account: String,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RefreshLabels {
    account: String,
    outcome: &'static str,
}

/// What came of an attempt that the turn stayed with.
pub const ANSWERED: &str = "answered";

/// What each answer of one account counts.
#[derive(Debug)]
pub struct AccountMeters {
    pub answered: Counter,
    pub first_event: Histogram,
}

/// Counts in a gauge until it is dropped.
#[derive(Debug)]
pub struct Counted(Gauge);

/// Everything that is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    pub turns_in_flight: Gauge,
    pub connections: Gauge,
    pub sockets: SocketMeters,
    pub limits: LimitMeters,
    log_rows_lost: Counter,
    pub purged_responses: Counter,
    turns: Family<TurnLabels, Counter>,
    failures: Family<FailureLabels, Counter>,
    tokens: Family<TokenLabels, Counter>,
    cost_usd: Counter<f64, AtomicU64>,
    unpriced_turns: Counter,
    turn_seconds: Histogram,
    first_event_seconds: Histogram,
    store_available: Gauge,
    cache_bytes: Gauge,
    cache_hits: Gauge<u64, AtomicU64>,
    cache_misses: Gauge<u64, AtomicU64>,
    reasoning: [Counter; 3],
    reloads: Family<ReloadLabels, Counter>,
    token_refreshes: Family<RefreshLabels, Counter>,
    upstream_sockets: Gauge,
    upstream_socket_turns: Family<SocketTurnLabels, Counter>,
    upstream_socket_fallbacks: Family<FallbackLabels, Counter>,
    queued: Gauge,
    account_in_flight: Family<AccountLabels, Gauge>,
    account_state: Family<StateLabels, Gauge>,
    account_cooling: Family<AccountLabels, Gauge<f64, AtomicU64>>,
    account_attempts: Family<AttemptLabels, Counter>,
    account_first_event: Family<AccountLabels, Histogram, fn() -> Histogram>,
}

impl Metrics {
    pub fn new() -> Arc<Self> {
        let mut metrics = Self {
            registry: Registry::with_prefix("antiphon"),
            turns_in_flight: Gauge::default(),
            connections: Gauge::default(),
            sockets: SocketMeters::default(),
            limits: LimitMeters::default(),
            log_rows_lost: Counter::default(),
            purged_responses: Counter::default(),
            turns: Family::default(),
            failures: Family::default(),
            tokens: Family::default(),
            cost_usd: Counter::default(),
            unpriced_turns: Counter::default(),
            turn_seconds: Histogram::new(DURATION_BUCKETS),
            first_event_seconds: Histogram::new(DURATION_BUCKETS),
            store_available: Gauge::default(),
            cache_bytes: Gauge::default(),
            cache_hits: Gauge::default(),
            cache_misses: Gauge::default(),
            reasoning: Default::default(),
            reloads: Family::default(),
            token_refreshes: Family::default(),
            upstream_sockets: Gauge::default(),
            upstream_socket_turns: Family::default(),
            upstream_socket_fallbacks: Family::default(),
            queued: Gauge::default(),
            account_in_flight: Family::default(),
            account_state: Family::default(),
            account_cooling: Family::default(),
            account_attempts: Family::default(),
            account_first_event: Family::new_with_constructor(|| Histogram::new(DURATION_BUCKETS)),
        };
        metrics.register();
        Arc::new(metrics)
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register("turns", "Turns that have ended, by transport and outcome", self.turns.clone());
        registry.register("turns_in_flight", "Turns under way", self.turns_in_flight.clone());
        registry.register(
            "failures",
            "Turns that failed, by whose fault and error code",
            self.failures.clone(),
        );
        registry.register_with_unit(
            "turn_duration",
            "From a turn's start to its end",
            Unit::Seconds,
            self.turn_seconds.clone(),
        );
        registry.register_with_unit(
            "first_event",
            "From a turn's start to its first event, or to its collected reply",
            Unit::Seconds,
            self.first_event_seconds.clone(),
        );
        registry.register("connections", "Open client connections", self.connections.clone());
        registry.register("store_available", "1 if the store takes writes", self.store_available.clone());
        registry.register(
            "request_log_lost",
            "Request-log rows that could not be kept until the store took them",
            self.log_rows_lost.clone(),
        );
        registry.register(
            "log_lines_dropped",
            "Lines of the log that could not be written",
            telemetry::dropped_lines(),
        );
        registry.register(
            "purged_responses",
            "Responses removed after deletion or expiry",
            self.purged_responses.clone(),
        );
        registry.register_with_unit(
            "chain_cache",
            "Memory of cached turns",
            Unit::Bytes,
            self.cache_bytes.clone(),
        );
        registry.register("chain_cache_hits", "Chains found in memory", self.cache_hits.clone());
        registry.register("chain_cache_misses", "Chains read from the store", self.cache_misses.clone());
        self.sockets.register(registry);
        self.limits.register(registry);
        self.register_usage();
        self.register_accounts();
    }

    fn register_usage(&mut self) {
        let registry = &mut self.registry;
        registry.register("tokens", "Tokens that upstreams reported, by kind", self.tokens.clone());
        registry.register_with_unit(
            "cost",
            "What turns cost, by the prices of their models",
            Unit::Other("usd".to_owned()),
            self.cost_usd.clone(),
        );
        registry.register(
            "unpriced_turns",
            "Turns with tokens whose model has no price",
            self.unpriced_turns.clone(),
        );
    }

    fn register_accounts(&mut self) {
        let registry = &mut self.registry;
        let by_reasoning = Family::<ReasoningLabels, Counter>::default();
        self.reasoning = Reasoning::ALL.map(|reasoning| {
            by_reasoning.get_or_create_owned(&ReasoningLabels { state: reasoning.as_str() })
        });
        registry.register(
            "turns_reasoning",
            "Turns by what became of the encrypted items in their history: full, stripped or rebuilt",
            by_reasoning,
        );
        registry.register(
            "config_reloads",
            "How often the configuration was read again, by what came of it",
            self.reloads.clone(),
        );
        registry.register(
            "token_refreshes",
            "Refreshes of accounts' access tokens: refreshed, shared (by another replica), refused or failed",
            self.token_refreshes.clone(),
        );
        registry.register(
            "upstream_sockets",
            "Open sockets to upstreams, idle ones too",
            self.upstream_sockets.clone(),
        );
        registry.register(
            "upstream_socket_turns",
            "Turns that were sent over a socket, which was opened for them or reused",
            self.upstream_socket_turns.clone(),
        );
        registry.register(
            "upstream_socket_fallbacks",
            "Turns that did not stay on the socket they were meant for, by reason",
            self.upstream_socket_fallbacks.clone(),
        );
        registry.register("turns_queued", "Turns that wait for an account", self.queued.clone());
        registry.register("account_in_flight", "Turns that hold an account", self.account_in_flight.clone());
        registry.register(
            "account_state",
            "1 for the state that an account is in: ready, cooling, disabled or paused",
            self.account_state.clone(),
        );
        registry.register_with_unit(
            "account_cooling",
            "How long an account is still left alone",
            Unit::Seconds,
            self.account_cooling.clone(),
        );
        registry.register(
            "account_attempts",
            "Attempts, by account and what came of them",
            self.account_attempts.clone(),
        );
        registry.register_with_unit(
            "account_first_event",
            "From a turn's start to the account's first event",
            Unit::Seconds,
            self.account_first_event.clone(),
        );
    }

    pub fn history_put(&self, reasoning: Reasoning) {
        self.reasoning[reasoning as usize].inc();
    }

    pub fn reloaded(&self, outcome: &'static str) {
        self.reloads.get_or_create(&ReloadLabels { outcome }).inc();
    }

    pub fn token_refreshed(&self, account: &str, outcome: &'static str) {
        self.token_refreshes.get_or_create(&RefreshLabels { account: account.to_owned(), outcome }).inc();
    }

    pub fn upstream_socket_opened(&self) -> Counted {
        Counted::new(&self.upstream_sockets)
    }

    pub fn turn_on_socket(&self, account: &str, socket: &'static str) {
        let labels = SocketTurnLabels { account: account.to_owned(), socket };
        self.upstream_socket_turns.get_or_create(&labels).inc();
    }

    pub fn fell_back(&self, account: &str, reason: &'static str) {
        let labels = FallbackLabels { account: account.to_owned(), reason };
        self.upstream_socket_fallbacks.get_or_create(&labels).inc();
    }

    pub fn attempt_ended(&self, account: &str, outcome: &'static str) {
        self.account_attempts.get_or_create(&AttemptLabels { account: account.to_owned(), outcome }).inc();
    }

    pub fn account_meters(&self, account: &str) -> AccountMeters {
        let name = || account.to_owned();
        let answered = AttemptLabels { account: name(), outcome: ANSWERED };
        AccountMeters {
            answered: self.account_attempts.get_or_create_owned(&answered),
            first_event: self.account_first_event.get_or_create_owned(&AccountLabels { account: name() }),
        }
    }

    pub fn turn_ended(
        &self,
        transport: Transport,
        outcome: &'static str,
        duration: Duration,
        first_event: Option<Duration>,
    ) {
        self.turns.get_or_create(&TurnLabels { transport: transport.as_str(), outcome }).inc();
        self.turn_seconds.observe(duration.as_secs_f64());
        if let Some(first) = first_event {
            self.first_event_seconds.observe(first.as_secs_f64());
        }
    }

    /// Codes of an upstream's own making are counted together: labels must stay few.
    pub fn turn_failed(&self, fault: &'static str, code: Option<&str>) {
        let code =
            if fault == "upstream" || fault == "client" { known_code(code) } else { code.unwrap_or("none") };
        self.failures.get_or_create(&FailureLabels { fault, code: code.to_owned() }).inc();
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

    /// `None` is the cost of a model without a price.
    pub fn count_cost(&self, cost_nano_usd: Option<u64>) {
        match cost_nano_usd {
            Some(cost) => self.cost_usd.inc_by(cost as f64 / 1e9),
            None => self.unpriced_turns.inc() as f64,
        };
    }

    /// The Prometheus text, with what is read rather than counted brought up to date.
    pub fn render(&self, chains: &Chains, pool: &Pool) -> String {
        let cache = chains.cache_stats();
        self.count_lost_rows(chains.store().lost_rows());
        self.store_available.set(i64::from(chains.is_available()));
        self.cache_bytes.set(i64::try_from(cache.live_bytes).unwrap_or(i64::MAX));
        self.cache_hits.set(cache.hits);
        self.cache_misses.set(cache.misses);
        self.render_accounts(pool);
        let mut text = String::with_capacity(8 * 1024);
        encode(&mut text, &self.registry).expect("writing to a String does not fail");
        text
    }
}

impl Metrics {
    /// `lost` is how many there are so far. Scrapes at the same time may come here with different figures.
    fn count_lost_rows(&self, lost: u64) {
        self.log_rows_lost.inner().fetch_max(lost, Ordering::Relaxed);
    }

    fn render_accounts(&self, pool: &Pool) {
        let now = pool.now();
        self.queued.set(i64::try_from(pool.queued()).unwrap_or(i64::MAX));
        // Accounts may have gone since the last time.
        self.account_in_flight.clear();
        self.account_cooling.clear();
        self.account_state.clear();
        for AccountView { account, state } in pool.view() {
            let labels = AccountLabels { account: account.name.clone() };
            self.account_in_flight.get_or_create(&labels).set(i64::from(state.in_flight));
            let cooling = state.cooling.map_or(Duration::ZERO, |cooling| cooling.until.since(now));
            self.account_cooling.get_or_create(&labels).set(cooling.as_secs_f64());
            let is_in = state.name(now);
            for state in ["ready", "cooling", "disabled", "paused"] {
                let labels = StateLabels { account: account.name.clone(), state };
                self.account_state.get_or_create(&labels).set(i64::from(state == is_in));
            }
        }
    }
}

// === impl Counted ===

impl Counted {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Error codes that are counted by name.
fn known_code(code: Option<&str>) -> &str {
    const KNOWN: [&str; 20] = [
        "previous_response_not_found",
        "previous_response_not_completed",
        "missing_required_parameter",
        "invalid_type",
        "invalid_value",
        "invalid_json",
        "mutually_exclusive_parameters",
        "unsupported_value",
        "context_too_large",
        "context_length_exceeded",
        "invalid_encrypted_content",
        "model_not_found",
        "rate_limit_exceeded",
        "insufficient_quota",
        "invalid_api_key",
        "no_account_available",
        "upstream_unreachable",
        "upstream_timeout",
        "server_error",
        "server_is_overloaded",
    ];
    match code {
        None => "none",
        Some(code) => KNOWN.into_iter().find(|known| *known == code).unwrap_or("other"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scrapes_at_the_same_time_count_a_lost_row_once() {
        let metrics = Metrics::new();
        let lost = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100_000 {
                        lost.fetch_add(1, Ordering::SeqCst);
                        metrics.count_lost_rows(lost.load(Ordering::SeqCst));
                        let counted = metrics.log_rows_lost.get();
                        let now = lost.load(Ordering::SeqCst);
                        assert!(counted <= now, "{counted} counted of {now} that were lost");
                    }
                });
            }
        });
        assert_eq!(metrics.log_rows_lost.get(), 400_000);
        // An older figure that comes late changes nothing.
        metrics.count_lost_rows(7);
        assert_eq!(metrics.log_rows_lost.get(), 400_000);
    }
}
