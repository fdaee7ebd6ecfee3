//! `headers` of an account: headers that its upstream needs beside the bearer key.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use http::{HeaderMap, HeaderName, HeaderValue};
use secrecy::ExposeSecret;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::credential::{ApiKey, ApiKeyDraft};
use super::environment::Environment;
use super::error::Problems;

/// Headers that Antiphon sets itself, or that belong to the connection.
const RESERVED: [&str; 13] = [
    "host",
    "content-length",
    "content-type",
    "accept",
    "transfer-encoding",
    "connection",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
];

/// Headers that are added to every request to an account's upstream.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AccountHeaders {
    headers: Vec<(HeaderName, HeaderText)>,
}

#[derive(Debug, Clone, PartialEq)]
enum HeaderText {
    Plain(String),
    Secret(ApiKey),
}

/// A header's value as it is written.
pub(super) enum HeaderDraft {
    Plain(String),
    Secret(ApiKeyDraft),
}

// === impl AccountHeaders ===

impl AccountHeaders {
    pub fn is_empty(&self) -> bool {
        self.headers.is_empty()
    }

    pub(super) fn knows_secrets(&self) -> bool {
        let is_known = |text: &HeaderText| matches!(text, HeaderText::Plain(_)) || !text.expose().is_empty();
        self.headers.iter().all(|(_, text)| is_known(text))
    }

    /// Marks a value that may be a secret as sensitive, so that it is never printed.
    pub(super) fn to_map(&self) -> HeaderMap {
        let header = |(name, text): &(HeaderName, HeaderText)| {
            let mut value = HeaderValue::try_from(text.expose()).expect("validated when it was parsed");
            value.set_sensitive(text.is_secret(name));
            (name.clone(), value)
        };
        self.headers.iter().map(header).collect()
    }

    /// Checks the headers and reads their secrets. `key` is their path in the configuration.
    pub(super) fn resolve(
        drafts: BTreeMap<String, HeaderDraft>,
        key: &str,
        cwd: &Path,
        environment: &Environment,
        problems: &mut Problems,
    ) -> Self {
        let mut headers: Vec<(HeaderName, HeaderText)> = Vec::new();
        for (name, draft) in drafts {
            let Ok(name) = HeaderName::try_from(&name) else {
                // It may be a header with its value, which may be a secret.
                problems
                    .reject_hidden(key, "must map the names of headers to values: one is not a valid name");
                continue;
            };
            let key = format!("{key}.{name}");
            if RESERVED.contains(&name.as_str()) {
                problems.reject(key, "is a header that Antiphon sets itself: leave it out");
                continue;
            }
            if headers.iter().any(|(known, _)| *known == name) {
                problems.reject(key, "is given twice: header names are case-insensitive");
                continue;
            }
            let text = match draft {
                HeaderDraft::Plain(text) => Some(HeaderText::Plain(text)),
                HeaderDraft::Secret(draft) => {
                    problems.accept(key.clone(), draft.resolve(cwd, environment)).map(HeaderText::Secret)
                }
            };
            match text {
                Some(text) if HeaderValue::try_from(text.expose()).is_ok() => headers.push((name, text)),
                Some(_) => problems.reject(key, "contains characters that are not allowed in a header"),
                None => {}
            }
        }
        headers.sort_by(|(a, _), (b, _)| a.as_str().cmp(b.as_str()));
        Self { headers }
    }
}

/// Whether a header or a parameter of this name may hold a secret.
pub(super) fn is_secret_name(name: &str) -> bool {
    const WORDS: [&str; 8] = ["auth", "key", "token", "secret", "cookie", "pass", "cred", "sig"];
    let name = name.to_ascii_lowercase();
    // The key of Azure Functions; Codex has it in its name.
    let is_code = || name.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == "code");
    WORDS.iter().any(|word| name.contains(word)) || is_code()
}

impl HeaderText {
    fn expose(&self) -> &str {
        match self {
            Self::Plain(text) => text,
            Self::Secret(key) => key.secret().expose_secret(),
        }
    }

    /// Whether it was given as a secret, or its name suggests one.
    fn is_secret(&self, name: &HeaderName) -> bool {
        matches!(self, Self::Secret(_)) || is_secret_name(name.as_str())
    }
}

impl Serialize for AccountHeaders {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.headers.len()))?;
        for (name, text) in &self.headers {
            match text {
                HeaderText::Secret(key) => map.serialize_entry(name.as_str(), key)?,
                HeaderText::Plain(plain) => {
                    let shown = if text.is_secret(name) { "<redacted>" } else { plain };
                    map.serialize_entry(name.as_str(), shown)?;
                }
            }
        }
        map.end()
    }
}

// === impl HeaderDraft ===

impl<'de> Deserialize<'de> for HeaderDraft {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = HeaderDraft;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(r#"a string, or one of { env = "NAME" }, { file = "path" } or { value = "secret" }"#)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<HeaderDraft, E> {
        Ok(HeaderDraft::Plain(text.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<HeaderDraft, A::Error> {
        ApiKeyDraft::deserialize(MapAccessDeserializer::new(map)).map(HeaderDraft::Secret)
    }
}
