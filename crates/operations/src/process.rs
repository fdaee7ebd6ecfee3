//! What the gateway that serves these operations is doing. A command has none: its figures are zero.

use std::sync::atomic::AtomicI64;
use std::sync::{Arc, RwLock};
use std::time::Instant;

use antiphon_access::keys::Attempts;
use antiphon_config::Config;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{Mutex, Semaphore};

use super::live::LiveFrame;
use super::overview::CachedOverview;
use super::sessions::TokenSignIns;
use super::watchers::Watchers;

/// How many reports read from the store at the same time: turns read over the same connections.
const CONCURRENT_REPORTS: usize = 2;

/// Clones share their values.
#[derive(Debug, Clone)]
pub struct Process {
    pub turns: Gauge,
    pub sockets: Gauge,
    /// Background turns that run.
    pub background: Gauge,
    pub ended_turns: Counter,
    /// When the store was last purged, in UTC milliseconds; 0 for never.
    pub purged_at: Arc<AtomicI64>,
    pub config: Arc<RwLock<CurrentConfig>>,
    pub(super) reports: Arc<Semaphore>,
    pub(super) watchers: Watchers,
    pub(super) token_sign_ins: Arc<TokenSignIns>,
    /// By the name that the proxy gives: all of its operators share its address.
    pub(super) proxied_sign_ins: Arc<Attempts<String>>,
    pub(super) overviews: Arc<Mutex<Vec<CachedOverview>>>,
    pub(super) live: Arc<Mutex<Option<LatestFrame>>>,
}

/// The configuration of the process as it is now.
#[derive(Debug)]
pub struct CurrentConfig {
    pub in_effect: Config,
    /// The sections that have changed since the process started and that only a restart applies.
    pub needs_restart: Vec<&'static str>,
}

/// The live figures of a moment.
#[derive(Debug)]
pub(super) struct LatestFrame {
    pub at: Instant,
    /// How many turns had ended.
    pub ended_turns: u64,
    pub frame: Arc<LiveFrame>,
}

impl Process {
    pub fn new(config: Config) -> Self {
        let config = CurrentConfig { in_effect: config, needs_restart: Vec::new() };
        Self {
            turns: Gauge::default(),
            sockets: Gauge::default(),
            background: Gauge::default(),
            ended_turns: Counter::default(),
            purged_at: Arc::default(),
            config: Arc::new(RwLock::new(config)),
            reports: Arc::new(Semaphore::new(CONCURRENT_REPORTS)),
            watchers: Watchers::default(),
            token_sign_ins: Arc::default(),
            proxied_sign_ins: Arc::default(),
            overviews: Arc::default(),
            live: Arc::default(),
        }
    }
}
