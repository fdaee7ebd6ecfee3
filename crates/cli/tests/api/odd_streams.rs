//! Streams that upstreams may send and rarely do.

use antiphon_simulator::upstream::Script;
use antiphon_testkit::{Event, Gateway, Setup};
use serde_json::{Value, json};

use crate::{gateway, simulator};

fn event(name: &str, data: &Value) -> String {
    format!("event: {name}\ndata: {data}\n\n")
}

fn created() -> String {
    let response = json!({"id": "up", "object": "response", "status": "in_progress", "output": []});
    event(
        "response.created",
        &json!({"type": "response.created", "sequence_number": 0, "response": response}),
    )
}

fn completed(number: u64) -> Value {
    let response = json!({"id": "up", "object": "response", "status": "completed", "output": []});
    json!({"type": "response.completed", "sequence_number": number, "response": response})
}

fn item_done(number: u64, output_index: u64, text: &str) -> String {
    let content = json!([{"type": "output_text", "text": text, "annotations": []}]);
    let item = json!({"type": "message", "id": format!("msg_{text}"), "role": "assistant", "status": "completed", "content": content});
    let name = "response.output_item.done";
    event(name, &json!({"type": name, "sequence_number": number, "output_index": output_index, "item": item}))
}

async fn stream(gateway: &Gateway) -> Vec<Event> {
    let mut events = gateway.client.stream(json!({"model": "sim", "input": "hi", "stream": true})).await;
    assert_eq!(events.status, 200);
    events.rest().await
}

fn names(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.name.as_str()).collect()
}

#[tokio::test]
async fn numbers_go_on_after_events_without_one() {
    for last in [
        "event: codex.rate_limits\ndata: {\"type\":\"codex.rate_limits\"}\n\n",
        "event: response.metadata\ndata: {\"type\":\"response.metadata\"}\n\n",
        "data: [DONE]\n\n",
    ] {
        let (upstream, gateway) = gateway().await;
        upstream.script(Script::stream_bytes([&created(), &*item_done(1, 0, "a"), last].concat()));
        let events = stream(&gateway).await;
        let [.., error, failed] = &events[..] else { panic!("too few events") };
        assert_eq!((&*error.name, &error.json()["sequence_number"]), ("error", &json!(2)));
        assert_eq!((&*failed.name, &failed.json()["sequence_number"]), ("response.failed", &json!(3)));
    }
}

#[tokio::test]
async fn items_that_finish_out_of_order_are_stored_in_the_order_of_the_output() {
    let (upstream, gateway) = gateway().await;
    let items = [item_done(1, 1, "b"), item_done(2, 2, "c"), item_done(3, 0, "a")].concat();
    let end = event("response.completed", &completed(4));
    upstream.script(Script::stream_bytes([created(), items, end].concat()));
    let events = stream(&gateway).await;
    let id = events.last().unwrap().json()["response"]["id"].clone();
    let stored = gateway.client.get(&format!("/v1/responses/{}", id.as_str().unwrap())).await.ok();
    let ids: Vec<_> = stored["output"].as_array().unwrap().iter().map(|item| item["id"].clone()).collect();
    assert_eq!(ids, ["msg_a", "msg_b", "msg_c"]);
}

#[tokio::test]
async fn a_single_event_without_the_blank_line_after_it_is_a_stream() {
    let (upstream, gateway) = gateway().await;
    let end = event("response.completed", &completed(0));
    upstream.script(Script::stream_bytes(end.trim_end().to_owned()));
    let events = stream(&gateway).await;
    assert_eq!(events.len(), 1);
    let response = events[0].json()["response"].clone();
    assert_eq!(response["status"], "completed");
    assert_ne!(response["id"], "up");
}

#[tokio::test]
async fn the_type_of_an_event_with_the_default_name_counts() {
    let (upstream, gateway) = gateway().await;
    upstream.script(Script::stream_bytes([created(), event("message", &completed(1))].concat()));
    let events = stream(&gateway).await;
    assert_eq!(events.len(), 2);
    assert_eq!(events[1].json()["response"]["id"], events[0].json()["response"]["id"]);
}

#[tokio::test]
async fn a_response_whose_last_event_says_that_it_goes_on_has_ended_as_the_event_says() {
    for (ending, open) in [("completed", "in_progress"), ("incomplete", "queued"), ("failed", "in_progress")]
    {
        for has_type in [true, false] {
            let (upstream, gateway) = gateway().await;
            let name = format!("response.{ending}");
            let mut last = completed(2);
            last["response"]["status"] = json!(open);
            last["type"] = if has_type { json!(name) } else { Value::Null };
            upstream.script(Script::stream_bytes(
                [created(), item_done(1, 0, "a"), event(&name, &last)].concat(),
            ));
            let events = stream(&gateway).await;
            let response = events.last().unwrap().json()["response"].clone();
            assert_eq!(response["status"], ending);
            let path = format!("/v1/responses/{}", response["id"].as_str().unwrap());
            assert_eq!(gateway.client.get(&path).await.ok()["status"], ending, "it is not polled for ever");
        }
    }
}

