//! Frames of WebSocket mode: a frame is the request that its text would be over HTTP, on a lane.

use std::borrow::Cow;
use std::cell::Cell;

use antiphon_protocol::error::ApiError;
use antiphon_protocol::event::{Event, EventKind, write_sse};
use antiphon_protocol::json;
use antiphon_protocol::request::{Changes, CreateRequest, Operation, UpstreamInput};
use antiphon_protocol::socket::{ClientFrame, CreateFrame, StreamId, error_frame};
use antiphon_upstream::dialect::{Piece, ReplyFormat};
use bytes::Bytes;
use serde_json::Value;

use crate::request::Read;
use crate::spacing::spaced;

pub fn check(text: &[u8]) {
    let frame = parse(text);
    if json::validate(text).is_ok() {
        let other = parse(&spaced(text));
        assert_eq!(describe(&frame), describe(&other), "whitespace makes a difference");
        check_event(text);
    }
    match frame {
        Ok(ClientFrame::Create(frame)) => check_create(&frame, text),
        Ok(ClientFrame::Steer(event)) => {
            assert!(
                json::validate(&event).is_ok() || json::validate(text).is_err(),
                "the input is not returned as it was"
            );
        }
        Ok(ClientFrame::Other(kind)) => assert_ne!(kind, "response.create"),
        Err(error) => check_error_frame(&error, None),
    }
}

/// Parses a frame, with work that is linear in its size.
fn parse(text: &[u8]) -> Result<ClientFrame, ApiError> {
    let asked = Cell::new(0);
    let wanted = || {
        asked.set(asked.get() + 1);
        true
    };
    let frame = ClientFrame::parse(Bytes::copy_from_slice(text), &wanted);
    assert!(asked.get() <= text.len(), "{} members and items in {} bytes", asked.get(), text.len());
    frame
}

/// What a frame says, but for where it stands.
fn describe(frame: &Result<ClientFrame, ApiError>) -> String {
    match frame {
        Ok(ClientFrame::Create(frame)) => {
            let request = frame.request.as_ref().map(|request| (Read::of(request), request.generate));
            format!("{:?} {:?} {request:?}", frame.stream_id, frame.previous_response_id)
        }
        Ok(ClientFrame::Steer(_)) => "response.steer".to_owned(),
        Ok(ClientFrame::Other(kind)) => kind.clone(),
        Err(error) => format!("{error:?}"),
    }
}

fn check_create(frame: &CreateFrame, text: &[u8]) {
    if let Some(lane) = &frame.stream_id {
        let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
        assert!((1..=256).contains(&lane.as_str().len()) && lane.as_str().bytes().all(is_legal));
    }
    let over_http = CreateRequest::parse(Operation::Create, Bytes::copy_from_slice(text));
    match (&frame.request, over_http) {
        (Ok(request), Ok(other)) => {
            assert!(request.stream);
            let mut other = Read::of(&other);
            other.stream = true;
            assert_eq!(Read::of(request), other);
        }
        // Only one of the doors reads each of these.
        (Ok(_), Err(error)) => assert_eq!(error.param.as_deref(), Some("stream")),
        (Err(error), Ok(_)) => assert_eq!(error.param.as_deref(), Some("generate")),
        (Err(error), Err(other)) => assert!(*error == other || other.param.as_deref() == Some("stream")),
    }
    match &frame.request {
        Ok(request) => check_upstream(request),
        Err(error) => check_error_frame(error, frame.stream_id.as_ref()),
    }
}

/// As a frame, the turn goes upstream as one that this gateway would accept itself; over HTTP, as a request that streams.
fn check_upstream(request: &CreateRequest) {
    let as_frame = Changes { is_frame: true, ..Changes::default() };
    let body = request.upstream_body(&UpstreamInput::default(), as_frame).parts.concat();
    let Ok(ClientFrame::Create(again)) = parse(&body) else { panic!("{}", body.escape_ascii()) };
    assert_eq!((again.stream_id, again.previous_response_id), (None, None));
    let again = again.request.expect("an accepted frame is accepted again");
    assert_eq!((&again.model, again.store, again.generate), (&request.model, false, true));
    assert_eq!(items(&again), items(request));

    let body = request.upstream_body(&UpstreamInput::default(), Changes::default()).parts.concat();
    let again = CreateRequest::parse(Operation::Create, Bytes::from(body));
    let again = again.expect("an accepted frame is accepted as a request");
    assert!(again.stream && !again.store);
    assert_eq!(items(&again), items(request));
}

/// The input items, but for the whitespace between them.
fn items(request: &CreateRequest) -> Vec<Vec<u8>> {
    let all = request.input.items();
    json::elements(&all).map_while(Result::ok).map(|item| all[item].to_vec()).collect()
}

/// A message of an upstream, written as a server-sent event, is one event with the same name and data.
fn check_event(data: &[u8]) {
    let message = Event::of_message(Bytes::copy_from_slice(data));
    let name = json::string_member(data, "type").unwrap_or_default();
    let mut sse = Vec::new();
    write_sse(&mut sse, name.as_bytes(), data);
    let mut decoder = ReplyFormat::Responses.decoder(usize::MAX);
    decoder.push(Piece::Bytes(sse.into()));
    let event = decoder.next_event().ok().flatten().expect("a written event is read again");
    let next = decoder.next_event().expect("no event is too large");
    assert!(next.is_none() && decoder.finish().is_none(), "one event becomes several");
    assert_eq!(event.kind(), message.kind());
    let decoded =
        |data: Option<Cow<'_, [u8]>>| serde_json::from_slice::<Value>(&data.unwrap_or_default()).ok();
    assert_eq!(decoded(event.data()), decoded(message.data()));
    if json::kind(data.trim_ascii_start()) == "an object" {
        check_lane(data);
    } else {
        assert_eq!(message.kind(), EventKind::Other);
    }
}

/// An event with its lane is the same event with one more member.
fn check_lane(event: &[u8]) {
    let lane = StreamId::new("lane-1").expect("the name is legal");
    let out = lane.put_into(event);
    assert!(json::validate(&out).is_ok(), "{}", out.escape_ascii());
    if let Ok(Value::Object(mut members)) = serde_json::from_slice(event) {
        members.entry("stream_id").or_insert("lane-1".into());
        assert_eq!(serde_json::from_slice::<Value>(&out).ok(), Some(Value::Object(members)));
    }
}

fn check_error_frame(error: &ApiError, lane: Option<&StreamId>) {
    let object = serde_json::json!({ "message": error.message, "param": error.param }).to_string();
    let frame = error_frame(400, object.as_bytes(), lane, [("retry-after", error.message.as_str())]);
    let frame: Value = serde_json::from_slice(&frame).expect("an error frame is JSON");
    assert_eq!(frame["error"]["message"], error.message);
    assert_eq!(frame["headers"]["retry-after"], error.message);
    assert_eq!(frame["stream_id"].as_str(), lane.map(StreamId::as_str));
}
