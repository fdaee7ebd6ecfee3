//! `previous_response_id`: what is replayed, what is inherited, and what cannot be continued.

use std::time::Duration;

use antiphon_simulator::upstream::Script;
use antiphon_testkit::Setup;
use serde_json::{Value, json};

use crate::{gateway, simulator};

#[tokio::test]
async fn parameters_of_earlier_turns_do_not_apply() {
    let (upstream, gateway) = gateway().await;
    let first = gateway
        .client
        .created(json!({"model": "sim", "input": "one", "instructions": "Be brief.", "temperature": 0.5}))
        .await;
    let second = gateway
        .client
        .created(json!({"model": "gpt-5.4", "input": "two", "previous_response_id": first["id"]}))
        .await;
    let sent = upstream.last_request().unwrap().json();
    assert!(sent.get("instructions").is_none() && sent.get("temperature").is_none());
    assert_eq!(second["previous_response_id"], first["id"]);
    assert_eq!(sent["input"].as_array().unwrap().len(), 3);
    assert_eq!(sent["input"][1]["content"], first["output"][0]["content"]);
    assert!(sent["input"][1].get("id").is_none(), "the id of an output item went upstream");
}

#[tokio::test]
async fn a_chain_survives_a_restart() {
    let (upstream, gateway) = gateway().await;
    let first = gateway.client.created(json!({"model": "sim", "input": "one"})).await;
    let gateway = gateway.restart().await;
    let second = gateway
        .client
        .created(json!({"model": "sim", "input": "two", "previous_response_id": first["id"]}))
        .await;
    let gateway = gateway.restart().await;
    gateway
        .client
        .created(json!({"model": "sim", "input": "three", "previous_response_id": second["id"]}))
        .await;
    assert_eq!(upstream.last_request().unwrap().json()["input"].as_array().unwrap().len(), 5);
}

#[tokio::test]
async fn a_stored_response_can_be_continued_without_storing() {
    let (upstream, gateway) = gateway().await;
    let first = gateway.client.created(json!({"model": "sim", "input": "one"})).await;
    let body = json!({"model": "sim", "input": "two", "previous_response_id": first["id"], "store": false});
    let second = gateway.client.created(body).await;
    assert_eq!(upstream.last_request().unwrap().json()["input"].as_array().unwrap().len(), 3);
    let body = json!({"model": "sim", "input": "three", "previous_response_id": second["id"]});
    let (status, code, _) = gateway.client.create(body).await.refusal();
    assert_eq!((status, code.as_deref()), (400, Some("previous_response_not_found")));
}

#[tokio::test]
async fn a_thousand_turns_are_replayed_whole() {
    let (upstream, gateway) = gateway().await;
    let mut previous = Value::Null;
    for turn in 0..1000 {
        upstream.script(Script::answer(format!("answer {turn}")).deltas(1));
        let body =
            json!({"model": "sim", "input": format!("question {turn}"), "previous_response_id": previous});
        previous = gateway.client.created(body).await["id"].clone();
    }
    let gateway = gateway.restart().await;
    let body = json!({"model": "sim", "input": "last", "previous_response_id": previous});
    gateway.client.created(body).await;
    let input = upstream.last_request().unwrap().json()["input"].as_array().unwrap().clone();
    assert_eq!(input.len(), 2001);
    for turn in 0..1000 {
        assert_eq!(input[2 * turn]["content"][0]["text"], format!("question {turn}"));
        assert_eq!(input[2 * turn + 1]["content"][0]["text"], format!("answer {turn}"));
    }
}

#[tokio::test]
async fn exceeding_depth_or_history_limits_reports_limit_and_size() {
    let upstream = simulator().await;
    let gateway =
        Setup::over(&upstream).config("limits.max_chain_depth = 2\nlimits.max_history = 2000").start().await;
    let long = "x".repeat(3000);
    let big = gateway.client.created(json!({"model": "sim", "input": long})).await;
    let reply =
        gateway.client.create(json!({"model": "sim", "input": "y", "previous_response_id": big["id"]})).await;
    assert_eq!(reply.refusal().1.as_deref(), Some("context_too_large"));
    assert!(reply.json()["error"]["message"].as_str().unwrap().contains("2000"));

    let mut previous = gateway.client.created(json!({"model": "sim", "input": "1"})).await;
    previous = gateway
        .client
        .created(json!({"model": "sim", "input": "2", "previous_response_id": previous["id"]}))
        .await;
    let reply = gateway
        .client
        .create(json!({"model": "sim", "input": "3", "previous_response_id": previous["id"]}))
        .await;
    let (status, code, param) = reply.refusal();
    assert_eq!(
        (status, code.as_deref(), param.as_deref()),
        (400, Some("context_too_large"), Some("previous_response_id"))
    );
    let text = "Continuing the previous response would make the chain too large: 3 turns, the limit is 2.";
    assert_eq!(reply.json()["error"]["message"], text);
}

#[tokio::test]
async fn a_running_parent_is_reported_as_in_progress() {
    let (upstream, gateway) = gateway().await;
    let (script, gate) = Script::answer("slow").gated_after(1);
    upstream.script(script);
    let mut events = gateway.client.stream(json!({"model": "sim", "input": "x", "stream": true})).await;
    let id = events.next().await.unwrap().json()["response"]["id"].clone();
    let body = json!({"model": "sim", "input": "y", "previous_response_id": id});
    let (status, code, param) = gateway.client.create(&body).await.refusal();
    assert_eq!(
        (status, code.as_deref(), param.as_deref()),
        (409, Some("previous_response_not_completed"), Some("previous_response_id"))
    );
    gate.open();
    events.rest().await;
    gateway.client.created(&body).await;
}

#[tokio::test]
async fn failed_and_incomplete_parents_can_be_continued() {
    let (upstream, gateway) = gateway().await;
    for script in [
        Script::answer("part").incomplete("max_output_tokens"),
        Script::answer("part").failed("server_error", "It failed."),
    ] {
        upstream.script(script);
        let first = gateway.client.created(json!({"model": "sim", "input": "one"})).await;
        assert_ne!(first["status"], "completed");
        gateway
            .client
            .created(json!({"model": "sim", "input": "two", "previous_response_id": first["id"]}))
            .await;
        assert_eq!(upstream.last_request().unwrap().json()["input"][0]["content"][0]["text"], "one");
    }
}

#[tokio::test]
async fn an_expired_parent_is_not_found_but_its_descendants_continue() {
    let upstream = simulator().await;
    let clock = std::sync::Arc::default();
    let gateway = Setup::over(&upstream).clock(&clock).config("store.retention = \"1h\"").start().await;
    let first = gateway.client.created(json!({"model": "sim", "input": "one"})).await;
    clock.advance(Duration::from_secs(1800));
    let second = gateway
        .client
        .created(json!({"model": "sim", "input": "two", "previous_response_id": first["id"]}))
        .await;
    clock.advance(Duration::from_secs(1801));
    let on_first = json!({"model": "sim", "input": "x", "previous_response_id": first["id"]});
    assert_eq!(
        gateway.client.create(on_first).await.refusal().1.as_deref(),
        Some("previous_response_not_found")
    );
    let path = format!("/v1/responses/{}", first["id"].as_str().unwrap());
    assert_eq!(gateway.client.get(&path).await.refusal().0, 404);
    gateway
        .client
        .created(json!({"model": "sim", "input": "three", "previous_response_id": second["id"]}))
        .await;
    assert_eq!(upstream.last_request().unwrap().json()["input"].as_array().unwrap().len(), 5);
}
