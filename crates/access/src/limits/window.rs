//! Time windows of limits, in UTC. They are fixed, not sliding: a day is a calendar day, and everything in it counts until
//! it ends.

use std::fmt;

use antiphon_store::Timestamp;
use jiff::ToSpan;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const DAY_MS: i64 = 24 * HOUR_MS;
const WEEK_MS: i64 = 7 * DAY_MS;
/// 1970 began on a Thursday.
const FIRST_MONDAY_MS: i64 = 4 * DAY_MS;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Window {
    /// Only for per-minute limits.
    #[serde(skip)]
    Minute,
    Hour,
    Day,
    /// Starts on Monday.
    Week,
    Month,
}

// === impl Window ===

impl Window {
    /// Start and end of the window that contains this instant. The end belongs to the next window.
    pub(crate) fn bounds_at(self, now: Timestamp) -> (Timestamp, Timestamp) {
        let now = now.unix_ms();
        let anchored = |first: i64, length: i64| {
            let start = now - (now - first).rem_euclid(length);
            (start, start.saturating_add(length))
        };
        let (start, end) = match self {
            Self::Minute => anchored(0, MINUTE_MS),
            Self::Hour => anchored(0, HOUR_MS),
            Self::Day => anchored(0, DAY_MS),
            Self::Week => anchored(FIRST_MONDAY_MS, WEEK_MS),
            Self::Month => month_bounds_at(now),
        };
        (Timestamp::from_unix_ms(start), Timestamp::from_unix_ms(end))
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
        }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The first day of the month of this instant, and of the next one.
fn month_bounds_at(now_ms: i64) -> (i64, i64) {
    // Beyond the year 9999 there are no months.
    let now = jiff::Timestamp::from_millisecond(now_ms).unwrap_or(jiff::Timestamp::MAX);
    let day = now.to_zoned(TimeZone::UTC).date();
    let midnight = |day: Date| {
        let midnight = day.to_zoned(TimeZone::UTC).map(|time| time.timestamp());
        midnight.unwrap_or(jiff::Timestamp::MAX).as_millisecond()
    };
    (midnight(day.first_of_month()), midnight(day.last_of_month().saturating_add(1.day())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use antiphon_runtime::rfc3339;

    fn at(text: &str) -> Timestamp {
        let time: jiff::Timestamp = text.parse().unwrap();
        Timestamp::from_unix_ms(time.as_millisecond())
    }

    fn bounds_at(window: Window, now: &str) -> [String; 2] {
        let (start, end) = window.bounds_at(at(now));
        [rfc3339(start), rfc3339(end)]
    }

    #[test]
    fn windows_follow_the_calendar() {
        use Window::{Day, Hour, Minute, Month, Week};
        for (window, now, start, end) in [
            (Minute, "2026-11-21T08:24:59.999Z", "2026-11-21T08:24:00Z", "2026-11-21T08:25:00Z"),
            (Minute, "2026-11-21T08:25:00Z", "2026-11-21T08:25:00Z", "2026-11-21T08:26:00Z"),
            (Hour, "2026-12-31T23:59:59.999Z", "2026-12-31T23:00:00Z", "2027-01-01T00:00:00Z"),
            // Clocks go back in Berlin and in New York, and nothing happens here.
            (Hour, "2026-10-25T01:30:00Z", "2026-10-25T01:00:00Z", "2026-10-25T02:00:00Z"),
            (Day, "2026-10-25T01:30:00+02:00", "2026-10-24T00:00:00Z", "2026-10-25T00:00:00Z"),
            (Day, "2026-03-29T12:00:00Z", "2026-03-29T00:00:00Z", "2026-03-30T00:00:00Z"),
            (Day, "2024-02-29T00:00:00Z", "2024-02-29T00:00:00Z", "2024-03-01T00:00:00Z"),
            // A Saturday, a Sunday's last moment, a Monday's first.
            (Week, "2026-11-21T08:24:59Z", "2026-11-16T00:00:00Z", "2026-11-23T00:00:00Z"),
            (Week, "2026-11-22T23:59:59.999Z", "2026-11-16T00:00:00Z", "2026-11-23T00:00:00Z"),
            (Week, "2026-11-23T00:00:00Z", "2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z"),
            (Week, "2027-01-01T12:00:00Z", "2026-12-28T00:00:00Z", "2027-01-04T00:00:00Z"),
            (Week, "1970-01-01T00:00:00Z", "1969-12-29T00:00:00Z", "1970-01-05T00:00:00Z"),
            (Month, "2026-11-30T23:59:59.999Z", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"),
            (Month, "2026-12-31T23:59:59.999Z", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            (Month, "2027-01-01T00:00:00Z", "2027-01-01T00:00:00Z", "2027-02-01T00:00:00Z"),
            (Month, "2026-02-28T12:00:00Z", "2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z"),
            (Month, "2028-02-29T23:59:59Z", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"),
            (Month, "2100-02-28T23:59:59Z", "2100-02-01T00:00:00Z", "2100-03-01T00:00:00Z"),
            (Month, "2000-02-29T23:59:59Z", "2000-02-01T00:00:00Z", "2000-03-01T00:00:00Z"),
        ] {
            assert_eq!(bounds_at(window, now), [start, end], "the {window} of {now}");
        }
    }
}
