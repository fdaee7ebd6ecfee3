//! What an upstream says in an error reply, as it may be logged and shown to operators.

use antiphon_protocol::error::UpstreamError;
use antiphon_protocol::json;
use bytes::Bytes;

use super::Secrets;

/// How Gemini and xAI begin to say, with a 400, that they do not know the key.
pub const KEY_REFUSALS: [&str; 2] =
    ["API key not valid. Please pass a valid API key", "Incorrect API key provided"];
/// The longest quotation, in characters.
const MAX_CHARS: usize = 300;
/// What stands for a secret, or a part of one.
const REDACTED: &str = "[redacted]";
/// So many characters that a word and a secret begin with are no coincidence.
const MIN_SHARED: usize = 6;

/// The message of an error reply on one line, without secrets; empty if it says nothing.
pub fn words_of(body: &[u8], secrets: Secrets<'_>) -> String {
    let body = secrets.redact(Bytes::copy_from_slice(body));
    let text = UpstreamError::parse(&body).message.or_else(|| {
        let error = json::validate(&body).is_ok().then(|| json::string_member(&body, "error")).flatten();
        error.map(std::borrow::Cow::into_owned)
    });
    let text = text.unwrap_or_else(|| match body.first() {
        // A web page says nothing on one line.
        Some(b'<') => String::new(),
        _ => String::from_utf8_lossy(&body[..body.len().min(4 * MAX_CHARS)]).into_owned(),
    });
    let words =
        text.split_whitespace().map(|word| if is_part_of_secret(word, secrets) { REDACTED } else { word });
    let line = words.collect::<Vec<_>>().join(" ");
    let mut shown: String = line.chars().filter(|c| !c.is_control()).take(MAX_CHARS).collect();
    if shown.len() < line.len() && line.chars().count() > MAX_CHARS {
        shown.push('…');
    }
    shown
}

/// Some upstreams quote the ends of a key, with dots or stars between them.
fn is_part_of_secret(word: &str, secrets: Secrets<'_>) -> bool {
    let word = word.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    let begins_alike = |secret: &[u8]| {
        let shared = word.bytes().zip(secret).take_while(|(a, b)| a == *b).count();
        shared >= MIN_SHARED
    };
    word.contains("**") || secrets.iter().any(begins_alike)
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::*;

    fn quoted(body: &str) -> String {
        let (bearer, headers) = (HeaderValue::from_static("Bearer sk-proj-0123456789"), HeaderMap::new());
        words_of(body.as_bytes(), Secrets::of(Some(&bearer), &headers))
    }

    #[test]
    fn the_message_is_quoted_on_one_line_without_any_part_of_a_secret() {
        for (body, expected) in [
            (
                r#"{"error":{"message":"Incorrect API key provided: sk-proj-0123456789."}}"#,
                "Incorrect API key provided: [redacted].",
            ),
            (
                r#"{"error":{"message":"Incorrect API key: sk-proj****6789. See\nthe \u001b[31mdocs"}}"#,
                "Incorrect API key: [redacted] See the [31mdocs",
            ),
            (r#"{"error":{"message":"Wrong key (sk-proj...789)"}}"#, "Wrong key [redacted]"),
            (r#"{"error":"unauthorized"}"#, "unauthorized"),
            (r#"{"detail":"No"}"#, r#"{"detail":"No"}"#),
            ("401 page", "401 page"),
            ("<html>no</html>", ""),
            ("", ""),
        ] {
            assert_eq!(quoted(body), expected, "{body}");
        }
        let long = format!(r#"{{"message":"{}"}}"#, "ä".repeat(5_000));
        assert_eq!(quoted(&long).chars().count(), MAX_CHARS + 1);
    }
}
