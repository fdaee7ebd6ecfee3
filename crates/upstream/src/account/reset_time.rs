//! The forms in which upstreams say when a limit is reset.

use std::time::Duration;

use antiphon_store::Timestamp;
use http::HeaderMap;
use jiff::SignedDuration;

/// Numbers from here on are dates in seconds since the epoch, 2001 or later; smaller ones are seconds from now.
const MIN_EPOCH_SECONDS: f64 = 1e9;
/// Numbers from here on are dates in milliseconds since the epoch.
const MIN_EPOCH_MS: f64 = 1e12;

pub(crate) fn header_text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// A number of seconds, a duration such as `6m0s` or `20ms`, an HTTP date, or an RFC 3339 time with its zone.
pub(crate) fn parse_reset(text: &str, now: Timestamp) -> Option<Timestamp> {
    if let Ok(seconds) = text.parse::<f64>() {
        return parse_number(seconds, now);
    }
    if let Ok(duration) = text.parse::<SignedDuration>() {
        return after(now, duration.as_secs_f64());
    }
    let rfc3339 = || text.parse::<jiff::Timestamp>().ok();
    let http_date = || Some(jiff::fmt::rfc2822::parse(text).ok()?.timestamp());
    rfc3339().or_else(http_date).map(|time| Timestamp::from_unix_ms(time.as_millisecond()))
}

/// Seconds from now, or a date in seconds or milliseconds since the epoch.
pub(crate) fn parse_number(seconds: f64, now: Timestamp) -> Option<Timestamp> {
    const EPOCH: Timestamp = Timestamp::from_unix_ms(0);
    if seconds >= MIN_EPOCH_MS {
        after(EPOCH, seconds / 1000.0)
    } else if seconds >= MIN_EPOCH_SECONDS {
        after(EPOCH, seconds)
    } else {
        after(now, seconds)
    }
}

/// Rounded up to milliseconds, so that no request is sent too early.
pub(crate) fn after(from: Timestamp, seconds: f64) -> Option<Timestamp> {
    let ms = (seconds * 1000.0).ceil();
    (ms.is_finite() && ms >= 0.0).then(|| from.plus(Duration::from_millis(ms as u64)))
}
