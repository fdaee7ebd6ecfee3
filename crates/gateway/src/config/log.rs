//! `[log]`: what is logged to standard error, and in which format.

use serde::{Deserialize, Serialize};

use super::values::words;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct LogConfig {
    /// Lines for people or for machines. Default: text.
    pub format: LogFormat,

    /// What is logged, in the syntax of tracing-subscriber's `EnvFilter`, such as `info,antiphon=debug`. Default: info.
    pub filter: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    /// One JSON object per line.
    Json,
}

words!(LogFormat { Text => "text", Json => "json" });

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info".to_owned() }
    }
}
