//! The time that a page looks at.

use antiphon_runtime::{Timestamp, rfc3339};
use antiphon_store::{DAY_MS, HOUR_MS};
use maud::{Markup, html};
use serde::Deserialize;

/// How far back a page looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum Window {
    #[default]
    #[serde(rename = "24h")]
    Day,
    #[serde(rename = "7d")]
    Week,
    #[serde(rename = "30d")]
    Month,
}

// === impl Window ===

impl Window {
    const ALL: [Self; 3] = [Self::Day, Self::Week, Self::Month];

    fn as_str(self) -> &'static str {
        match self {
            Self::Day => "24h",
            Self::Week => "7d",
            Self::Month => "30d",
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Day => "24 hours",
            Self::Week => "7 days",
            Self::Month => "30 days",
        }
    }

    /// The number and length of the intervals of its charts.
    fn intervals(self) -> (i64, i64) {
        match self {
            Self::Day => (24, HOUR_MS),
            Self::Week => (7 * 24, HOUR_MS),
            Self::Month => (30, DAY_MS),
        }
    }

    /// What a usage report groups by.
    pub fn grouping(self) -> &'static str {
        if self.intervals().1 == DAY_MS { "day" } else { "hour" }
    }

    /// When each interval starts; the present time is in the last one.
    pub fn starts(self, now: Timestamp) -> Vec<String> {
        let (count, length) = self.intervals();
        let latest = now.unix_ms() / length;
        (latest - count + 1..=latest).map(|at| rfc3339(Timestamp::from_unix_ms(at * length))).collect()
    }

    /// When the window of the same length before this one starts. It ends where this one starts.
    pub fn starts_before(self, now: Timestamp) -> String {
        let (count, length) = self.intervals();
        rfc3339(Timestamp::from_unix_ms((now.unix_ms() / length - 2 * count + 1) * length))
    }

    /// Links to the same page with each window.
    pub fn choice(self, path: &str) -> Markup {
        html! {
            nav .choice aria-label="Time" {
                @for window in Self::ALL {
                    a href={ (path) "?window=" (window.as_str()) } aria-current=[(window == self).then_some("true")] {
                        (window.as_str())
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_ends_with_the_interval_of_the_present_time() {
        let now = antiphon_runtime::parse_rfc3339("2026-11-21T23:40:00Z").unwrap();
        let starts = Window::Day.starts(now);
        assert_eq!((starts.len(), starts[0].as_str()), (24, "2026-11-21T00:00:00Z"));
        assert_eq!(starts[23], "2026-11-21T23:00:00Z");
        assert_eq!(Window::Day.starts_before(now), "2026-11-20T00:00:00Z");
        assert_eq!(Window::Month.starts(now)[0], "2026-10-23T00:00:00Z");
    }
}
