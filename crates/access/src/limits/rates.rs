//! The `x-ratelimit-` headers: how much of a client's per-minute limits is left.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use antiphon_runtime::whole_seconds;

const HEADER_PREFIX: &str = "x-ratelimit-";
const REQUEST_HEADERS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
];
const TOKEN_HEADERS: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit-tokens"),
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("x-ratelimit-reset-tokens"),
];

/// What is left this minute of a turn's limits. Where several limits count the same, it is the one with the least left.
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
    /// Replaces the headers that an upstream sent about its own limits.
    pub fn replace(&self, headers: &mut HeaderMap) {
        let upstreams: Vec<HeaderName> =
            headers.keys().filter(|name| name.as_str().starts_with(HEADER_PREFIX)).cloned().collect();
        for name in upstreams {
            headers.remove(name);
        }
        headers.extend(self.headers());
    }

    pub(crate) fn headers(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let headers_of = |rate: Option<Rate>, names: [HeaderName; 3]| {
            let values = rate.map(|rate| {
                // OpenAI's format of durations.
                let reset = HeaderValue::from_str(&format!("{}s", whole_seconds(rate.reset)));
                [
                    HeaderValue::from(rate.limit),
                    HeaderValue::from(rate.remaining),
                    reset.unwrap_or(HeaderValue::from_static("60s")),
                ]
            });
            names.into_iter().zip(values.into_iter().flatten())
        };
        headers_of(self.requests, REQUEST_HEADERS).chain(headers_of(self.tokens, TOKEN_HEADERS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_limit_headers_of_the_upstream_are_replaced() {
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
