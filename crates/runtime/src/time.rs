//! Times in RFC 3339, and durations in whole seconds.

use std::time::Duration;

use crate::Timestamp;

/// The time in RFC 3339, in UTC.
pub fn rfc3339(time: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(time.unix_ms())
        .map_or_else(|_| format!("{} ms", time.unix_ms()), |time| time.to_string())
}

/// Reads an RFC 3339 time in any time zone. `None` without a time zone, as such a time is ambiguous.
pub fn parse_rfc3339(text: &str) -> Option<Timestamp> {
    // RFC 9557 adds a zone in brackets, which may contradict the offset.
    let is_plain = !text.contains('[') && text.as_bytes().get(10).is_some_and(|b| b"Tt ".contains(b));
    let time: jiff::Timestamp = text.parse().ok().filter(|_| is_plain)?;
    Some(Timestamp::from_unix_ms(time.as_millisecond()))
}

/// Reads the time in a `Date` header, such as `Sun, 06 Nov 1994 08:49:37 GMT`.
pub fn parse_http_date(text: &str) -> Option<Timestamp> {
    let time = jiff::fmt::rfc2822::parse(text).ok()?;
    Some(Timestamp::from_unix_ms(time.timestamp().as_millisecond()))
}

/// Whole seconds, rounded up, and at least one: a client that retries earlier would be rejected again.
pub fn whole_seconds(wait: Duration) -> u64 {
    wait.as_millis().div_ceil(1000).max(1).try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Zones of whole and of odd hours, both sides of changes to and from summer time, leap days and the turn of a year.
    #[test]
    fn a_time_in_any_zone_is_one_instant() {
        for (text, utc) in [
            ("2026-12-31T23:59:59Z", "2026-12-31T23:59:59Z"),
            ("2026-12-31T23:59:59z", "2026-12-31T23:59:59Z"),
            ("2026-12-31t23:59:59+00:00", "2026-12-31T23:59:59Z"),
            ("2026-12-31 23:59:59-00:00", "2026-12-31T23:59:59Z"),
            ("2027-01-01T00:59:59+01:00", "2026-12-31T23:59:59Z"),
            ("2026-12-31T12:00:00-12:00", "2027-01-01T00:00:00Z"),
            ("2027-01-01T14:00:00+14:00", "2027-01-01T00:00:00Z"),
            ("2026-07-01T00:00:00+05:30", "2026-06-30T18:30:00Z"),
            ("2026-07-01T00:00:00+05:45", "2026-06-30T18:15:00Z"),
            ("2026-07-01T00:00:00-03:30", "2026-07-01T03:30:00Z"),
            // Berlin, 2026-10-25: half past two occurs twice.
            ("2026-10-25T02:30:00+02:00", "2026-10-25T00:30:00Z"),
            ("2026-10-25T02:30:00+01:00", "2026-10-25T01:30:00Z"),
            // Berlin, 2026-03-29: half past two does not occur; with an offset it is an instant nevertheless.
            ("2026-03-29T02:30:00+01:00", "2026-03-29T01:30:00Z"),
            ("2028-02-29T12:00:00+09:00", "2028-02-29T03:00:00Z"),
            ("2026-12-31T23:59:59.999Z", "2026-12-31T23:59:59.999Z"),
            ("2026-12-31T23:59:59.9999Z", "2026-12-31T23:59:59.999Z"),
        ] {
            let time = parse_rfc3339(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(rfc3339(time), utc, "{text}");
        }
    }

    #[test]
    fn the_time_of_a_date_header_is_read() {
        let time = parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        assert_eq!(rfc3339(time), "1994-11-06T08:49:37Z");
        assert_eq!(parse_http_date("yesterday"), None);
    }

    #[test]
    fn a_time_without_a_zone_or_in_another_format_is_none() {
        for text in [
            "",
            "tomorrow",
            "2026-12-31",
            "2026-12-31T23:59:59",
            "20261231T235959Z",
            "2026-12-31T23:59:59 Europe/Berlin",
            "2026-12-31T23:59:59[Europe/Berlin]",
            "2026-12-31T23:59:59+01:00[Europe/Berlin]",
            "2027-02-29T12:00:00Z",
            "2026-12-31T24:00:01Z",
            "2026-12-31T23:59:59+26:00",
            "1798761599",
            "+002026-12-31T23:59:59Z",
        ] {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
    }
}
