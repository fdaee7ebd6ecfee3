//! `[routing]`: how turns are spread over accounts.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::values::{count, duration, words};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct RoutingConfig {
    /// Which account gets a turn that belongs to none yet. Default: least_loaded.
    pub strategy: Strategy,

    /// Turns that may wait while every account has as many as it may; who comes later is refused. Default: 1000.
    #[serde(deserialize_with = "count::deserialize")]
    pub max_queued: usize,

    /// How long a turn waits for an account. Default: 1m.
    #[serde(with = "duration")]
    pub queue_timeout: Duration,

    /// How often an account that cools after failures is asked for its `/models`, to have it back early. Default: never.
    #[serde(deserialize_with = "duration::deserialize_some", serialize_with = "duration::serialize_some")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe_interval: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// The one with the fewest turns in flight, for its weight.
    LeastLoaded,
    /// Each in turn, as often as its weight says.
    RoundRobin,
    /// The first in the file, until it has as many as it may or is not ready.
    FillFirst,
}

words!(Strategy { LeastLoaded => "least_loaded", RoundRobin => "round_robin", FillFirst => "fill_first" });

impl Default for RoutingConfig {
    fn default() -> Self {
        Self {
            strategy: Strategy::LeastLoaded,
            max_queued: 1000,
            queue_timeout: Duration::from_mins(1),
            probe_interval: None,
        }
    }
}
