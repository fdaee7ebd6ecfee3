//! Metrics of upstreams: attempts, token refreshes and sockets.

use antiphon_runtime::GaugeGuard;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

const FIRST_EVENT_BUCKETS: [f64; 13] =
    [0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0];

/// The outcome of an attempt whose reply the turn uses.
pub const ANSWERED: &str = "answered";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AccountLabels {
    account: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    account: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SocketTurnLabels {
    account: String,
    socket: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FallbackLabels {
    account: String,
    reason: &'static str,
}

/// Metrics that every served turn touches, resolved once per account.
#[derive(Debug)]
pub struct AccountMetrics {
    pub answered: Counter,
    pub first_event: Histogram,
}

/// The metrics of this crate. Clones share their values.
#[derive(Debug, Clone)]
pub struct UpstreamMetrics {
    token_refreshes: Family<OutcomeLabels, Counter>,
    sockets: Gauge,
    socket_turns: Family<SocketTurnLabels, Counter>,
    socket_fallbacks: Family<FallbackLabels, Counter>,
    attempts: Family<OutcomeLabels, Counter>,
    first_event: Family<AccountLabels, Histogram, fn() -> Histogram>,
}

// === impl UpstreamMetrics ===

impl UpstreamMetrics {
    pub(crate) fn token_refreshed(&self, account: &str, outcome: &'static str) {
        self.token_refreshes.get_or_create(&OutcomeLabels { account: account.to_owned(), outcome }).inc();
    }

    /// Counts a socket until the guard is dropped.
    pub(crate) fn socket_opened(&self) -> GaugeGuard {
        GaugeGuard::new(&self.sockets)
    }

    pub fn turn_on_socket(&self, account: &str, socket: &'static str) {
        self.socket_turns.get_or_create(&SocketTurnLabels { account: account.to_owned(), socket }).inc();
    }

    pub fn fell_back(&self, account: &str, reason: &'static str) {
        self.socket_fallbacks.get_or_create(&FallbackLabels { account: account.to_owned(), reason }).inc();
    }

    pub fn attempt_ended(&self, account: &str, outcome: &'static str) {
        self.attempts.get_or_create(&OutcomeLabels { account: account.to_owned(), outcome }).inc();
    }

    pub(crate) fn for_account(&self, account: &str) -> AccountMetrics {
        let name = || account.to_owned();
        AccountMetrics {
            answered: self
                .attempts
                .get_or_create_owned(&OutcomeLabels { account: name(), outcome: ANSWERED }),
            first_event: self.first_event.get_or_create_owned(&AccountLabels { account: name() }),
        }
    }

    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "token_refreshes",
            "Refreshes of accounts' access tokens, by outcome: refreshed, shared (by another replica), refused or failed",
            self.token_refreshes.clone(),
        );
        registry.register(
            "upstream_sockets",
            "Open WebSockets to upstreams, idle ones included",
            self.sockets.clone(),
        );
        registry.register(
            "upstream_socket_turns",
            "Turns sent over a WebSocket that was opened for them or reused",
            self.socket_turns.clone(),
        );
        registry.register(
            "upstream_socket_fallbacks",
            "Turns that left their WebSocket, by reason",
            self.socket_fallbacks.clone(),
        );
        registry.register("account_attempts", "Attempts, by account and outcome", self.attempts.clone());
        registry.register_with_unit(
            "account_first_event",
            "From a turn's start to the account's first event",
            Unit::Seconds,
            self.first_event.clone(),
        );
    }
}

impl Default for UpstreamMetrics {
    fn default() -> Self {
        Self {
            token_refreshes: Family::default(),
            sockets: Gauge::default(),
            socket_turns: Family::default(),
            socket_fallbacks: Family::default(),
            attempts: Family::default(),
            first_event: Family::new_with_constructor(|| Histogram::new(FIRST_EVENT_BUCKETS)),
        }
    }
}
