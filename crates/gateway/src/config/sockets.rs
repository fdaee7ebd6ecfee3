//! `[sockets]`: WebSocket mode.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::values::{bytes, duration, switch};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct SocketsConfig {
    /// Whether clients may upgrade; if not, they are answered 426, which makes those that can use HTTP. Default: true.
    #[serde(deserialize_with = "switch::deserialize")]
    pub enabled: bool,

    /// How old a socket may get; then its turns are finished, and the client has to open another one. Default: 60m.
    #[serde(with = "duration")]
    pub max_age: Duration,

    /// Between two pings. Default: 30s.
    #[serde(with = "duration")]
    pub ping_interval: Duration,

    /// Memory for what sockets remember of turns that are not stored. A chain that finds no room in it can't be continued,
    /// and its client sends it again. Default: 256 MiB.
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
