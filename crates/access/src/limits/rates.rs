//! The headers that tell a client how much of its per-minute limits is left.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use antiphon_runtime::whole_seconds;

const PREFIX: &str = "x-ratelimit-";
const REQUESTS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
];
const TOKENS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-tokens"),
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("x-ratelimit-reset-tokens"),
];

/// What is left this minute of the limits that a turn is under; of several that count the same, of the one with the least left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rates {
    pub requests: Option<Rate>,
    pub tokens: Option<Rate>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub limit: u64,
    pub remaining: u64,
    pub reset: Duration,
}

// === impl Rates ===

impl Rates {
    /// In place of what an upstream said of its own.
    pub fn replace(&self, headers: &mut HeaderMap) {
        let upstreams: Vec<HeaderName> =
            headers.keys().filter(|name| name.as_str().starts_with(PREFIX)).cloned().collect();
        for name in upstreams {
            headers.remove(name);
        }
        headers.extend(self.headers());
    }

    pub fn headers(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let of = |rate: Option<Rate>, names: [HeaderName; 3]| {
            let values = rate.map(|rate| {
                // As OpenAI writes durations.
                let reset = HeaderValue::from_str(&format!("{}s", whole_seconds(rate.reset)));
                [
                    HeaderValue::from(rate.limit),
                    HeaderValue::from(rate.remaining),
                    reset.unwrap_or(HeaderValue::from_static("60s")),
                ]
            });
            names.into_iter().zip(values.into_iter().flatten())
        };
        of(self.requests, REQUESTS).chain(of(self.tokens, TOKENS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_upstream_says_of_its_own_limits_goes() {
        let mut headers = HeaderMap::new();
        for name in ["x-ratelimit-limit-requests", "x-ratelimit-remaining-tokens", "x-request-id"] {
            headers.insert(name, HeaderValue::from_static("upstream"));
        }
        let requests = Rate { limit: 60, remaining: 59, reset: Duration::from_millis(12_001) };
        Rates { requests: Some(requests), tokens: None }.replace(&mut headers);
        let mut shown: Vec<_> =
            headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        shown.sort_unstable();
        assert_eq!(
            shown,
            [
                ("x-ratelimit-limit-requests", "60"),
                ("x-ratelimit-remaining-requests", "59"),
                ("x-ratelimit-reset-requests", "13s"),
                ("x-request-id", "upstream"),
            ]
        );
    }
}
