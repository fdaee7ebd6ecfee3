//! Error replies in no known form.

use antiphon_protocol::error::{ApiError, ErrorKind};
use bytes::Bytes;
use http::StatusCode;

/// How much of a reply that is no JSON a client gets as the message.
const MAX_TEXT_BYTES: usize = 1024;

/// The error that stands for an error reply in no known form.
pub fn wrap(status: StatusCode, body: &[u8]) -> Bytes {
    let text = std::str::from_utf8(body).map(str::trim).unwrap_or_default();
    let is_plain = !text.is_empty() && text.len() <= MAX_TEXT_BYTES && !text.starts_with(['<', '{', '[']);
    let message = match is_plain {
        true => text.to_owned(),
        false => format!("The upstream replied with status {}.", status.as_u16()),
    };
    ApiError { kind: kind_of(status), code: None, param: None, message }.envelope().into()
}

/// What kind of error a status stands for.
pub fn kind_of(status: StatusCode) -> ErrorKind {
    match status.as_u16() {
        401 => ErrorKind::Authentication,
        403 => ErrorKind::Permission,
        402 => ErrorKind::InsufficientQuota,
        429 => ErrorKind::RateLimit,
        400..=499 => ErrorKind::InvalidRequest,
        _ => ErrorKind::Server,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_reply_in_no_known_form_is_wrapped() {
        let none = "The upstream replied with status 413.";
        for (body, message) in
            [("too much\n", "too much"), ("<html>", none), ("{}", none), ("", none), ("\u{0}", "\u{0}")]
        {
            let reply = wrap(StatusCode::PAYLOAD_TOO_LARGE, body.as_bytes());
            let reply: Value = serde_json::from_slice(&reply).unwrap();
            assert_eq!(reply["error"]["message"], message);
        }
    }
}
