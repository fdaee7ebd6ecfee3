//! Metrics of client WebSockets.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

const TURNS_BUCKETS: [f64; 8] = [0.0, 1.0, 2.0, 5.0, 10.0, 25.0, 100.0, 500.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CloseLabels {
    code: u16,
}

/// The metrics of client WebSockets.
#[derive(Debug)]
pub struct SocketMetrics {
    pub open: Gauge,
    pub lanes: Gauge,
    turns: Histogram,
    closes: Family<CloseLabels, Counter>,
}

impl SocketMetrics {
    /// Counts a closed socket. Code 1006 stands for one without a close frame.
    pub fn closed(&self, code: u16, turns: u64) {
        self.turns.observe(turns as f64);
        self.closes.get_or_create(&CloseLabels { code }).inc();
    }

    pub fn register(&self, registry: &mut Registry) {
        registry.register("sockets", "Open client WebSockets", self.open.clone());
        registry.register("socket_lanes", "Lanes of open client WebSockets", self.lanes.clone());
        registry.register("socket_turns", "Turns of a client WebSocket when it closed", self.turns.clone());
        registry.register("socket_closes", "Closed client WebSockets, by close code", self.closes.clone());
    }
}

impl Default for SocketMetrics {
    fn default() -> Self {
        Self {
            open: Gauge::default(),
            lanes: Gauge::default(),
            turns: Histogram::new(TURNS_BUCKETS),
            closes: Family::default(),
        }
    }
}
