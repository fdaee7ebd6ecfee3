//! `[turns]`: what happens to a turn whose client disconnects.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::values::{duration, words};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct TurnsConfig {
    /// What happens to a stored turn when its client disconnects before the end. Default: finish.
    pub on_disconnect: OnDisconnect,

    /// How long a turn may continue without its client. Default: 10m.
    #[serde(with = "duration")]
    pub finish_timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDisconnect {
    /// The turn continues and is recorded, so that the client can retrieve its response later.
    Finish,
    /// The upstream request is closed, and the response recorded as cancelled.
    Cancel,
}

words!(OnDisconnect { Finish => "finish", Cancel => "cancel" });

impl Default for TurnsConfig {
    fn default() -> Self {
        Self { on_disconnect: OnDisconnect::Finish, finish_timeout: Duration::from_mins(10) }
    }
}
