//! `[background]`: background responses.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::values::{bytes, count, count_or_zero, duration};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct BackgroundConfig {
    /// How many background turns this process runs at once; further ones are queued. Default: 64.
    #[serde(deserialize_with = "count::deserialize")]
    pub max_running: usize,

    /// How many background turns of a project may be queued. Default: 1,000.
    #[serde(deserialize_with = "count::deserialize")]
    pub max_queued: u64,

    /// How much the queued background turns of a project may store, in bytes. Default: 1 GiB.
    #[serde(with = "bytes")]
    pub max_queued_bytes: usize,

    /// From the creation of a background turn to its end. Default: 1h.
    #[serde(with = "duration")]
    pub max_duration: Duration,

    /// How long the events of a background turn can be read after its end. Default: 1h.
    #[serde(with = "duration")]
    pub log_retention: Duration,

    /// How often a turn is run again whose gateway has died before its client saw anything of it. Default: 1.
    #[serde(deserialize_with = "count_or_zero::deserialize")]
    pub retries: u32,

    /// How long a turn waits for a gateway that gives no sign of life before another one takes it over. Default: 30s.
    #[serde(with = "duration")]
    pub lease: Duration,
}

impl Default for BackgroundConfig {
    fn default() -> Self {
        Self {
            max_running: 64,
            max_queued: 1_000,
            max_queued_bytes: 1 << 30,
            max_duration: Duration::from_hours(1),
            log_retention: Duration::from_hours(1),
            retries: 1,
            lease: Duration::from_secs(30),
        }
    }
}
