//! An upstream that echoes what it was sent must not show an account's secrets to clients.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::account::Account;

/// Shorter values are no secrets, and would be found everywhere.
const MIN_SECRET_BYTES: usize = 8;
const REDACTED: &[u8] = b"[redacted]";

/// The secrets that a request to an upstream carries.
#[derive(Clone, Copy)]
pub struct Secrets<'a> {
    authorization: Option<&'a HeaderValue>,
    /// Those of the configuration; the sensitive ones are secrets.
    headers: &'a HeaderMap,
}

// === impl Secrets ===

impl<'a> Secrets<'a> {
    /// Those of the account, and the credential that it has just now.
    pub fn new(account: &'a Account, authorization: Option<&'a HeaderValue>) -> Self {
        Self { authorization, headers: &account.settings.headers }
    }

    #[cfg(test)]
    pub fn of(authorization: Option<&'a HeaderValue>, headers: &'a HeaderMap) -> Self {
        Self { authorization, headers }
    }

    pub fn iter(self) -> impl Iterator<Item = &'a [u8]> {
        let configured = self.headers.values().filter(|value| value.is_sensitive());
        let values = self.authorization.into_iter().chain(configured).map(HeaderValue::as_bytes);
        let secrets = values.map(|value| value.strip_prefix(b"Bearer ").unwrap_or(value));
        secrets.filter(|secret| secret.len() >= MIN_SECRET_BYTES)
    }

    /// The body with each secret replaced. Shared with the original if there is none in it.
    pub fn redact(&self, mut body: Bytes) -> Bytes {
        for secret in self.iter() {
            let finder = memchr::memmem::Finder::new(secret);
            if finder.find(&body).is_none() {
                continue;
            }
            let mut redacted = Vec::with_capacity(body.len());
            let mut start = 0;
            for found in finder.find_iter(&body) {
                redacted.extend_from_slice(&body[start..found]);
                redacted.extend_from_slice(REDACTED);
                start = found + secret.len();
            }
            redacted.extend_from_slice(&body[start..]);
            body = redacted.into();
        }
        body
    }

    /// Removes headers that hold a secret.
    pub fn remove_from(&self, headers: &mut HeaderMap) {
        let holds_secret = |value: &HeaderValue| {
            self.iter().any(|secret| memchr::memmem::find(value.as_bytes(), secret).is_some())
        };
        let names: Vec<HeaderName> =
            headers.iter().filter(|(_, value)| holds_secret(value)).map(|(name, _)| name.clone()).collect();
        for name in names {
            headers.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_occurrence_is_replaced_and_everything_else_stays() {
        let bearer = HeaderValue::from_static("Bearer sk-secret");
        let mut configured = HeaderMap::new();
        for (name, value, is_sensitive) in [("x-a", "other-secret", true), ("x-b", "not-a-secret", false)] {
            let mut value = HeaderValue::from_static(value);
            value.set_sensitive(is_sensitive);
            configured.insert(name, value);
        }
        let secrets = Secrets { authorization: Some(&bearer), headers: &configured };
        let redact = |text: &'static str| secrets.redact(Bytes::from_static(text.as_bytes()));
        assert_eq!(
            redact(r#"{"a":"sk-secret","b":"xsk-secretx other-secret"}"#),
            r#"{"a":"[redacted]","b":"x[redacted]x [redacted]"}"#
        );
        assert_eq!(redact("sk-secre not-a-secret"), "sk-secre not-a-secret");
        let mut headers = HeaderMap::new();
        headers.insert("x-request-id", HeaderValue::from_static("id sk-secret"));
        headers.insert("retry-after", HeaderValue::from_static("7"));
        secrets.remove_from(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["retry-after"]);
    }
}
