//! `[log]`: what is logged to standard error, and in which format.

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

use super::error::Problems;
use super::values::words;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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

impl LogConfig {
    /// The filter would take an unknown level for the name of a module, and then log nothing else.
    pub(super) fn validate(&self, problems: &mut Problems) {
        let is_level = |word: &str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word.trim()));
        let unknown =
            directives(&self.filter).into_iter().find(|directive| match directive.rsplit_once('=') {
                Some((_, level)) if !directive.ends_with(']') => !is_level(level),
                _ => !directive.contains('[') && !is_level(directive),
            });
        let levels = LEVELS.join(", ");
        let rule = match (unknown, EnvFilter::try_new(&self.filter)) {
            (Some(word), _) => format!("has the unknown level {:?}", word.trim()),
            (None, Err(error)) => format!("is not a filter: {error}"),
            (None, Ok(_)) => return,
        };
        problems.reject(
            "log.filter",
            format!("{rule}. Levels are {levels}; write them like \"info,antiphon=debug\""),
        );
    }
}

/// The parts between commas, without those in brackets and braces.
fn directives(filter: &str) -> Vec<&str> {
    let mut depth = 0_u32;
    let parts = filter.split(|c| {
        match c {
            '[' | '{' => depth += 1,
            ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    });
    parts.filter(|part| !part.trim().is_empty()).collect()
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info".to_owned() }
    }
}
