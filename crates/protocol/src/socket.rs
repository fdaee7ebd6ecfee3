//! The frames of WebSocket mode: what a client may send, and what stands in ours beside the events.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use memchr::memmem;

use crate::error::ApiError;
use crate::json;
use crate::request::{CreateRequest, Field, Members, Wanted, invalid, missing, wrong_type};

const MAX_STREAM_ID: usize = 256;

/// The name of a lane: 1 to 256 of A-Z a-z 0-9 _ - .
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StreamId(Arc<str>);

/// A frame of a client.
#[derive(Debug)]
pub enum ClientFrame {
    /// `response.create`
    Create(Box<CreateFrame>),
    /// `response.steer`. Holds the event that returns the input: it cannot be added to a response that is running.
    Steer(Vec<u8>),
    /// Anything else, by its type.
    Other(String),
}

#[derive(Debug)]
pub struct CreateFrame {
    pub stream_id: Option<StreamId>,
    /// What it names as its parent, even if the rest is refused.
    pub previous_response_id: Option<String>,
    pub request: Result<CreateRequest, ApiError>,
}

// === impl StreamId ===

impl StreamId {
    pub fn new(text: &str) -> Option<Self> {
        let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        let fits = (1..=MAX_STREAM_ID).contains(&text.len());
        (fits && text.bytes().all(is_legal)).then(|| Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Copies an event with the lane's name in front of its other members.
    pub fn put_into(&self, event: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(event.len() + self.0.len() + 16);
        let Some(rest) = event.trim_ascii_start().strip_prefix(b"{") else {
            out.extend_from_slice(event);
            return out;
        };
        // A legal name needs no escapes.
        out.extend_from_slice(br#"{"stream_id":""#);
        out.extend_from_slice(self.0.as_bytes());
        out.push(b'"');
        if rest.trim_ascii_start().first() != Some(&b'}') {
            out.push(b',');
        }
        out.extend_from_slice(rest);
        out
    }
}

/// An event without a lane of its upstream's: lanes are between a client and its server.
pub fn without_lane(event: Bytes) -> Bytes {
    cut_lane(&event).map_or(event, Into::into)
}

/// `None` if there is no lane in the event.
fn cut_lane(event: &[u8]) -> Option<Vec<u8>> {
    memmem::find(event, br#""stream_id""#)?;
    let mut rest = Vec::with_capacity(event.len());
    let mut has_lane = false;
    for member in json::members(event) {
        let member = member.ok()?;
        if member.is(event, "stream_id") {
            has_lane = true;
            continue;
        }
        rest.push(if rest.is_empty() { b'{' } else { b',' });
        rest.extend_from_slice(&event[member.span()]);
    }
    if rest.is_empty() {
        rest.push(b'{');
    }
    rest.push(b'}');
    has_lane.then_some(rest)
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl ClientFrame ===

impl ClientFrame {
    /// Reads a text frame while it is wanted. What can't be told to belong to a lane is an error of the frame itself.
    pub fn parse(text: Bytes, wanted: Wanted<'_>) -> Result<Self, ApiError> {
        let members = Members::parse(text, wanted)?;
        let kind = match members.value(Field::Type) {
            None => return Err(missing("type")),
            Some(kind) => json::string(kind).ok_or_else(|| wrong_type("type", "a string", kind))?,
        };
        match &*kind {
            "response.create" => {}
            "response.steer" => {
                let value = |field, name| members.value(field).ok_or_else(|| missing(name));
                let parent = value(Field::PreviousResponseId, "previous_response_id")?;
                return Ok(Self::Steer(steer_failed(parent, value(Field::Input, "input")?)));
            }
            _ => return Ok(Self::Other(kind.into_owned())),
        }
        let stream_id = members.value(Field::StreamId).map(stream_id).transpose()?;
        let previous = members.value(Field::PreviousResponseId).and_then(json::string).map(Into::into);
        let request = CreateRequest::of_frame(members, wanted);
        Ok(Self::Create(Box::new(CreateFrame { stream_id, previous_response_id: previous, request })))
    }
}

fn stream_id(value: &[u8]) -> Result<StreamId, ApiError> {
    let name = json::string(value).ok_or_else(|| wrong_type("stream_id", "a string", value))?;
    StreamId::new(&name).ok_or_else(|| {
        let message = "Invalid 'stream_id': expected 1 to 256 of A-Z, a-z, 0-9, '_', '-' and '.'.";
        invalid("invalid_stream_id", Some("stream_id"), message.to_owned())
    })
}

/// The event that returns the input of a `response.steer`.
fn steer_failed(previous_response_id: &[u8], input: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(320 + input.len());
    out.extend_from_slice(
        br#"{"type":"response.steer.failed","sequence_number":0,"error":{"type":"invalid_request_error","code":"steering_not_supported","message":"Steering is not supported here. Send the input with the next response.create."},"steer":{"previous_response_id":"#,
    );
    out.extend_from_slice(previous_response_id);
    out.extend_from_slice(br#","input":"#);
    out.extend_from_slice(input);
    out.extend_from_slice(b"}}");
    out
}

/// The frame that says why a client does not get what it asked for. `error` is the error object as it stands in an HTTP
/// reply's envelope.
pub fn error_frame<'a>(
    status: u16,
    error: &[u8],
    stream_id: Option<&StreamId>,
    headers: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(128 + error.len());
    out.extend_from_slice(br#"{"type":"error","status":"#);
    out.extend_from_slice(status.to_string().as_bytes());
    out.extend_from_slice(br#","error":"#);
    out.extend_from_slice(error);
    if let Some(stream_id) = stream_id {
        out.extend_from_slice(br#","stream_id":"#);
        json::write_string(&mut out, stream_id.as_str());
    }
    let mut separator: &[u8] = br#","headers":{"#;
    let mut has_headers = false;
    for (name, value) in headers {
        out.extend_from_slice(separator);
        json::write_string(&mut out, name);
        out.push(b':');
        json::write_string(&mut out, value);
        separator = b",";
        has_headers = true;
    }
    out.extend_from_slice(if has_headers { b"}}" } else { b"}" });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &'static str) -> Result<ClientFrame, ApiError> {
        ClientFrame::parse(Bytes::from_static(text.as_bytes()), &|| true)
    }

    fn created(text: &'static str) -> CreateFrame {
        match parse(text).unwrap() {
            ClientFrame::Create(frame) => *frame,
            frame => panic!("{frame:?}"),
        }
    }

    #[test]
    fn a_frame_is_a_request_that_streams_whatever_it_says_of_it() {
        let frame = created(
            r#"{"type":"response.create","model":"m","stream":false,"input":"x","stream_id":"a.B_-1","generate":true,"x":1}"#,
        );
        assert_eq!(frame.stream_id.unwrap().as_str(), "a.B_-1");
        let request = frame.request.unwrap();
        assert!(request.stream && request.generate && request.store);
        let body = request.upstream_body(&Default::default(), Default::default()).parts.concat();
        assert_eq!(
            String::from_utf8(body).unwrap(),
            r#"{"model":"m","input":"x","x":1,"stream":true,"store":false}"#
        );
    }

    #[test]
    fn what_is_refused_keeps_its_lane_and_its_parent() {
        let frame = created(
            r#"{"type":"response.create","input":"x","stream_id":"a","previous_response_id":"resp_1"}"#,
        );
        assert_eq!(frame.stream_id.unwrap().as_str(), "a");
        assert_eq!(frame.previous_response_id.as_deref(), Some("resp_1"));
        assert_eq!(frame.request.unwrap_err().param.as_deref(), Some("model"));
        let frame = created(r#"{"type":"response.create","model":"m","input":"x","generate":0}"#);
        assert_eq!(frame.request.unwrap_err().param.as_deref(), Some("generate"));
    }

    #[test]
    fn a_frame_that_belongs_nowhere_says_why() {
        let long: &'static str =
            format!(r#"{{"type":"response.create","stream_id":"{}"}}"#, "x".repeat(257)).leak();
        for (text, code, param) in [
            ("{", "invalid_json", None),
            ("[]", "invalid_json", None),
            ("{}", "missing_required_parameter", Some("type")),
            (r#"{"type":1}"#, "invalid_type", Some("type")),
            (r#"{"type":"response.create","stream_id":1}"#, "invalid_type", Some("stream_id")),
            (r#"{"type":"response.create","stream_id":""}"#, "invalid_stream_id", Some("stream_id")),
            (r#"{"type":"response.create","stream_id":"a b"}"#, "invalid_stream_id", Some("stream_id")),
            (long, "invalid_stream_id", Some("stream_id")),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!((error.code.as_deref(), error.param.as_deref()), (Some(code), param), "{text}");
        }
        assert!(
            matches!(parse(r#"{"type":"response.processed"}"#), Ok(ClientFrame::Other(kind)) if kind == "response.processed")
        );
    }

    #[test]
    fn the_lane_stands_in_front_of_everything_that_the_event_says() {
        let lane = StreamId::new("a").unwrap();
        for (event, expected) in [
            (r#"{"n":1.50}"#, r#"{"stream_id":"a","n":1.50}"#),
            (" { \"n\":1}", r#"{"stream_id":"a", "n":1}"#),
            ("{ }", r#"{"stream_id":"a" }"#),
        ] {
            assert_eq!(String::from_utf8(lane.put_into(event.as_bytes())).unwrap(), expected);
        }
    }

    #[test]
    fn an_upstreams_lane_is_cut_from_an_event() {
        for (event, expected) in [
            (r#"{"stream_id":"x","n":1.50}"#, r#"{"n":1.50}"#),
            (r#"{ "n": 1, "stream_id" : {"a":[]} , "m":2}"#, r#"{"n": 1,"m":2}"#),
            (r#"{"stream_id":"x"}"#, "{}"),
            (r#"{ "item":{"stream_id":"x"} }"#, r#"{ "item":{"stream_id":"x"} }"#),
            (r#"{"stream_id":"x","n"#, r#"{"stream_id":"x","n"#),
            ("not JSON", "not JSON"),
        ] {
            assert_eq!(without_lane(Bytes::from(event)), expected);
        }
    }

    #[test]
    fn an_error_frame_has_headers_only_if_there_are_any() {
        let lane = StreamId::new("a").unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        assert_eq!(
            text(error_frame(429, b"{}", Some(&lane), [("retry-after", "7"), ("x", "\"")])),
            r#"{"type":"error","status":429,"error":{},"stream_id":"a","headers":{"retry-after":"7","x":"\""}}"#
        );
        assert_eq!(text(error_frame(400, b"{}", None, [])), r#"{"type":"error","status":400,"error":{}}"#);
    }
}
