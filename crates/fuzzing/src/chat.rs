//! The stream of a chat completion: whatever the server sends, the events are those of one response, however they are cut.

use std::collections::VecDeque;
use std::sync::Arc;

use antiphon_protocol::event::Event;
use antiphon_protocol::id::ResponseId;
use antiphon_protocol::request::{Changes, CreateRequest, Operation, UpstreamInput};
use antiphon_runtime::{Clock, Timestamp};
use antiphon_upstream::dialect::chat::{ChatSettings, ReasoningAs};
use antiphon_upstream::dialect::{Dialect, Piece, ReplyFormat, TurnFacts};
use bytes::Bytes;
use serde_json::{Value, json};

const LIMIT: usize = 1 << 20;
const TOOLS: &str = r#"[{"type":"custom","name":"patch"},{"type":"shell"},{"type":"apply_patch"},{"type":"local_shell"},
    {"type":"namespace","name":"n","tools":[{"type":"function","name":"f"}]}]"#;

#[derive(Debug)]
struct Stopped;

impl Clock for Stopped {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_ms(1_000)
    }
}

/// The first line says how the stream is read; the rest is the stream.
pub fn check(input: &[u8]) {
    let line = input.iter().position(|&byte| byte == b'\n').unwrap_or(0);
    let (options, stream) = input.split_at(line);
    let has = |option| options.contains(&option);
    let settings = ChatSettings {
        think_tags: has(b't'),
        reasoning_as: if has(b's') { ReasoningAs::Summary } else { ReasoningAs::Text },
        ..ChatSettings::default()
    };
    let format = format(settings);
    let whole = decode(&format, [stream]);
    check_order(&whole);
    for size in [1, 7, 64] {
        assert_eq!(decode(&format, stream.chunks(size)), whole, "in pieces of {size} bytes");
    }
}

fn format(settings: ChatSettings) -> ReplyFormat {
    let body = format!(r#"{{"model":"m","input":"x","tools":{TOOLS}}}"#);
    let create = CreateRequest::parse(Operation::Create, body.into()).expect("a valid request");
    let clock: Arc<dyn Clock> = Arc::new(Stopped);
    let id = ResponseId::mint(1, &[7; 10]);
    let facts = TurnFacts { id, started_at: clock.now(), clock: &clock };
    let encoded =
        Dialect::Chat(settings).encode(&create, &UpstreamInput::default(), Changes::default(), &facts);
    encoded.expect("a chat can have it").format
}

fn decode<'a>(format: &ReplyFormat, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Value> {
    let mut decoder = format.decoder(LIMIT);
    let mut events = Vec::new();
    let mut add = |event: &Event| {
        let data = event.data().expect("every event has data");
        events.push(serde_json::from_slice(&data).expect("every event is JSON"));
    };
    for piece in pieces {
        decoder.push(Piece::Bytes(Bytes::copy_from_slice(piece)));
        while let Some(event) = decoder.next_event().expect("no stream is as long as the limit") {
            add(&event);
        }
    }
    while let Some(event) = decoder.finish() {
        add(&event);
    }
    events
}

/// Numbers without gaps, items that end in the order in which they begin, deltas that add up, and nothing after the end.
fn check_order(events: &[Value]) {
    let (mut open, mut done) = (VecDeque::<(Value, String)>::new(), Vec::new());
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], number);
        let kind = event["type"].as_str().expect("every event has a type");
        match kind {
            "response.output_item.added" => {
                let is_call = event["item"].get("call_id").is_some();
                assert!(open.is_empty() || is_call, "only calls are open at the same time");
                assert_eq!(event["output_index"], done.len() + open.len());
                open.push_back((event["item"]["id"].clone(), String::new()));
            }
            "response.output_item.done" => {
                let (id, _) = open.pop_front().expect("an item ends that has begun");
                assert_eq!((&event["item"]["id"], &event["output_index"]), (&id, &json!(done.len())));
                done.push(event["item"].clone());
            }
            "response.completed" | "response.incomplete" => {
                assert_eq!(event["response"]["output"], json!(done));
                assert_eq!(number, events.len() - 1, "nothing follows the end");
            }
            "response.failed" => assert_eq!(number, events.len() - 1, "nothing follows the end"),
            _ => {
                let Some(changed) = event.get("item_id") else { continue };
                let at = open.iter().position(|(id, _)| id == changed).expect("only what is open changes");
                assert_eq!(event["output_index"], done.len() + at);
                check_text(kind, event, &mut open[at].1);
            }
        }
    }
}

/// Adds a delta to what was written; what is done must be all of that.
fn check_text(kind: &str, event: &Value, written: &mut String) {
    if kind.ends_with(".delta") {
        written.push_str(event["delta"].as_str().expect("a delta is a text"));
    } else if !kind.contains("part") {
        let whole =
            ["text", "refusal", "arguments", "input"].into_iter().find_map(|name| event[name].as_str());
        assert_eq!(whole, Some(written.as_str()));
    }
}
