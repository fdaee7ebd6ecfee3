//! `[turns]`: what becomes of a turn whose client has gone.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::values::{duration, words};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct TurnsConfig {
    /// What happens when the client disconnects before the end. Default: finish.
    pub on_disconnect: OnDisconnect,

    /// How long a turn without its client may still run. Default: 10m.
    #[serde(with = "duration")]
    pub finish_timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDisconnect {
    /// The turn goes on and is recorded, so that the client finds its response when it comes back.
    Finish,
    /// The upstream request is dropped, and the response recorded as cancelled.
    Cancel,
}

words!(OnDisconnect { Finish => "finish", Cancel => "cancel" });

impl Default for TurnsConfig {
    fn default() -> Self {
        Self { on_disconnect: OnDisconnect::Finish, finish_timeout: Duration::from_mins(10) }
    }
}
