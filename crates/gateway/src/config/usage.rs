//! `[usage]`: for how long it is known who used what.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::Problems;
use super::store::Retention;
use super::values::format_duration;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct UsageConfig {
    /// How long each turn has a row of its own, in the request log. Default: 30d.
    pub raw_retention: Retention,

    /// How long turns are counted by the hour. Default: 90d.
    pub hour_retention: Retention,

    /// How long turns are counted by the day. Default: 400d.
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
    /// What is counted more coarsely must be there before the finer counts go.
    pub(super) fn validate(&self, problems: &mut Problems) {
        let order = [
            (("usage.hour_retention", self.hour_retention), ("usage.raw_retention", self.raw_retention)),
            (("usage.day_retention", self.day_retention), ("usage.hour_retention", self.hour_retention)),
        ];
        for ((key, longer), (shorter_key, shorter)) in order {
            let Some(longer) = longer.limit() else { continue };
            if shorter.limit().is_none_or(|shorter| shorter > longer) {
                let shown = shorter.limit().map_or_else(|| "forever".to_owned(), format_duration);
                problems.refuse(key, format!("must be at least {shorter_key}, which is {shown}"));
            }
        }
    }
}
