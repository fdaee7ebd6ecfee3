//! `include`: the store keeps all of an item, and only those clients get all of it that ask for it.

use antiphon_simulator::upstream::{Script, Simulator};
use antiphon_testkit::{Client, Event, Fault, Faults, Setup};
use serde_json::{Value, json};

use crate::{gateway, simulator};

const ENCRYPTED: &str = "reasoning.encrypted_content";

fn thinking() -> Script {
    Script::new().reasoning("I thought.").text("so")
}

async fn read(client: &Client, response: &Value, rest: &str) -> Value {
    client.get(&format!("/v1/responses/{}{rest}", response["id"].as_str().unwrap())).await.ok()
}

fn has_encrypted(shown: &Value) -> bool {
    shown.to_string().contains("encrypted_content")
}

#[tokio::test]
async fn encrypted_reasoning_is_shown_only_to_a_client_that_asks_for_it() {
    let (upstream, gateway) = gateway().await;
    for include in [Value::Null, json!([]), json!(["message.output_text.logprobs"]), json!([ENCRYPTED])] {
        upstream.script(thinking());
        let body = json!({"model": "sim", "input": "x", "include": include});
        let created = gateway.client.created(&body).await;
        let is_asked_for = include.to_string().contains(ENCRYPTED);
        assert_eq!(has_encrypted(&created), is_asked_for, "{include}");
        assert_eq!(created["output"][0]["summary"][0]["text"], "I thought.");
        let read_back = read(&gateway.client, &created, "").await;
        let full = read(&gateway.client, &created, "?include=reasoning.encrypted_content").await;
        assert!(!has_encrypted(&read_back) && has_encrypted(&full));
        assert_eq!(if is_asked_for { full } else { read_back }, created);

        upstream.script(thinking());
        let mut events = gateway.client.stream(with(&body, "stream", true.into())).await;
        let shown: Vec<Value> = events.rest().await.iter().map(Event::json).collect();
        let with_it = shown.iter().filter(|event| has_encrypted(event));
        let names: Vec<_> = with_it.map(|event| event["type"].as_str().unwrap()).collect();
        let expected: &[_] = match is_asked_for {
            true => &["response.output_item.added", "response.output_item.done", "response.completed"],
            false => &[],
        };
        assert_eq!(names, expected, "{include}");
    }
}

fn with(body: &Value, name: &str, value: Value) -> Value {
    let mut body = body.clone();
    body[name] = value;
    body
}

#[tokio::test]
async fn what_a_broken_stream_had_finished_is_stored_whole_and_shown_without_it() {
    let (upstream, gateway) = gateway().await;
    upstream.script(thinking().cut_after(12));
    let mut events = gateway.client.stream(json!({"model": "sim", "input": "x", "stream": true})).await;
    let failed = events.until("response.failed").await.json()["response"].clone();
    assert!(failed["output"][0]["type"] == "reasoning" && !has_encrypted(&failed), "{failed}");
    assert!(has_encrypted(&read(&gateway.client, &failed, "?include[]=reasoning.encrypted_content").await));
}

#[tokio::test]
async fn an_unstored_turn_over_http_gets_what_the_upstream_sends() {
    let (upstream, gateway) = gateway().await;
    let item = r#"{"type":"reasoning","id":"rs_1","encrypted_content":"by default","summary":[]}"#;
    upstream.script(Script::new().item(item));
    let created = gateway.client.created(json!({"model": "sim", "input": "x", "store": false})).await;
    assert_eq!(created["output"][0]["encrypted_content"], "by default");
    assert_eq!(upstream.last_request().unwrap().json().get("include"), None);
}

#[tokio::test]
async fn an_unstored_turn_over_a_socket_gets_what_it_may_have_to_send_back() {
    let (upstream, gateway) = gateway().await;
    let mut socket = gateway.socket().await;
    for store in [false, true] {
        upstream.script(thinking());
        let created = socket.created(json!({"model": "sim", "input": "x", "store": store})).await;
        assert_eq!(has_encrypted(&created), !store, "{created}");
    }
}

