//! The simulator's replies, compared with recorded ones.

use crate::support::{ask, ask_stream, get, post, simulator, user};
use antiphon_simulator::upstream::{Options, Script};
use serde_json::{Value, json};

struct Recording {
    request: Value,
    reply: Value,
}

/// A recorded turn. The request names the snapshot that the real API answered with, which the simulator doesn't know.
fn recording(json: &str) -> Recording {
    let recorded: Value = serde_json::from_str(json).unwrap();
    let upstream = &recorded["turns"][0]["upstream"];
    let mut request = upstream["request"]["body"]["value"].clone();
    request["model"] = json!("gpt-4.1-mini-2025-04-14");
    Recording { request, reply: upstream["response"]["body"].clone() }
}

/// Replaces what differs from reply to reply: ids keep their prefix, times only their type.
fn normalised(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.iter().map(|(key, value)| {
                let value = match (key.as_str(), value) {
                    ("id" | "item_id" | "call_id", Value::String(id)) => json!(id.split('_').next()),
                    ("created_at", _) => json!("time"),
                    ("completed_at", Value::Number(_)) => json!("time"),
                    (_, value) => normalised(value),
                };
                (key.clone(), value)
            });
            Value::Object(fields.collect())
        }
        Value::Array(values) => values.iter().map(normalised).collect(),
        other => other.clone(),
    }
}

#[tokio::test]
async fn a_collected_reply_equals_the_recorded_one() {
    let recording = recording(include_str!("../../fixtures/native-basic-nonstream.json"));
    let simulator = simulator(Options::default()).await;
    simulator.script(Script::answer("4").usage(17, 2));
    let reply = post(&simulator, &recording.request).await;
    assert_eq!(reply.headers["content-type"], "application/json");
    assert_eq!(normalised(&reply.json()), normalised(&recording.reply["value"]));
}

