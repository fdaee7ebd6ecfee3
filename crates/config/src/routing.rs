//! `[routing]`: how turns are distributed over accounts.

use std::time::Duration;

use antiphon_upstream::settings::{RoutingSettings, Strategy};
use serde::{Deserialize, Serialize};

use super::values::{Word, count, duration, word};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct RoutingConfig {
    /// How the account of a new chain is chosen. Default: least_loaded.
    #[serde(with = "word")]
    pub strategy: Strategy,

    /// How many turns may wait while all accounts are at their maximum; further ones are rejected. Default: 1000.
    #[serde(deserialize_with = "count::deserialize")]
    pub max_queued: usize,

    /// How long a turn waits for an account. Default: 1m.
    #[serde(with = "duration")]
    pub queue_timeout: Duration,

    /// A turn waits if an account's cooldown ends within this time. Default: 10s.
    #[serde(with = "duration")]
    pub patience: Duration,

    /// How often an account that is cooling down after failures is probed with `/models`; a success ends the cooldown.
    /// Default: never.
    #[serde(deserialize_with = "duration::deserialize_some", serialize_with = "duration::serialize_some")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe_interval: Option<Duration>,
}

impl Word for Strategy {
    const WORDS: &[(&str, Self)] = &[
        ("least_loaded", Self::LeastLoaded),
        ("round_robin", Self::RoundRobin),
        ("fill_first", Self::FillFirst),
    ];
}

impl RoutingConfig {
    pub fn settings(&self) -> RoutingSettings {
        let Self { strategy, max_queued, queue_timeout, patience, probe_interval } = *self;
        RoutingSettings { strategy, max_queued, queue_timeout, patience, probe_interval }
    }
}

impl Default for RoutingConfig {
    fn default() -> Self {
        Self {
            strategy: Strategy::LeastLoaded,
            max_queued: 1000,
            queue_timeout: Duration::from_mins(1),
            patience: Duration::from_secs(10),
            probe_interval: None,
        }
    }
}
