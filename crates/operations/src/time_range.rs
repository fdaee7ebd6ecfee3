//! Which time an overview is about: a window until now, or a range.

use antiphon_runtime::parse_rfc3339;
use antiphon_store::{DAY_MS, HOUR_MS, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::InvalidRequest;

/// The longest range: each of its intervals is a value in every series.
const MAX_DAYS: i64 = 366;

/// How far back an overview looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, ToSchema)]
#[schema(as = OverviewWindow)]
pub enum Window {
    #[default]
    #[serde(rename = "24h")]
    Day,
    #[serde(rename = "7d")]
    Week,
    #[serde(rename = "30d")]
    Month,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeRange {
    Until(Window),
    /// In UTC milliseconds.
    Between {
        from: i64,
        to: i64,
    },
}

/// When a time and its intervals begin, and the time before, which is as long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    pub before: i64,
    pub from: i64,
    pub to: i64,
    pub interval: i64,
}

/// A time that an operator has written: RFC 3339, or without a zone, which means UTC, and with or without a time of day.
pub fn parse_time(param: &str, text: &str) -> Result<Timestamp, InvalidRequest> {
    // In a URL, an unescaped plus sign stands for a space.
    let text = text.trim().replace(' ', "+");
    let full = match text.len() {
        10 => format!("{text}T00:00:00Z"),
        16 => format!("{text}:00Z"),
        19 => format!("{text}Z"),
        _ => text,
    };
    parse_rfc3339(&full).ok_or_else(|| {
        InvalidRequest::value(param, "expected a time such as 2026-11-22T10:00, in UTC or with a zone")
    })
}

// === impl TimeRange ===

impl TimeRange {
    /// By the parameters of a request; empty ones count as missing.
    pub fn parse(
        window: Option<Window>,
        from: Option<&str>,
        to: Option<&str>,
        now: Timestamp,
    ) -> Result<Self, InvalidRequest> {
        let not_empty =
            |text: Option<&'_ str>| text.map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned);
        let (from, to) = match (not_empty(from), not_empty(to)) {
            (None, None) => return Ok(Self::Until(window.unwrap_or_default())),
            (None, Some(_)) => {
                return Err(InvalidRequest::value("from", "expected the time where it begins"));
            }
            (Some(from), to) => (from, to),
        };
        if window.is_some() {
            return Err(InvalidRequest::value("window", "it cannot be combined with from and to"));
        }
        let from = parse_time("from", &from)?.unix_ms();
        let to = to.map_or(Ok(now), |to| parse_time("to", &to))?.unix_ms().min(now.unix_ms());
        if from >= to {
            return Err(InvalidRequest::value(
                "from",
                "expected a time before the end, which is now at the latest",
            ));
        }
        if to - from > MAX_DAYS * DAY_MS {
            let why = format_args!("expected at most {MAX_DAYS} days until the end");
            return Err(InvalidRequest::value("from", why));
        }
        Ok(Self::Between { from, to })
    }

    pub fn window(self) -> Option<Window> {
        if let Self::Until(window) = self { Some(window) } else { None }
    }

    pub(super) fn frame(self, now: Timestamp) -> Frame {
        match self {
            Self::Until(window) => window.frame(now),
            Self::Between { from, to } => {
                let interval = match to - from {
                    length if length <= 3 * DAY_MS => HOUR_MS,
                    length if length <= 21 * DAY_MS => 6 * HOUR_MS,
                    _ => DAY_MS,
                };
                let from = from.div_euclid(interval) * interval;
                let to = (to + interval - 1).div_euclid(interval) * interval;
                Frame { before: from - (to - from), from, to, interval }
            }
        }
    }
}

// === impl Window ===

impl Window {
    fn frame(self, now: Timestamp) -> Frame {
        let (days, interval) = match self {
            Self::Day => (1, HOUR_MS),
            Self::Week => (7, 6 * HOUR_MS),
            Self::Month => (30, DAY_MS),
        };
        let now = now.unix_ms();
        // Rounded to the nearest interval: the window is as long as the one before, give or take half an interval.
        let nearest = (now + interval / 2).div_euclid(interval) * interval;
        let to = now.div_euclid(interval) * interval + interval;
        let from = nearest - days * DAY_MS;
        Frame { before: from - (to - from) / DAY_MS * DAY_MS, from, to, interval }
    }
}

// === impl Frame ===

impl Frame {
    pub fn len(self) -> usize {
        usize::try_from((self.to - self.from) / self.interval).unwrap_or(0)
    }

    pub fn index(self, at: Timestamp) -> Option<usize> {
        usize::try_from((at.unix_ms() - self.from).div_euclid(self.interval)).ok().filter(|n| *n < self.len())
    }

    pub fn starts(self) -> impl Iterator<Item = Timestamp> {
        (0..self.len() as i64).map(move |n| Timestamp::from_unix_ms(self.from + n * self.interval))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2024-10-04T07:20:34.567Z
    const NOW: Timestamp = Timestamp::from_unix_ms(20_000 * DAY_MS + 7 * HOUR_MS + 1_234_567);

    fn between(from: &str, to: &str) -> Result<TimeRange, InvalidRequest> {
        TimeRange::parse(None, Some(from), Some(to), NOW)
    }

    #[test]
    fn a_window_and_the_one_before_begin_with_whole_intervals() {
        for (window, len) in [(Window::Day, 24..=25), (Window::Week, 28..=29), (Window::Month, 30..=31)] {
            let frame = window.frame(NOW);
            assert!(len.contains(&frame.len()), "{window:?}");
            assert_eq!((frame.from % frame.interval, frame.before % frame.interval), (0, 0), "{window:?}");
            assert!(frame.index(NOW) == Some(frame.len() - 1), "{window:?}");
            assert_eq!(frame.index(Timestamp::from_unix_ms(frame.from - 1)), None);
        }
    }

    #[test]
    fn a_range_begins_and_ends_with_whole_intervals() {
        for (from, to, len, interval) in [
            ("2024-10-03T10:30", "2024-10-03T11:10", 2, HOUR_MS),
            ("2024-10-01", "2024-10-04", 72, HOUR_MS),
            ("2024-09-30T23:00:00-01:00", "2024-10-04T07:00:00Z", 14, 6 * HOUR_MS),
            ("2023-10-05", "2024-10-04", 365, DAY_MS),
        ] {
            let frame = between(from, to).unwrap().frame(NOW);
            assert_eq!((frame.len(), frame.interval), (len, interval), "{from} {to}");
            assert_eq!(frame.from - frame.before, frame.to - frame.from);
        }
        let until_now = TimeRange::parse(None, Some("2024-10-04"), None, NOW).unwrap();
        assert_eq!(until_now.frame(NOW).len(), 8);
        assert_eq!(between("2024-10-04", "2030-01-01").unwrap(), until_now, "nothing is known of the future");
    }

    #[test]
    fn a_range_that_makes_no_sense_is_refused() {
        for (from, to, param) in [
            ("x", "2024-10-04", "from"),
            ("2024-10-01", "tomorrow", "to"),
            ("2024-10-03", "2024-10-02", "from"),
            ("2024-10-03", "2024-10-03", "from"),
            ("2029-10-03", "2029-10-04", "from"),
            ("2020-01-01", "2024-10-04", "from"),
            ("2024-02-30", "2024-10-04", "from"),
            ("", "2024-10-04", "from"),
        ] {
            assert_eq!(between(from, to).unwrap_err().param.as_deref(), Some(param), "{from} {to}");
        }
        let both = TimeRange::parse(Some(Window::Day), Some("2024-10-01"), None, NOW);
        assert_eq!(both.unwrap_err().param.as_deref(), Some("window"));
        assert_eq!(TimeRange::parse(None, Some(""), Some(" "), NOW), Ok(TimeRange::Until(Window::Day)));
    }
}