#[tokio::test]
async fn a_tool_call_equals_the_recorded_one() {
    let recording = recording(include_str!("../../fixtures/native-tool-call.json"));
    let simulator = simulator(Options::default()).await;
    simulator.script(Script::call("get_weather", r#"{"city":"Boston"}"#).usage(61, 6));
    let reply = post(&simulator, &recording.request).await;
    assert_eq!(normalised(&reply.json()), normalised(&recording.reply["value"]));
}

#[tokio::test]
async fn a_stream_equals_the_recorded_one_event_by_event() {
    let recording = recording(include_str!("../../fixtures/native-basic-stream.json"));
    let simulator = simulator(Options::default()).await;
    simulator.script(Script::answer("4").usage(17, 2));
    let reply = post(&simulator, &recording.request).await;
    assert_eq!(reply.headers["content-type"], "text/event-stream; charset=utf-8");
    let frames = recording.reply["frames"].as_array().unwrap();
    let events = reply.events();
    assert_eq!(events.len(), frames.len());
    for ((kind, data), frame) in events.iter().zip(frames) {
        assert_eq!(kind, frame["event"].as_str().unwrap());
        let recorded: Value = serde_json::from_str(frame["data"].as_str().unwrap()).unwrap();
        assert_eq!(normalised(data), normalised(&recorded));
    }
}

#[tokio::test]
async fn ids_look_real_agree_within_a_stream_and_never_repeat() {
    let simulator = simulator(Options::default()).await;
    let mut seen = std::collections::HashSet::new();
    for _ in 0..3 {
        let reply = post(&simulator, &ask_stream("hello")).await;
        let events = reply.events();
        let id = events[0].1["response"]["id"].as_str().unwrap().to_owned();
        assert_eq!(reply.last_event()["response"]["id"], id.as_str());
        assert_eq!((id.len(), &id[..5]), (55, "resp_"));
        let item = events.iter().find_map(|(_, data)| data["item_id"].as_str()).unwrap();
        assert_eq!(reply.last_event()["response"]["output"][0]["id"], item);
        assert!(seen.insert(id));
        assert!(seen.insert(item.to_owned()));
        assert!(seen.insert(reply.headers["x-request-id"].to_str().unwrap().to_owned()));
    }
}

#[tokio::test]
async fn reasoning_and_calls_stream_their_events_in_order() {
    let simulator = simulator(Options::default()).await;
    let mut request = ask_stream("hello");
    request["include"] = json!(["reasoning.encrypted_content"]);
    simulator.script(Script::new().reasoning("Hm.").tool_call("f", r#"{"a":1}"#).deltas(1));
    let reply = post(&simulator, &request).await;
    assert_eq!(
        reply.kinds(),
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.reasoning_summary_part.added",
            "response.reasoning_summary_text.delta",
            "response.reasoning_summary_text.done",
            "response.reasoning_summary_part.done",
            "response.output_item.done",
            "response.output_item.added",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.output_item.done",
            "response.completed",
        ]
    );
    let events = reply.events();
    for (number, (kind, data)) in events.iter().enumerate() {
        assert_eq!(data["sequence_number"], number);
        assert_eq!(data["type"], kind.as_str());
    }
    let output = &reply.last_event()["response"]["output"];
    assert_eq!(output[0], events[7].1["item"]);
    assert_eq!(output[0]["summary"], json!([{"type": "summary_text", "text": "Hm."}]));
    assert!(output[0]["encrypted_content"].as_str().unwrap().starts_with("gAAAAA"));
    assert_eq!(output[1]["arguments"], r#"{"a":1}"#);
    assert!(output[1]["call_id"].as_str().unwrap().starts_with("call_"));
}

#[tokio::test]
async fn reasoning_is_encrypted_only_on_request() {
    let simulator = simulator(Options::default()).await;
    simulator.script(Script::new().reasoning("Hm.").text("Yes."));
    let reply = post(&simulator, &ask("hello")).await;
    assert!(reply.json()["output"][0].get("encrypted_content").is_none());
}

#[tokio::test]
async fn request_fields_are_echoed_unchanged() {
    let simulator = simulator(Options::default()).await;
    let body = r#"{"model":"sim","input":"x","temperature":0.70,"metadata":{"n":"12345678901234567890"},"text":{"verbosity":"low"}}"#;
    let reply = crate::support::post_bytes(&simulator, body).await;
    assert!(reply.text().contains(r#""temperature":0.70,"#));
    assert!(reply.text().contains(r#""metadata":{"n":"12345678901234567890"}"#));
    assert_eq!(reply.json()["text"], json!({"format": {"type": "text"}, "verbosity": "low"}));
}

#[tokio::test]
async fn real_headers_come_with_every_reply() {
    let simulator = simulator(Options::default()).await;
    for request in [ask("hello"), ask_stream("hello"), json!({})] {
        let reply = post(&simulator, &request).await;
        assert!(reply.headers["x-request-id"].to_str().unwrap().starts_with("req_"));
        for name in ["openai-processing-ms", "x-ratelimit-limit-requests", "x-ratelimit-remaining-requests"] {
            assert!(reply.headers.contains_key(name), "{name}");
        }
    }
}

#[tokio::test]
async fn models_are_listed_and_unknown_paths_are_refused() {
    let simulator = simulator(Options::default()).await;
    let models = get(format!("{}/models", simulator.url())).await.json();
    let ids: Vec<&str> =
        models["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["gpt-5.4", "gpt-4.1-mini", "sim"]);
    assert_eq!(models["object"], "list");
    assert_eq!(models["data"][0]["object"], "model");
    let unknown = get(format!("{}/nothing", simulator.url())).await;
    unknown.assert_refused(404, None, None, "Invalid URL (GET /v1/nothing)");
    assert_eq!(simulator.other_requests().len(), 2);
    assert_eq!(simulator.requests().len(), 0);
}

#[tokio::test]
async fn requests_are_recorded_byte_for_byte() {
    let simulator = simulator(Options::default()).await;
    let body = "{ \"model\":\"sim\",\n\"input\":[{\"role\":\"user\",\"content\":\"\\u00e4 1.50\"}]}";
    crate::support::post_bytes(&simulator, body).await;
    let received = simulator.last_request().unwrap();
    assert_eq!(received.body, body);
    assert_eq!(received.path, "/v1/responses");
    assert_eq!(received.header("authorization"), Some("Bearer sk-right"));
    assert_eq!(received.input()[0]["content"], "ä 1.50");
    post(&simulator, &ask("text")).await;
    assert_eq!(simulator.last_request().unwrap().input(), [user("text")]);
}
