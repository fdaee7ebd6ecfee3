//! POST /v1/responses with `stream: true`.

use std::time::Duration;

use antiphon_simulator::upstream::Script;
use antiphon_testkit::Setup;
use serde_json::json;

use crate::{gateway, simulator};

#[tokio::test]
async fn the_events_the_stored_response_and_the_chain_have_one_id() {
    let (upstream, gateway) = gateway().await;
    let mut events = gateway.client.stream(json!({"model": "sim", "input": "hi", "stream": true})).await;
    assert!(events.headers["content-type"].to_str().unwrap().starts_with("text/event-stream"));
    let events = events.rest().await;
    assert_eq!(events.first().unwrap().name, "response.created");
    assert_eq!(events.last().unwrap().name, "response.completed");
    let responses: Vec<_> =
        events.iter().map(antiphon_testkit::Event::json).filter(|data| !data["response"].is_null()).collect();
    let id = &responses[0]["response"]["id"];
    for data in &responses {
        assert_eq!(&data["response"]["id"], id);
        assert_eq!(data["response"]["store"], true);
    }
    let stored = gateway.client.get(&format!("/v1/responses/{}", id.as_str().unwrap())).await.ok();
    assert_eq!(stored, responses.last().unwrap()["response"]);
    gateway.client.created(json!({"model": "sim", "input": "on", "previous_response_id": id})).await;
    assert_eq!(upstream.last_request().unwrap().json()["input"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn events_without_a_response_are_relayed_byte_for_byte() {
    for chunk in [1, 7, 64, 1 << 20] {
        let (upstream, gateway) = gateway().await;
        let odd = "event: response.brand_new\r\ndata: {\"n\":1.50e+400,\r\ndata: \"s\":\"\\u00e9\"}\r\nid: 7\r\n\r\n: a comment\n\ndata: {\"type\":\"unnamed\"}\n\n";
        upstream.script(Script::answer("a b c").inject(3, odd).writes_of(chunk));
        let mut events = gateway.client.stream(json!({"model": "sim", "input": "hi", "stream": true})).await;
        events.rest().await;
        let raw = String::from_utf8(events.raw).unwrap();
        assert!(raw.contains(odd), "in chunks of {chunk}: {raw}");
        assert!(raw.ends_with("\n\n") && raw.contains("event: response.completed\n"));
    }
}

#[tokio::test]
async fn a_silent_stream_gets_keep_alive_comments_between_events() {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).config("timeouts.keep_alive = \"30ms\"").start().await;
    upstream.script(Script::answer("a b").delay_events(Duration::from_millis(100)));
    let reply = gateway.client.create(json!({"model": "sim", "input": "x", "stream": true})).await;
    let text = String::from_utf8(reply.body.to_vec()).unwrap();
    let comments = text.matches("\n\n: keep-alive\n\n").count();
    assert!(comments > 2, "{text}");
    let without = text.replace(": keep-alive\n\n", "");
    assert!(without.split_terminator("\n\n").all(|event| event.starts_with("event: ")), "{without}");
    assert!(without.contains("event: response.completed"));
}

#[tokio::test]
async fn keep_alives_have_no_blank_line_where_events_have_ids() {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).config("timeouts.keep_alive = \"30ms\"").start().await;
    for background in [false, true] {
        upstream.script(Script::answer("a b").inject(4, "id: 7\n").delay_events(Duration::from_millis(100)));
        let body = json!({"model": "sim", "input": "x", "stream": true, "background": background});
        let reply = gateway.client.create(body).await;
        let text = String::from_utf8(reply.body.to_vec()).unwrap();
        let (_, with_ids) = text.split_once("id: 7\n").unwrap();
        assert!(with_ids.contains("\n: keep-alive\nevent: "), "{text}");
        assert!(
            !with_ids.contains(": keep-alive\n\n") && with_ids.contains("event: response.completed\n"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn all_line_endings_of_the_upstream_are_accepted() {
    let (upstream, gateway) = gateway().await;
    upstream.script(Script::answer("a b c").crlf().writes_of(5));
    let mut events = gateway.client.stream(json!({"model": "sim", "input": "hi", "stream": true})).await;
    let id = events.until("response.completed").await.json()["response"]["id"].clone();
    assert!(events.next().await.is_none());
    gateway.client.get(&format!("/v1/responses/{}", id.as_str().unwrap())).await.ok();
}

#[tokio::test]
async fn the_turn_is_durable_before_its_terminal_event_is_seen() {
    let (_upstream, gateway) = gateway().await;
    for _ in 0..20 {
        let mut events = gateway.client.stream(json!({"model": "sim", "input": "hi", "stream": true})).await;
        let id = events.until("response.completed").await.json()["response"]["id"].clone();
        gateway.client.get(&format!("/v1/responses/{}", id.as_str().unwrap())).await.ok();
        gateway.client.created(json!({"model": "sim", "input": "on", "previous_response_id": id})).await;
    }
}

#[tokio::test]
async fn items_missing_from_the_terminal_event_are_stored() {
    let (upstream, gateway) = gateway().await;
    let item = r#"{"type":"message","id":"msg_1","role":"assistant","status":"completed","content":[{"type":"output_text","text":"remembered","annotations":[]}]}"#;
    upstream.script(Script::stream_bytes(format!(
        "event: response.created\ndata: {{\"type\":\"response.created\",\"sequence_number\":0,\"response\":{{\"id\":\"up\",\"status\":\"in_progress\",\"output\":[]}}}}\n\n\
         event: response.output_item.done\ndata: {{\"type\":\"response.output_item.done\",\"sequence_number\":1,\"output_index\":0,\"item\":{item}}}\n\n\
         event: response.completed\ndata: {{\"type\":\"response.completed\",\"sequence_number\":2,\"response\":{{\"id\":\"up\",\"status\":\"completed\",\"output\":[]}}}}\n\n"
    )));
    let mut events = gateway.client.stream(json!({"model": "sim", "input": "hi", "stream": true})).await;
    let completed = events.until("response.completed").await.json();
    assert_eq!(completed["response"]["output"], json!([]));
    let id = &completed["response"]["id"];
    gateway.client.created(json!({"model": "sim", "input": "on", "previous_response_id": id})).await;
    let input = upstream.last_request().unwrap().json()["input"].clone();
    assert_eq!(input[1]["content"][0]["text"], "remembered");
}

#[tokio::test]
async fn nothing_is_sent_after_the_terminal_event() {
    let (upstream, gateway) = gateway().await;
    upstream.script(Script::answer("x").inject(usize::MAX, "data: [DONE]\n\n"));
    let mut events = gateway.client.stream(json!({"model": "sim", "input": "hi", "stream": true})).await;
    assert_eq!(events.rest().await.last().unwrap().name, "response.completed");
}

#[tokio::test]
async fn an_upstream_error_before_the_first_event_is_an_http_error() {
    let (upstream, gateway) = gateway().await;
    let body =
        r#"{"error":{"message":"no","type":"invalid_request_error","param":"tools","code":"bad_tools"}}"#;
    upstream.script(Script::http(400, body));
    let events = gateway.client.stream(json!({"model": "sim", "input": "hi", "stream": true})).await;
    assert_eq!(events.status, 400);
    let mut events = gateway
        .client
        .stream(json!({"model": "sim", "input": "hi", "stream": true, "previous_response_id": "resp_x"}))
        .await;
    assert_eq!(events.status, 400);
    assert!(events.next().await.is_none());
}
