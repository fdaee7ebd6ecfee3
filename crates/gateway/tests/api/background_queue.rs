//! What background turns wait for: room, which projects share, memory for their requests, and the bounds of what is queued.

use std::collections::BTreeSet;

use antiphon_simulator::upstream::{Gate, Script, Simulator};
use antiphon_store::{Clock, PurgeProgress, SystemClock};
use antiphon_testkit::{Client, Gateway, Setup};
use serde_json::{Value, json};

use crate::background::{body, cancel, ended, over, path};
use crate::fairness::clients_of_two_projects;
use crate::simulator;

async fn two_projects(config: &str) -> (Simulator, Gateway, [Client; 2]) {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).config(config).start().await;
    let clients = clients_of_two_projects(&gateway).await;
    (upstream, gateway, clients)
}

fn of_size(input: &str, bytes: usize) -> Value {
    body(&format!("{input} {}", "x".repeat(bytes)))
}

/// The first words of what the upstream was asked, in order.
fn asked(upstream: &Simulator) -> Vec<String> {
    let word = |item: &Value| {
        let text = item["content"][0]["text"].as_str().or(item["content"].as_str()).unwrap();
        text.split(' ').next().unwrap().to_owned()
    };
    upstream.requests().iter().map(|request| word(&request.input()[0])).collect()
}

#[tokio::test]
async fn a_project_with_many_queued_turns_does_not_keep_another_waiting() {
    const MANY: usize = 200;
    let (upstream, _gateway, [one, two]) = two_projects("background.max_running = 1").await;
    let (script, gate) = Script::answer("done").gated();
    upstream.script(script);
    let mut ids = Vec::new();
    for n in 0..MANY {
        ids.push(one.create(body(&format!("one-{n}"))).await.ok_id());
    }
    let other = two.create(body("two")).await.ok_id();
    gate.open();
    assert_eq!(ended(&two, &other).await["status"], "completed");
    for id in &ids {
        assert_eq!(ended(&one, id).await["status"], "completed");
    }
    let asked = asked(&upstream);
    let place = asked.iter().position(|text| text == "two").unwrap();
    assert!(place <= 2, "{place} turns were before it");
    assert_eq!(asked.len(), MANY + 1);
    assert_eq!(asked.iter().collect::<BTreeSet<_>>().len(), MANY + 1);
}

#[tokio::test]
async fn a_turn_that_waits_for_memory_takes_no_room() {
    // A project can hold one body of the largest size.
    let config = "background.max_running = 1\nlimits.max_body = \"1MiB\"\nlimits.body_memory = \"2MiB\"";
    let (upstream, _gateway, [one, two]) = two_projects(config).await;
    let (first, of_first) = Script::answer("done").gated();
    let (second, of_second) = Script::answer("done").gated();
    upstream.script(first).script(second);
    let running = two.create(body("running")).await.ok_id();
    of_first.arrived(1).await;
    let large = one.create(of_size("large", 600_000)).await.ok_id();
    let mut request = of_size("foreground", 900_000);
    request["background"] = json!(false);
    let foreground = one.create(request);
    let rest = async {
        of_second.arrived(1).await;
        let small = two.create(body("small")).await.ok_id();
        of_first.open();
        for id in [&running, &small] {
            assert_eq!(ended(&two, id).await["status"], "completed");
        }
        assert_eq!(one.get(&path(&large)).await.ok()["status"], "queued");
        of_second.open();
    };
    tokio::join!(foreground, rest).0.ok();
    assert_eq!(ended(&one, &large).await["status"], "completed");
    assert_eq!(asked(&upstream), ["running", "foreground", "small", "large"]);
}

#[tokio::test]
async fn what_a_project_has_queued_is_bounded_in_bytes() {
    let config = "background.max_running = 1\nbackground.max_queued_bytes = \"100KB\"";
    let (upstream, _gateway, [one, two]) = two_projects(config).await;
    let (script, gate) = Script::answer("done").gated();
    upstream.script(script);
    let running = one.create(body("running")).await.ok_id();
    gate.arrived(1).await;
    let huge = one.create(of_size("huge", 300_000)).await.ok_id();
    let refused = one.create(body("small")).await;
    assert_eq!(refused.refusal(), (429, Some("rate_limit_exceeded".to_owned()), None));
    assert_eq!(refused.header("retry-after"), Some("10"));
    assert_eq!(cancel(&one, &huge).await.ok()["status"], "cancelled");
    let mut queued = vec![running];
    for n in 0..2 {
        queued.push(one.create(of_size(&format!("half-{n}"), 45_000)).await.ok_id());
    }
    assert_eq!(one.create(of_size("one-too-many", 45_000)).await.refusal().0, 429);
    let elsewhere = two.create(of_size("elsewhere", 45_000)).await.ok_id();
    gate.open();
    ended(&two, &elsewhere).await;
    for id in &queued {
        assert_eq!(ended(&one, id).await["status"], "completed");
    }
}

