//! An upstream that echoes what it was sent must not show an account's secrets to clients.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

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

/// The secrets of an account, for as long as one of its replies is read.
#[derive(Debug, Clone)]
pub struct Redaction {
    account: Arc<Account>,
    /// What the request was sent with.
    authorization: Option<HeaderValue>,
}

// === impl Redaction ===

impl Redaction {
    pub fn new(account: Arc<Account>, authorization: Option<HeaderValue>) -> Self {
        Self { account, authorization }
    }

    /// As [`Secrets::redact`]. A token may have been refreshed since the request: the reply may come of a later one.
    pub fn redact(&self, body: Bytes) -> Bytes {
        let current = self.account.credential.current();
        let body = Secrets::new(&self.account, self.authorization.as_ref()).redact(body);
        match current == self.authorization {
            true => body,
            false => Secrets::new(&self.account, current.as_ref()).redact(body),
        }
    }

    /// As [`Secrets::redact_text`].
    pub fn redact_text(&self, text: String) -> String {
        text_of(&self.redact(text.into()))
    }
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

    /// The body with each secret replaced, also where JSON escapes letters of it. Shared with the original if there is none in
    /// it.
    pub fn redact(&self, mut body: Bytes) -> Bytes {
        for secret in self.iter() {
            let found = match memchr::memchr(b'\\', &body) {
                None => memchr::memmem::find_iter(&body, secret).map(|at| at..at + secret.len()).collect(),
                Some(_) => find_escaped(&body, secret),
            };
            if found.is_empty() {
                continue;
            }
            let mut redacted = Vec::with_capacity(body.len());
            let mut start = 0;
            for found in found {
                redacted.extend_from_slice(&body[start..found.start]);
                redacted.extend_from_slice(REDACTED);
                start = found.end;
            }
            redacted.extend_from_slice(&body[start..]);
            body = redacted.into();
        }
        body
    }

    /// As [`redact`](Self::redact), for what an error says.
    pub fn redact_text(&self, text: String) -> String {
        text_of(&self.redact(text.into()))
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

fn text_of(redacted: &[u8]) -> String {
    String::from_utf8_lossy(redacted).into_owned()
}

/// Where a secret stands in a text of JSON, however its letters are written there. Each letter is looked at once (Knuth, Morris
/// and Pratt).
fn find_escaped(text: &[u8], secret: &[u8]) -> Vec<Range<usize>> {
    let borders = borders_of(secret);
    // Where each of the last letters begins, as many as match.
    let mut starts = VecDeque::with_capacity(secret.len());
    let (mut found, mut at) = (Vec::new(), 0);
    while at < text.len() {
        let (letter, length) = letter_at(&text[at..]);
        while !starts.is_empty() && secret[starts.len()] != letter {
            let shorter = borders[starts.len() - 1];
            starts.drain(..starts.len() - shorter);
        }
        if secret[starts.len()] == letter {
            starts.push_back(at);
        }
        at += length;
        if starts.len() == secret.len() {
            found.push(starts[0]..at);
            starts.clear();
        }
    }
    found
}

/// Of each beginning of a secret, how long the longest shorter beginning is that it ends with.
fn borders_of(secret: &[u8]) -> Vec<usize> {
    let mut borders = vec![0; secret.len()];
    for end in 1..secret.len() {
        let mut length = borders[end - 1];
        while length > 0 && secret[length] != secret[end] {
            length = borders[length - 1];
        }
        borders[end] = length + usize::from(secret[length] == secret[end]);
    }
    borders
}

/// The letter with which a text begins, and how many bytes it takes there. No secret has letters beyond ASCII.
fn letter_at(text: &[u8]) -> (u8, usize) {
    match text {
        [b'\\', b'u', digits @ ..] => {
            let digits = digits.get(..4).and_then(|digits| std::str::from_utf8(digits).ok());
            let code = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
            code.map_or((b'\\', 1), |code| (u8::try_from(code).unwrap_or(0), 6))
        }
        [b'\\', escaped @ (b'"' | b'\\' | b'/'), ..] => (*escaped, 2),
        _ => (text[0], 1),
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
        assert_eq!(secrets.redact_text("an sk-secret".to_owned()), "an [redacted]");
        let mut headers = HeaderMap::new();
        headers.insert("x-request-id", HeaderValue::from_static("id sk-secret"));
        headers.insert("retry-after", HeaderValue::from_static("7"));
        secrets.remove_from(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["retry-after"]);
    }

    #[test]
    fn a_secret_is_found_however_json_writes_it() {
        let bearer = HeaderValue::from_static("Bearer aab\\aab/aac");
        let headers = HeaderMap::new();
        let secrets = Secrets::of(Some(&bearer), &headers);
        for written in [
            r#""aab\\aab\/aac""#,
            r#""aab\\aab/aac""#,
            r#""\u0061ab\u005caab\u002Faac""#,
            r#""aab\\aaab\\aab\/aac""#,
            r#""aab\\aab\/aab\\aab\/aac\n""#,
        ] {
            let redacted = secrets.redact(Bytes::copy_from_slice(written.as_bytes()));
            let redacted: String = serde_json::from_slice(&redacted).unwrap();
            let shown: String = serde_json::from_str(written).unwrap();
            assert_eq!(redacted, shown.replace("aab\\aab/aac", "[redacted]"), "{written}");
        }
        for other in [r"aab\\aab\/aa", r"\u00e1ab\\aab/aac", r"\u006", "\\"] {
            assert_eq!(secrets.redact(Bytes::copy_from_slice(other.as_bytes())), other);
        }
    }
}
