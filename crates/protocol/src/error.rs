//! The API's error envelope: `{"error":{"message","type","param","code"}}`, always with all four keys.

use std::borrow::Cow;

use crate::json::{self, Object, Set};

/// An error of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    pub kind: ErrorKind,
    pub code: Option<Cow<'static, str>>,
    pub param: Option<Cow<'static, str>>,
    pub message: String,
}

/// The envelope's `type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    InvalidRequest,
    Authentication,
    Permission,
    RateLimit,
    InsufficientQuota,
    Server,
}

// === impl ErrorKind ===

impl ErrorKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request_error",
            Self::Authentication => "authentication_error",
            Self::Permission => "permission_error",
            Self::RateLimit => "rate_limit_error",
            Self::InsufficientQuota => "insufficient_quota",
            Self::Server => "server_error",
        }
    }
}

// === impl ApiError ===

impl ApiError {
    /// The body of an HTTP error.
    pub fn envelope(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128 + self.message.len());
        out.extend_from_slice(b"{\"error\":");
        self.write_object(&mut out);
        out.push(b'}');
        out
    }

    /// The data of an `error` event on a stream, which has no envelope.
    pub fn event_data(&self, sequence_number: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(128 + self.message.len());
        out.extend_from_slice(br#"{"type":"error","sequence_number":"#);
        out.extend_from_slice(sequence_number.to_string().as_bytes());
        out.extend_from_slice(br#","code":"#);
        write_nullable(&mut out, self.code.as_deref());
        out.extend_from_slice(br#","message":"#);
        json::write_string(&mut out, &self.message);
        out.extend_from_slice(br#","param":"#);
        write_nullable(&mut out, self.param.as_deref());
        out.push(b'}');
        out
    }

    /// The error object alone.
    pub fn object(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128 + self.message.len());
        self.write_object(&mut out);
        out
    }

    fn write_object(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(br#"{"message":"#);
        json::write_string(out, &self.message);
        out.extend_from_slice(br#","type":"#);
        json::write_string(out, self.kind.as_str());
        out.extend_from_slice(br#","param":"#);
        write_nullable(out, self.param.as_deref());
        out.extend_from_slice(br#","code":"#);
        write_nullable(out, self.code.as_deref());
        out.push(b'}');
    }
}

/// The data of an upstream's `error` event with what its error object says at the top level as well, where the events of the API have
/// it. `None` for an event that has it there.
pub fn flat_error_event(event: &[u8]) -> Option<Vec<u8>> {
    let event = Object::parse(event).ok()?;
    let error = event.get("error").filter(|error| error.first() == Some(&b'{'))?;
    let value = |name, default: &'static [u8]| json::member(error, name).unwrap_or(default);
    let mut set = vec![
        Set { name: "type", value: br#""error""#, add: true },
        Set { name: "code", value: value("code", b"null"), add: true },
        Set { name: "message", value: value("message", br#""""#), add: true },
        Set { name: "param", value: value("param", b"null"), add: true },
    ];
    set.retain(|member| event.get(member.name).is_none());
    let mut out = Vec::with_capacity(event.text.len() + error.len() + 64);
    event.set(&set, &mut out);
    (!set.is_empty()).then_some(out)
}

fn write_nullable(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => json::write_string(out, text),
        None => out.extend_from_slice(b"null"),
    }
}

/// The error in an upstream's reply, in any format that upstreams are known to use.
#[derive(Debug, Default, PartialEq)]
pub struct UpstreamError {
    pub code: Option<String>,
    /// The error's `type`.
    pub kind: Option<String>,
    pub param: Option<String>,
    pub message: Option<String>,
    /// Seconds until a usage limit resets.
    pub resets_in_seconds: Option<f64>,
    /// When a usage limit resets, in seconds since the epoch.
    pub resets_at: Option<f64>,
}

impl UpstreamError {
    /// Whether the upstream could not read an encrypted item, which another account's upstream has created.
    pub fn is_unreadable_content(&self) -> bool {
        const PHRASES: [&str; 4] =
            ["could not be verified", "could not be decrypted", "decrypt", "could not be parsed"];
        // LiteLLM's codes are the status.
        match self.code.as_ref().filter(|code| code.parse::<u16>().is_err()) {
            Some(code) => code == "invalid_encrypted_content",
            None => {
                let message = self.message.as_deref().unwrap_or_default().to_ascii_lowercase();
                let is_sealed = message.contains("encrypted content");
                // The first is vLLM's, and the second xAI's.
                message == "encrypted content is not supported."
                    || message.contains("could not decode the compaction blob")
                    || (is_sealed && PHRASES.iter().any(|phrase| message.contains(phrase)))
            }
        }
    }

    /// Reads `{"error":{…}}`, `{"error":"…"}` or the flat `{"message","code"}`. Any other body gives the default.
    pub fn parse(body: &[u8]) -> Self {
        if json::validate(body).is_err() {
            return Self::default();
        }
        let error = json::member(body, "error").filter(|error| error.first() == Some(&b'{')).unwrap_or(body);
        let text = |name| json::string_member(error, name).map(Cow::into_owned);
        let number = |name| std::str::from_utf8(json::member(error, name)?).ok()?.parse().ok();
        Self {
            code: text("code"),
            kind: text("type"),
            param: text("param"),
            message: text("message").or_else(|| json::string_member(body, "error").map(Cow::into_owned)),
            resets_in_seconds: number("resets_in_seconds"),
            resets_at: number("resets_at"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_has_all_four_keys() {
        let error = ApiError {
            kind: ErrorKind::InvalidRequest,
            code: None,
            param: Some("input".into()),
            message: "a \"quoted\" text".into(),
        };
        assert_eq!(
            String::from_utf8(error.envelope()).unwrap(),
            r#"{"error":{"message":"a \"quoted\" text","type":"invalid_request_error","param":"input","code":null}}"#
        );
        assert_eq!(
            String::from_utf8(error.event_data(7)).unwrap(),
            r#"{"type":"error","sequence_number":7,"code":null,"message":"a \"quoted\" text","param":"input"}"#
        );
    }

    #[test]
    fn unreadable_content_is_recognised_by_its_code_or_else_by_the_message() {
        for (body, expected) in [
            (r#"{"error":{"code":"invalid_encrypted_content","message":"m"}}"#, true),
            (
                r#"{"error":{"code":null,"message":"The encrypted content gAAA...1234 could not be verified."}}"#,
                true,
            ),
            (r#"{"error":{"message":"Encrypted content could not be decrypted or parsed."}}"#, true),
            (
                r#"{"error":{"message":"Encrypted content is not supported with this model.","param":"include"}}"#,
                false,
            ),
            (r#"{"error":{"code":"400","message":"The encrypted content could not be verified."}}"#, true),
            (r#"{"error":{"code":400,"message":"Encrypted content is not supported."}}"#, true),
            (r#"{"error":"Could not decode the compaction blob."}"#, true),
            (r#"{"error":{"code":"odd","message":"The encrypted content could not be verified."}}"#, false),
        ] {
            assert_eq!(UpstreamError::parse(body.as_bytes()).is_unreadable_content(), expected, "{body}");
        }
    }

    #[test]
    fn an_upstreams_error_is_read_in_every_format() {
        let nested = UpstreamError::parse(br#"{"error":{"message":"m","param":"include","code":null}}"#);
        assert_eq!((nested.param.as_deref(), nested.code), (Some("include"), None));
        let flat = UpstreamError::parse(br#"{"object":"error","message":"m","code":"c"}"#);
        assert_eq!((flat.message.as_deref(), flat.code.as_deref()), (Some("m"), Some("c")));
        let limited = br#"{"error":{"type":"usage_limit_reached","resets_in_seconds":7,"resets_at":1.5e9}}"#;
        let limited = UpstreamError::parse(limited);
        assert_eq!(limited.kind.as_deref(), Some("usage_limit_reached"));
        assert_eq!((limited.resets_in_seconds, limited.resets_at), (Some(7.0), Some(1.5e9)));
        let bare = UpstreamError::parse(br#"{"error":"text"}"#);
        assert_eq!((bare.message.as_deref(), bare.code), (Some("text"), None));
        for text in [&b"<html>"[..], b"", b"[]", b"{\"error\":{\"code\":500}}"] {
            assert_eq!(UpstreamError::parse(text), UpstreamError::default());
        }
    }
}
