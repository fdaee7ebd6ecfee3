//! When the limit behind a refusal is reset, by what upstreams say about that in headers and error bodies.

use antiphon_protocol::error::UpstreamError;
use antiphon_store::Timestamp;
use http::HeaderMap;

use crate::account::reset_time::{after, header_text, parse_number, parse_reset};

const LIMIT_KINDS: [&str; 3] = ["requests", "tokens", "input-images"];
const CODEX_WINDOWS: [&str; 2] = ["primary", "secondary"];

/// When the limit behind a 429 is reset, by the most specific statement in the reply.
pub fn limit_reset_at(headers: &HeaderMap, error: &UpstreamError, now: Timestamp) -> Option<Timestamp> {
    let in_seconds = |seconds: f64| after(now, seconds);
    header_text(headers, "retry-after-ms")
        .and_then(|ms| ms.parse::<f64>().ok())
        .and_then(|ms| after(now, ms / 1000.0))
        .or_else(|| parse_reset(header_text(headers, "retry-after")?, now))
        .or_else(|| error.resets_in_seconds.and_then(in_seconds))
        .or_else(|| error.resets_at.and_then(|at| parse_number(at, now)))
        .or_else(|| exhausted_limits(headers, now))
        .or_else(|| exhausted_windows(headers, now))
}

/// `x-ratelimit-…`: the last reset of the exhausted limits, or of all limits where none is marked as exhausted.
fn exhausted_limits(headers: &HeaderMap, now: Timestamp) -> Option<Timestamp> {
    let resets = LIMIT_KINDS.map(|kind| {
        let reset = parse_reset(header_text(headers, &format!("x-ratelimit-reset-{kind}"))?, now)?;
        let is_exhausted = header_text(headers, &format!("x-ratelimit-remaining-{kind}")) == Some("0");
        Some((reset, is_exhausted))
    });
    let bare = header_text(headers, "x-ratelimit-reset").and_then(|reset| parse_reset(reset, now));
    let resets: Vec<(Timestamp, bool)> =
        resets.into_iter().flatten().chain(bare.map(|reset| (reset, false))).collect();
    let exhausted = resets.iter().filter(|(_, is_exhausted)| *is_exhausted).map(|(reset, _)| *reset).max();
    exhausted.or_else(|| resets.iter().map(|(reset, _)| *reset).max())
}

/// `x-codex-…`: the last reset of the exhausted windows, or the first of all windows where none is exhausted.
fn exhausted_windows(headers: &HeaderMap, now: Timestamp) -> Option<Timestamp> {
    let windows: Vec<(Timestamp, bool)> = CODEX_WINDOWS
        .iter()
        .filter_map(|window| {
            let header = |name: &str| header_text(headers, &format!("x-codex-{window}-{name}"));
            let reset = header("reset-after-seconds").or_else(|| header("reset-at"));
            let used: f64 = header("used-percent").and_then(|used| used.parse().ok()).unwrap_or(0.0);
            Some((parse_reset(reset?, now)?, used >= 100.0))
        })
        .collect();
    let exhausted = windows.iter().filter(|(_, is_exhausted)| *is_exhausted).map(|(reset, _)| *reset).max();
    exhausted.or_else(|| windows.iter().map(|(reset, _)| *reset).min())
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    /// 2026-11-21T00:00:00Z
    const NOW: Timestamp = Timestamp::from_unix_ms(1_795_219_200_000);

    fn ends(headers: &[(&str, &str)], body: &str) -> Option<i64> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap());
        }
        let ends = limit_reset_at(&map, &UpstreamError::parse(body.as_bytes()), NOW)?;
        Some(ends.unix_ms() - NOW.unix_ms())
    }

    #[test]
    fn every_form_of_a_reset_is_read() {
        for (value, expected) in [
            ("7", Some(7_000)),
            ("0", Some(0)),
            ("0.5", Some(500)),
            ("20ms", Some(20)),
            ("6m0s", Some(360_000)),
            ("1h2m3.5s", Some(3_723_500)),
            ("Sat, 21 Nov 2026 00:00:09 GMT", Some(9_000)),
            ("2026-11-21T01:00:10+01:00", Some(10_000)),
            ("1795219211", Some(11_000)),
            ("1795219212000", Some(12_000)),
            ("-3", None),
            ("soon", None),
            ("", None),
            ("NaN", None),
            ("inf", None),
        ] {
            assert_eq!(ends(&[("retry-after", value)], ""), expected, "{value}");
        }
    }

    #[test]
    fn the_most_specific_reset_wins() {
        let reset = ("x-ratelimit-reset-requests", "30s");
        assert_eq!(ends(&[("retry-after-ms", "1500"), ("retry-after", "9"), reset], ""), Some(1_500));
        assert_eq!(
            ends(&[("retry-after", "9"), reset], r#"{"error":{"resets_in_seconds":60}}"#),
            Some(9_000)
        );
        assert_eq!(ends(&[reset], r#"{"error":{"resets_in_seconds":60}}"#), Some(60_000));
        assert_eq!(ends(&[reset], r#"{"error":{"resets_at":1795219201}}"#), Some(1_000));
        assert_eq!(ends(&[reset], ""), Some(30_000));
        assert_eq!(ends(&[], ""), None);
    }

    #[test]
    fn exhausted_limits_take_precedence() {
        let limits = |requests, tokens| {
            ends(
                &[
                    ("x-ratelimit-reset-requests", "2m"),
                    ("x-ratelimit-remaining-requests", requests),
                    ("x-ratelimit-reset-tokens", "5s"),
                    ("x-ratelimit-remaining-tokens", tokens),
                ],
                "",
            )
        };
        assert_eq!(
            (limits("9", "0"), limits("0", "0"), limits("9", "9")),
            (Some(5_000), Some(120_000), Some(120_000))
        );
        let windows = |primary, secondary| {
            ends(
                &[
                    ("x-codex-primary-reset-after-seconds", "300"),
                    ("x-codex-primary-used-percent", primary),
                    ("x-codex-secondary-reset-at", "1795305600"),
                    ("x-codex-secondary-used-percent", secondary),
                ],
                "",
            )
        };
        assert_eq!(windows("100", "40"), Some(300_000));
        assert_eq!(windows("100.0", "100"), Some(86_400_000));
        assert_eq!(windows("1", "2"), Some(300_000));
    }
}
