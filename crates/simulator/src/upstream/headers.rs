//! The headers that the real API reads and sends.

use super::options::Options;
use super::refusal::Refusal;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const LIMIT_REQUESTS: u64 = 10_000;

#[derive(Debug)]
pub(super) struct Headers {
    authorization: Option<String>,
    /// No credential is good any more.
    pub(super) is_revoked: AtomicBool,
    limits_reset: [&'static str; 2],
    sent: AtomicU64,
}

impl Headers {
    pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");
    pub(super) const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream; charset=utf-8");

    pub(super) fn new(options: &Options) -> Self {
        Self {
            authorization: options.api_key.as_ref().map(|key| format!("Bearer {key}")),
            is_revoked: AtomicBool::new(false),
            limits_reset: options.limits_reset,
            sent: AtomicU64::new(0),
        }
    }

    pub(super) fn check_bearer(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let is_expected = self.authorization.as_ref().is_none_or(|expected| given == expected);
        if is_expected && !self.is_revoked.load(Ordering::Relaxed) {
            return Ok(());
        }
        let key = given.strip_prefix("Bearer ").unwrap_or_default();
        let shown: String = key.chars().take(4).chain("****".chars()).collect();
        let message = format!(
            "Incorrect API key provided: {shown}. You can find your API key at https://platform.openai.com/account/api-keys."
        );
        Err(Refusal::invalid(message).status(401).code("invalid_api_key"))
    }

    pub(super) fn all<B>(&self, response: &mut Response<B>, content_type: &str, request_id: &str) {
        let used = self.sent.fetch_add(1, Ordering::Relaxed) % LIMIT_REQUESTS;
        let headers = response.headers_mut();
        let [requests_reset, tokens_reset] = self.limits_reset;
        let texts = [
            (CONTENT_TYPE, content_type),
            (REQUEST_ID, request_id),
            (HeaderName::from_static("openai-version"), "2020-10-01"),
            (HeaderName::from_static("openai-processing-ms"), "7"),
            (HeaderName::from_static("x-ratelimit-reset-requests"), requests_reset),
            (HeaderName::from_static("x-ratelimit-limit-tokens"), "200000"),
            (HeaderName::from_static("x-ratelimit-remaining-tokens"), "199000"),
            (HeaderName::from_static("x-ratelimit-reset-tokens"), tokens_reset),
        ];
        for (name, text) in texts {
            if let Ok(value) = HeaderValue::from_str(text) {
                headers.insert(name, value);
            }
        }
        headers.insert(HeaderName::from_static("x-ratelimit-limit-requests"), LIMIT_REQUESTS.into());
        let remaining = LIMIT_REQUESTS - 1 - used;
        headers.insert(HeaderName::from_static("x-ratelimit-remaining-requests"), remaining.into());
    }

    /// Only what a benchmark needs.
    pub(super) fn few<B>(&self, response: &mut Response<B>, content_type: HeaderValue, drawn: u64) {
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, content_type);
        if let Ok(id) = HeaderValue::from_str(&format!("req_{drawn:032x}")) {
            headers.insert(REQUEST_ID, id);
        }
    }

    /// A script's headers replace those of the same name, and may repeat.
    pub(super) fn overwrite<B>(response: &mut Response<B>, scripted: &[(HeaderName, HeaderValue)]) {
        let headers = response.headers_mut();
        for (name, _) in scripted {
            headers.remove(name);
        }
        for (name, value) in scripted {
            headers.append(name, value.clone());
        }
    }
}
