//! The messages of a socket, in both directions.

use crate::upstream::json::{Object, to_json};
use crate::upstream::refusal::Refusal;
use crate::upstream::request::{Endpoint, TurnRequest};
use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// The `stream_id` of a turn; `None` is the unnamed lane.
pub(super) type Lane = Option<String>;

const LONGEST_LANE: usize = 256;

pub(super) enum ClientMessage {
    Create {
        lane: Lane,
        request: TurnRequest,
    },
    /// A client reports that it has read a response; there is no reply.
    Processed,
}

pub(super) fn read(message: &[u8]) -> Result<ClientMessage, Refusal> {
    let request = TurnRequest::parse(Endpoint::Socket, message)?;
    match request.get::<String>("type").as_deref() {
        Some("response.create") => Ok(ClientMessage::Create { lane: lane(&request)?, request }),
        Some("response.processed") => Ok(ClientMessage::Processed),
        _ => {
            let given = request.raw("type").unwrap_or("null");
            let message = format!(
                "Invalid value: {given}. Supported values are: 'response.create' and 'response.processed'."
            );
            Err(Refusal::invalid(message).param("type").code("invalid_value"))
        }
    }
}

fn lane(request: &TurnRequest) -> Result<Lane, Refusal> {
    let Some(given) = request.get::<Value>("stream_id") else { return Ok(None) };
    match given.as_str() {
        Some(name) if is_lane(name) => Ok(Some(name.to_owned())),
        _ => {
            let message = "The 'stream_id' field must be a non-empty string with at most 256 characters and may only \
                           contain letters, numbers, underscores, hyphens, and periods.";
            Err(Refusal::invalid(message.to_owned()).param("stream_id").code("invalid_stream_id"))
        }
    }
}

fn is_lane(name: &str) -> bool {
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    (1..=LONGEST_LANE).contains(&name.len()) && name.bytes().all(is_legal)
}

/// An error event, which leaves the socket open.
pub(super) fn refused(refusal: &Refusal, lane: &Lane) -> Bytes {
    error(refusal.status, &refusal.error(), &[], lane)
}

/// The error event for a scripted HTTP reply, with its headers, as clients look for them there.
pub(super) fn scripted(
    status: u16,
    body: &[u8],
    headers: &[(HeaderName, HeaderValue)],
    lane: &Lane,
) -> Bytes {
    let parsed: Option<BTreeMap<String, Box<RawValue>>> = serde_json::from_slice(body).ok();
    match parsed.as_ref().and_then(|parsed| parsed.get("error")) {
        Some(given) => error(status, given.get(), headers, lane),
        None => {
            let refusal = Refusal::new(status, "", &String::from_utf8_lossy(body));
            error(status, &Refusal { code: None, ..refusal }.error(), headers, lane)
        }
    }
}

fn error(status: u16, error: &str, headers: &[(HeaderName, HeaderValue)], lane: &Lane) -> Bytes {
    let mut event = Object::new().value("type", "error").value("status", &status).raw("error", error);
    if !headers.is_empty() {
        let named = headers.iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
        event = event.raw("headers", &to_json(&named.collect::<BTreeMap<_, _>>()));
    }
    match lane {
        Some(lane) => event.value("stream_id", lane),
        None => event,
    }
    .finish()
    .into()
}

/// The data of each event of an event stream.
pub(super) fn data_of(stream: &[u8]) -> Vec<Bytes> {
    let text = String::from_utf8_lossy(stream);
    let data = text.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim);
    data.filter(|data| *data != "[DONE]").map(|data| Bytes::from(data.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lane_names_have_letters_digits_and_three_special_characters() {
        for legal in ["a", "A-z_0.9", &"x".repeat(256)] {
            assert!(is_lane(legal), "{legal}");
        }
        for illegal in ["", "a b", "ä", "a/b", &"x".repeat(257)] {
            assert!(!is_lane(illegal), "{illegal}");
        }
    }

    #[test]
    fn the_data_of_a_stream_is_extracted_from_its_lines() {
        assert_eq!(data_of(b"event: a\r\ndata: {}\r\n\r\n: hi\n\ndata: [DONE]\n\n"), [Bytes::from("{}")]);
    }
}
