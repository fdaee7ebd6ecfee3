//! The dialect as a turn uses it: requests go in and chats come out, chunks go in and events come out.

mod additional_tools;
mod decoding;
mod encoding;
mod namespaces;
mod odd_replies;
mod properties;
mod round_trip;
mod schema;

use std::collections::HashMap;
use std::sync::Arc;

use antiphon_protocol::error::ApiError;
use antiphon_protocol::id::ResponseId;
use antiphon_protocol::request::{Changes, CreateRequest, Operation, UpstreamInput};
use antiphon_runtime::{Clock, SystemClock, Timestamp};
use bytes::Bytes;
use serde_json::{Value, json};

use super::*;
use crate::dialect::{Decoder, Dialect, Encoded, Piece};

fn try_encode(settings: ChatSettings, request: &Value) -> Result<Encoded, ApiError> {
    try_encode_after(&[], settings, request)
}

/// A turn that continues a chain with these items.
fn try_encode_after(history: &[Value], settings: ChatSettings, request: &Value) -> Result<Encoded, ApiError> {
    let body = Bytes::from(request.to_string());
    let create = CreateRequest::parse(Operation::Create, body).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let facts = crate::dialect::TurnFacts {
        id: ResponseId::mint(1, &[7; 10]),
        started_at: Timestamp::from_unix_ms(5_000),
        clock: &clock,
    };
    let history = history.iter().map(Value::to_string).collect::<Vec<_>>().join(",");
    let history = if history.is_empty() { Vec::new() } else { vec![Bytes::from(history)] };
    let input = UpstreamInput { history, resolved: None };
    Dialect::Chat(settings).encode(&create, &input, Changes::default(), &facts)
}

fn encoded(settings: ChatSettings, request: &Value) -> Value {
    serde_json::from_slice(&try_encode(settings, request).unwrap().parts.concat()).unwrap()
}

/// A decoder for the reply to this request.
fn decoder(settings: ChatSettings, request: &Value) -> Decoder {
    try_encode(settings, request).unwrap().format.decoder(1 << 20)
}

fn request() -> Value {
    json!({"model": "m", "input": "x"})
}

/// All events of a stream that arrives in these pieces.
fn events_of<'a>(mut decoder: Decoder, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Value> {
    let mut events = Vec::new();
    let mut add = |event: antiphon_protocol::event::Event| {
        events.push(serde_json::from_slice::<Value>(&event.data().unwrap()).unwrap());
    };
    for piece in pieces {
        decoder.push(Piece::Bytes(Bytes::copy_from_slice(piece)));
        while let Some(event) = decoder.next_event().unwrap() {
            add(event);
        }
    }
    while let Some(event) = decoder.finish() {
        add(event);
    }
    events
}

fn sse(chunks: &[Value]) -> String {
    chunks.iter().map(|chunk| format!("data: {chunk}\n\n")).collect()
}

fn chunk(delta: impl Into<Value>) -> Value {
    let delta: Value = delta.into();
    json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "up", "choices": [{"index": 0, "delta": delta, "finish_reason": null}]})
}

fn finish(reason: &str) -> Value {
    json!({"id": "chatcmpl-1", "model": "up", "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
}

/// The events of these deltas, up to the end that this reason stands for.
fn decoded_as(settings: ChatSettings, request: &Value, deltas: Vec<Value>, reason: &str) -> Vec<Value> {
    let mut chunks: Vec<Value> = deltas.into_iter().map(chunk).collect();
    chunks.push(finish(reason));
    let stream = sse(&chunks) + "data: [DONE]\n\n";
    let events = events_of(decoder(settings, request), [stream.as_bytes()]);
    check(&events);
    events
}

fn decoded(deltas: Vec<Value>) -> Vec<Value> {
    decoded_as(ChatSettings::default(), &request(), deltas, "stop")
}

fn names(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().unwrap()).collect()
}

fn output(events: &[Value]) -> Value {
    events.last().unwrap()["response"]["output"].clone()
}

/// What holds for every whole stream.
fn check(events: &[Value]) {
    let mut open: HashMap<u64, String> = HashMap::new();
    let mut texts: HashMap<String, String> = HashMap::new();
    let mut done = Vec::new();
    for (number, event) in events.iter().enumerate() {
        schema::check_event(event);
        assert_eq!(event["sequence_number"], number);
        let index = || event["output_index"].as_u64().unwrap();
        let id = || event["item"]["id"].as_str().unwrap().to_owned();
        match event["type"].as_str().unwrap() {
            "response.output_item.added" => {
                assert!(index() >= done.len() as u64, "the place is taken");
                assert_eq!(open.insert(index(), id()), None, "the place is taken");
            }
            "response.output_item.done" => {
                assert_eq!(index(), done.len() as u64);
                assert_eq!(open.remove(&index()), Some(id()));
                done.push(event["item"].clone());
            }
            name if event.get("item_id").is_some() => {
                let id = open.get(&index()).expect("an item was announced");
                assert_eq!(event["item_id"], **id);
                if name.ends_with(".delta") {
                    texts.entry(id.clone()).or_default().push_str(event["delta"].as_str().unwrap());
                } else if !name.contains("part") {
                    let whole = ["text", "refusal", "arguments", "input"]
                        .into_iter()
                        .find_map(|member| event[member].as_str());
                    assert_eq!(whole, Some(texts[id].as_str()), "{event}");
                }
            }
            _ => {}
        }
    }
    assert!(open.is_empty());
    assert_eq!(output(events), json!(done));
    assert_eq!(names(events)[..2], ["response.created", "response.in_progress"]);
}
