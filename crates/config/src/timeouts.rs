//! `[timeouts]`: how long to wait for upstreams and clients.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::values::duration;

/// None of these can be disabled: whatever waits forever holds memory forever.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct TimeoutsConfig {
    /// For connecting to an upstream, including TLS. Default: 10s.
    #[serde(with = "duration")]
    pub connect: Duration,

    /// From the end of the upstream request to the reply's headers, and from there to its first event, or to the end of a reply
    /// that is not streamed. A comment starts it anew: servers send comments while a turn waits for its place. Default: 10m.
    #[serde(with = "duration")]
    pub first_byte: Duration,

    /// Between two signs of life in an upstream's stream: events, pieces of events, or comments. Default: 5m.
    #[serde(with = "duration")]
    pub idle: Duration,

    /// How often a silent stream gets a comment, so that proxies do not cut it off. Default: 15s.
    #[serde(with = "duration")]
    pub keep_alive: Duration,

    /// For a whole turn, including all attempts. Default: 30m.
    #[serde(with = "duration")]
    pub turn: Duration,

    /// For a client to send the head of a request, and for an idle connection between two requests. Default: 120s.
    #[serde(with = "duration")]
    pub header_read: Duration,

    /// To wait for a client in the middle of a request body, beside 1 s for every 16 KiB of it. Default: 30s.
    #[serde(with = "duration")]
    pub body_read: Duration,

    /// How long a client may read nothing before it is disconnected. Default: 1m.
    #[serde(with = "duration")]
    pub write_stall: Duration,

    /// For running turns to finish at shutdown. Default: 30s.
    #[serde(with = "duration")]
    pub shutdown: Duration,
}

impl Default for TimeoutsConfig {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            first_byte: Duration::from_mins(10),
            idle: Duration::from_mins(5),
            keep_alive: Duration::from_secs(15),
            turn: Duration::from_mins(30),
            header_read: Duration::from_secs(120),
            body_read: Duration::from_secs(30),
            write_stall: Duration::from_mins(1),
            shutdown: Duration::from_secs(30),
        }
    }
}
