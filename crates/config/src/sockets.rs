//! `[sockets]`: WebSocket mode.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::values::{boolean, bytes, duration};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct SocketsConfig {
    /// Whether clients may use WebSockets. If not, they get 426, on which most of them fall back to HTTP. Default: true.
    #[serde(deserialize_with = "boolean::deserialize")]
    pub enabled: bool,

    /// The maximum age of a socket. Its turns are then finished, and the client has to open a new one. Default: 60m.
    #[serde(with = "duration")]
    pub max_age: Duration,

    /// The time between two pings. Default: 30s.
    #[serde(with = "duration")]
    pub ping_interval: Duration,

    /// Memory for unstored responses, which sockets remember. A chain that does not fit cannot be continued, and its client
    /// has to send it again. Default: 256 MiB.
    #[serde(with = "bytes")]
    pub memory: usize,
}

impl Default for SocketsConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            max_age: Duration::from_mins(60),
            ping_interval: Duration::from_secs(30),
            memory: 256 << 20,
        }
    }
}