/// The texts of what the upstream was asked last.
fn last_texts(upstream: &Simulator) -> Vec<String> {
    let text =
        |item: &Value| item["content"][0]["text"].as_str().or(item["content"].as_str()).map(str::to_owned);
    upstream.last_request().unwrap().input().iter().filter_map(text).collect()
}

fn continuing(parent: &str, input: impl Into<Value>) -> Value {
    json!({"model": "sim", "input": input.into(), "previous_response_id": parent})
}

/// A queued turn that continues a chain and references an item of another response, both of which are deleted meanwhile.
async fn queued_over_deleted(upstream: &Simulator, gateway: &Gateway) -> (String, Gate) {
    let client = &gateway.client;
    for text in ["one", "two", "three"] {
        upstream.script(Script::answer(text));
    }
    let grandparent = client.create(json!({"model": "sim", "input": "grandparent"})).await.ok_id();
    let parent = client.create(continuing(&grandparent, "parent")).await.ok_id();
    let other = client.created(json!({"model": "sim", "input": "other"})).await;
    let (script, gate) = Script::answer("done").gated();
    upstream.script(script);
    client.create(body("running")).await.ok();
    gate.arrived(1).await;
    let reference = json!({"type": "item_reference", "id": other["output"][0]["id"]});
    let mut child = continuing(&parent, json!([reference, {"role": "user", "content": "child"}]));
    child["background"] = json!(true);
    let child = client.create(child).await.ok_id();
    for id in [&parent, other["id"].as_str().unwrap()] {
        client.delete(&path(id)).await.ok();
    }
    (child, gate)
}

#[tokio::test]
async fn a_queued_turn_runs_with_what_is_deleted_meanwhile() {
    let (upstream, gateway) = over("background.max_running = 1").await;
    let (child, gate) = queued_over_deleted(&upstream, &gateway).await;
    upstream.script(Script::answer("four"));
    gate.open();
    let all = ["grandparent", "one", "parent", "two", "three", "child"];
    assert_eq!(ended(&gateway.client, &child).await["status"], "completed");
    assert_eq!(last_texts(&upstream), all);
    assert!(upstream.last_request().unwrap().input().iter().all(|item| item.get("id").is_none()));
    gateway.client.create(continuing(&child, "next")).await.ok();
    assert_eq!(last_texts(&upstream), [&all[..], &["four", "next"]].concat());
}

#[tokio::test]
async fn a_queued_turn_that_is_taken_over_runs_with_what_was_deleted_before() {
    let (upstream, gateway) =
        over("background.max_running = 1\ntimeouts.shutdown = \"100ms\"\nbackground.retries = 0").await;
    let (child, _gate) = queued_over_deleted(&upstream, &gateway).await;
    let gateway = gateway.restart().await;
    assert_eq!(ended(&gateway.client, &child).await["status"], "completed");
    assert_eq!(last_texts(&upstream), ["grandparent", "one", "parent", "two", "three", "child"]);
}

#[tokio::test]
async fn a_turn_whose_parent_is_lost_fails_and_is_no_shorter_chain() {
    let (upstream, gateway) = over("background.max_running = 1").await;
    let (child, gate) = queued_over_deleted(&upstream, &gateway).await;
    let (mut all, store) = (PurgeProgress::default(), gateway.app.chains.store());
    let purged = store.purge(&mut all, SystemClock.now(), None, 100).await.unwrap();
    assert_eq!(purged.responses, 2);
    gate.open();
    let failed = ended(&gateway.client, &child).await;
    assert_eq!(failed["status"], "failed");
    assert_eq!(failed["error"]["code"], "previous_response_not_found");
    let asked = upstream.requests().len();
    assert_eq!(gateway.client.create(continuing(&child, "next")).await.refusal().0, 500);
    assert_eq!(upstream.requests().len(), asked);
}