#[tokio::test]
async fn comments_before_the_first_event_take_no_memory_and_are_bounded() {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).config("limits.max_body = \"1MiB\"").start().await;
    let comments = ": still waiting for a machine\n\n".repeat(1_000);
    upstream.script(Script::stream_bytes(
        comments.clone() + &created() + &event("response.completed", &completed(1)),
    ));
    assert_eq!(stream(&gateway).await.len(), 2, "some comments are fine");
    upstream.script(Script::stream_bytes(comments.repeat(60) + &created()));
    let refused = gateway.client.create(json!({"model": "sim", "input": "hi", "stream": true})).await;
    assert_eq!((refused.refusal().0, refused.refusal().1.as_deref()), (502, Some("upstream_failed")));
}

#[tokio::test]
async fn text_that_is_not_utf8_reaches_a_socket_with_replacement_characters() {
    let (upstream, gateway) = gateway().await;
    let mut bytes = created().into_bytes();
    bytes.extend_from_slice(b"event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"sequence_number\":1,\"delta\":\"a\xffb\"}\n\n");
    bytes.extend_from_slice(event("response.completed", &completed(2)).as_bytes());
    upstream.script(Script::stream_bytes(bytes));
    let mut socket = gateway.socket().await;
    socket.create(json!({"model": "sim", "input": "hi"})).await;
    let events = socket.turn().await;
    assert_eq!((events.len(), &events[1]["delta"]), (3, &json!("a\u{fffd}b")));
}

#[tokio::test]
async fn a_stream_that_ends_after_a_carriage_return_keeps_its_last_event_apart() {
    let (upstream, gateway) = gateway().await;
    let whole = [created(), item_done(1, 0, "a")].concat().replace('\n', "\r\n");
    let cut = whole.strip_suffix("\n\r\n").unwrap().to_owned();
    assert!(cut.ends_with('\r'));
    upstream.script(Script::stream_bytes(cut));
    let events = stream(&gateway).await;
    assert_eq!(names(&events), ["response.created", "response.output_item.done", "error", "response.failed"]);
    assert_eq!(events[1].json()["item"]["id"], "msg_a");
}

#[tokio::test]
async fn a_log_has_the_events_that_came_with_what_breaks_the_stream_off() {
    let (upstream, gateway) = gateway().await;
    let malformed = event("response.completed", &json!({"type": "response.completed"}));
    let script = Script::answer("a b c").inject(7, malformed).one_write();
    let (script, gate) = script.gated_after(2);
    upstream.script(script);
    let request = json!({"model": "sim", "input": "hi", "stream": true, "background": true});
    let mut stream = gateway.client.stream(request).await;
    let mut events = vec![stream.next().await.unwrap(), stream.until("response.in_progress").await];
    gate.open();
    events.extend(stream.rest().await);
    let numbers: Vec<_> = events.iter().map(|event| event.json()["sequence_number"].clone()).collect();
    assert_eq!(numbers, (0..9).collect::<Vec<_>>(), "{:?}", names(&events));
    assert!(names(&events).ends_with(&["response.output_text.delta", "error", "response.failed"]));
}

#[tokio::test]
async fn an_item_whose_text_is_not_utf8_is_stored_with_replacement_characters() {
    for in_terminal in [false, true] {
        let (upstream, gateway) = gateway().await;
        let mut end = completed(2);
        if in_terminal {
            end["response"]["output"] = json!([{"type": "message", "id": "msg_BAD", "role": "assistant",
                "status": "completed", "content": []}]);
        }
        let sent = [created(), item_done(1, 0, "BAD"), event("response.completed", &end)].concat();
        let bytes = sent.split("BAD").map(str::as_bytes).collect::<Vec<_>>().join(&b"a\xffb"[..]);
        upstream.script(Script::stream_bytes(bytes));
        let events = stream(&gateway).await;
        assert_eq!(events.last().unwrap().name, "response.completed");
        let response = events.last().unwrap().json()["response"].clone();
        let stored = gateway.client.get(&format!("/v1/responses/{}", response["id"].as_str().unwrap())).await;
        assert_eq!(stored.ok()["output"][0]["id"], "msg_a\u{fffd}b");
    }
}