#[tokio::test]
async fn reasoning_that_comes_back_without_its_content_goes_upstream_whole() {
    let (upstream, gateway) = gateway().await;
    upstream.script(thinking());
    let first = gateway.client.created(json!({"model": "sim", "input": "x"})).await;
    let question = json!({"role": "user", "content": "x"});
    let next = json!({"role": "user", "content": "on"});
    let output = first["output"].as_array().unwrap();
    let input: Vec<_> = [&question].into_iter().chain(output).chain([&next]).cloned().collect();
    let assert_sent_whole = |upstream: &Simulator| {
        let sent = upstream.last_request().unwrap().input();
        assert!(sent[1]["encrypted_content"].is_string(), "{sent:?}");
        assert_eq!(
            (&sent[1]["id"], &sent[2], sent.len()),
            (&output[0]["id"], &output[1], 4),
            "as the client sent them"
        );
    };
    for store in [true, false] {
        gateway.client.created(json!({"model": "sim", "input": input, "store": store})).await;
        assert_sent_whole(&upstream);
    }
    // The next turn finds it in what the turn before has stored.
    let gateway = gateway.restart().await;
    let again = gateway.client.created(json!({"model": "sim", "input": input})).await;
    assert_sent_whole(&upstream);
    let shown = read(&gateway.client, &again, "/input_items?order=asc").await;
    assert!(shown["data"][1]["id"] == output[0]["id"] && !has_encrypted(&shown));
    let all =
        read(&gateway.client, &again, "/input_items?order=asc&include[]=reasoning.encrypted_content").await;
    assert!(all["data"][1]["encrypted_content"].is_string());
}

#[tokio::test]
async fn unknown_reasoning_goes_upstream_as_it_is_with_or_without_a_store() {
    let upstream = simulator().await;
    let faults = Faults::default();
    let gateway = Setup::over(&upstream).faults(&faults).start().await;
    let reasoning = json!({"type": "reasoning", "summary": [], "content": []});
    let item = with(&reasoning, "id", "rs_unknown".into());
    for fault in [Fault::None, Fault::ReadsFail, Fault::Down] {
        faults.set(fault);
        let body = json!({"model": "sim", "input": [item, {"role": "user", "content": "x"}], "store": false});
        let reply = gateway.client.create(&body).await;
        assert_eq!(upstream.last_request().unwrap().input()[0], item, "{}", reply.status);
    }
}

#[tokio::test]
async fn parts_of_input_items_are_listed_only_if_they_are_included() {
    let (_upstream, gateway) = gateway().await;
    let image = "data:image/png;base64,iVBORw0KGgo=";
    let input = json!([
        {"role": "user", "content": [
            {"type": "input_text", "text": "look"}, {"type": "input_image", "image_url": image, "detail": "auto"}
        ]},
        {"type": "message", "id": "msg_a", "status": "completed", "role": "assistant", "content": [
            {"type": "output_text", "text": "I see", "annotations": [], "logprobs": [{"token": "I", "logprob": -0.5}]}
        ]},
    ]);
    let created = gateway.client.created(json!({"model": "sim", "input": input})).await;
    let list = async |query: &str| {
        read(&gateway.client, &created, &format!("/input_items?order=asc{query}")).await["data"].clone()
    };
    let plain = list("").await;
    assert_eq!(plain[0]["content"][1], json!({"type": "input_image", "detail": "auto"}));
    assert_eq!(plain[1]["content"][0]["logprobs"], json!([]));
    let all = list("&include[]=message.input_image.image_url&include[]=message.output_text.logprobs").await;
    assert_eq!(all[0]["content"][1]["image_url"], image);
    assert_eq!(all[1]["content"], input[1]["content"]);
}
