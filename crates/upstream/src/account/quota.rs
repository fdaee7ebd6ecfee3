//! How much of the upstream's limits is used, by the headers of its latest reply.

use std::sync::{Mutex, PoisonError};

use antiphon_store::Timestamp;
use http::HeaderMap;

use super::reset_time::{header_text, parse_reset};

/// A limit of the upstream.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QuotaWindow {
    /// `requests`, `tokens`, `primary` or `secondary`: the last two are those of a ChatGPT plan.
    pub name: &'static str,
    /// From 0 to 1.
    pub used: f64,
    pub resets_at: Option<Timestamp>,
}

/// What is known of an account's limits.
#[derive(Debug, Default)]
pub struct Quota(Mutex<[Option<QuotaWindow>; 4]>);

struct Limit {
    name: &'static str,
    limit: &'static str,
    remaining: &'static str,
    reset: &'static str,
}

struct Plan {
    name: &'static str,
    used_percent: &'static str,
    reset_after: &'static str,
    reset_at: &'static str,
}

const LIMITS: [Limit; 2] = [
    Limit {
        name: "requests",
        limit: "x-ratelimit-limit-requests",
        remaining: "x-ratelimit-remaining-requests",
        reset: "x-ratelimit-reset-requests",
    },
    Limit {
        name: "tokens",
        limit: "x-ratelimit-limit-tokens",
        remaining: "x-ratelimit-remaining-tokens",
        reset: "x-ratelimit-reset-tokens",
    },
];

const PLANS: [Plan; 2] = [
    Plan {
        name: "primary",
        used_percent: "x-codex-primary-used-percent",
        reset_after: "x-codex-primary-reset-after-seconds",
        reset_at: "x-codex-primary-reset-at",
    },
    Plan {
        name: "secondary",
        used_percent: "x-codex-secondary-used-percent",
        reset_after: "x-codex-secondary-reset-after-seconds",
        reset_at: "x-codex-secondary-reset-at",
    },
];

// === impl Quota ===

impl Quota {
    /// Notes what a reply says. A reply that says nothing about a limit changes nothing.
    pub fn note(&self, headers: &HeaderMap, now: Timestamp) {
        let [requests, tokens] = LIMITS.map(|limit| limit.read(headers, now));
        let [primary, secondary] = PLANS.map(|plan| plan.read(headers, now));
        let noted = [requests, tokens, primary, secondary];
        if noted.iter().any(Option::is_some) {
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            known.iter_mut().zip(noted).for_each(|(known, noted)| *known = noted.or(*known));
        }
    }

    /// The limits that have not been reset since.
    pub fn windows(&self, now: Timestamp) -> Vec<QuotaWindow> {
        let known = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.into_iter().flatten().filter(|window| window.resets_at.is_none_or(|at| at > now)).collect()
    }
}

impl Limit {
    fn read(&self, headers: &HeaderMap, now: Timestamp) -> Option<QuotaWindow> {
        let remaining = number(headers, self.remaining)?;
        let limit = number(headers, self.limit).filter(|limit| *limit > 0.0)?;
        let resets_at = header_text(headers, self.reset).and_then(|reset| parse_reset(reset, now));
        Some(QuotaWindow { name: self.name, used: share(1.0 - remaining / limit), resets_at })
    }
}

impl Plan {
    fn read(&self, headers: &HeaderMap, now: Timestamp) -> Option<QuotaWindow> {
        let used = number(headers, self.used_percent)?;
        let reset = header_text(headers, self.reset_after).or_else(|| header_text(headers, self.reset_at));
        let resets_at = reset.and_then(|reset| parse_reset(reset, now));
        Some(QuotaWindow { name: self.name, used: share(used / 100.0), resets_at })
    }
}

fn number(headers: &HeaderMap, name: &str) -> Option<f64> {
    header_text(headers, name)?.parse().ok().filter(|number: &f64| number.is_finite())
}

fn share(share: f64) -> f64 {
    share.clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_ms(1_795_219_200_000);

    fn noted(
        quota: &Quota,
        headers: &[(&'static str, &'static str)],
    ) -> Vec<(&'static str, f64, Option<i64>)> {
        let headers = headers.iter();
        let headers = headers
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        quota.note(&headers, NOW);
        let in_ms = |at: Timestamp| at.unix_ms() - NOW.unix_ms();
        let windows = quota.windows(NOW).into_iter();
        windows.map(|window| (window.name, window.used, window.resets_at.map(in_ms))).collect()
    }

    #[test]
    fn limits_are_read_and_kept_until_a_reply_says_otherwise() {
        let quota = Quota::default();
        let first = [
            ("x-ratelimit-limit-requests", "60"),
            ("x-ratelimit-remaining-requests", "45"),
            ("x-ratelimit-reset-requests", "1m"),
            ("x-codex-primary-used-percent", "12.5"),
            ("x-codex-primary-reset-after-seconds", "300"),
        ];
        let requests = ("requests", 0.25, Some(60_000));
        assert_eq!(noted(&quota, &first), [requests, ("primary", 0.125, Some(300_000))]);
        assert_eq!(noted(&quota, &[]), [requests, ("primary", 0.125, Some(300_000))]);
        let second = [("x-codex-primary-used-percent", "130")];
        assert_eq!(noted(&quota, &second), [requests, ("primary", 1.0, None)]);
        let later = Timestamp::from_unix_ms(NOW.unix_ms() + 60_000);
        assert_eq!(quota.windows(later).len(), 1, "the requests were reset");
    }

    #[test]
    fn what_is_no_figure_is_ignored() {
        for headers in [
            [("x-ratelimit-limit-tokens", "0"), ("x-ratelimit-remaining-tokens", "0")],
            [("x-ratelimit-limit-tokens", "many"), ("x-ratelimit-remaining-tokens", "1")],
            [("x-codex-primary-used-percent", "NaN"), ("x-codex-secondary-used-percent", "inf")],
        ] {
            assert_eq!(noted(&Quota::default(), &headers), []);
        }
    }
}
