//! `[usage]`: how long usage records are kept.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::Problems;
use super::store::Retention;
use super::values::format_duration;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct UsageConfig {
    /// How long each turn keeps its own row in the request log. Default: 30d.
    pub raw_retention: Retention,

    /// How long usage per hour is kept. Default: 90d.
    pub hour_retention: Retention,

    /// How long usage per day is kept. Default: 400d.
    pub day_retention: Retention,
}

impl Default for UsageConfig {
    fn default() -> Self {
        let days = |days: u64| Retention::For(Duration::from_hours(24 * days));
        Self { raw_retention: days(30), hour_retention: days(90), day_retention: days(400) }
    }
}

// === impl UsageConfig ===

impl UsageConfig {
    /// Coarser figures must be kept at least as long as finer ones.
    pub(super) fn validate(&self, problems: &mut Problems) {
        let order = [
            (("usage.hour_retention", self.hour_retention), ("usage.raw_retention", self.raw_retention)),
            (("usage.day_retention", self.day_retention), ("usage.hour_retention", self.hour_retention)),
        ];
        for ((key, longer), (shorter_key, shorter)) in order {
            let Some(longer) = longer.as_duration() else { continue };
            // With a value that was rejected, the default would be compared.
            let is_known = !problems.concern(shorter_key);
            if is_known && shorter.as_duration().is_none_or(|shorter| shorter > longer) {
                let shown = shorter.as_duration().map_or_else(|| "forever".to_owned(), format_duration);
                problems.reject(key, format!("must be at least {shorter_key}, which is {shown}"));
            }
        }
    }
}
