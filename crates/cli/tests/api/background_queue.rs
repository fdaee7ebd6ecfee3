//! What background turns wait for: room, which projects share, memory for their requests, and the bounds of what is queued.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use antiphon_simulator::upstream::{Gate, Script, Simulator};
use antiphon_store::{Clock, PurgeProgress, SystemClock};
use antiphon_testkit::{Client, Gateway, ManualClock, Setup, eventually};
use serde_json::{Value, json};

use crate::administering::Operator;
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

/// Room for one turn, and an account for each of two models.
fn two_models(first: &Simulator, second: &Simulator) -> Setup {
    Setup::with_accounts([("one", first.url().as_str()), ("two", second.url().as_str())])
        .account(0, "models = [\"sim\"]")
        .account(1, "models = [\"other\"]")
        .config("background.max_running = 1")
}

/// A turn of the other model, which runs after those that are queued before it and have an account.
async fn run_another(client: &Client) {
    let id = client.create(json!({"model": "other", "input": "x", "background": true})).await.ok_id();
    assert_eq!(ended(client, &id).await["status"], "completed");
}

#[tokio::test]
async fn a_turn_stays_queued_while_its_accounts_cool_down() {
    let (first, second, clock) = (simulator().await, simulator().await, Arc::new(ManualClock::default()));
    let gateway = two_models(&first, &second).clock(&clock).start().await;
    let client = &gateway.client;
    first.script(Script::http(429, "{}").header("retry-after", "100"));
    assert_eq!(client.create(json!({"model": "sim", "input": "x"})).await.status, 429);
    let mut streamed = body("streamed");
    streamed["stream"] = json!(true);
    let (polled, cancelled) =
        (client.create(body("polled")).await.ok_id(), client.create(body("x")).await.ok_id());
    let mut events = client.stream(streamed).await;
    run_another(client).await;
    for id in [&polled, &cancelled] {
        assert_eq!(client.get(&path(id)).await.ok()["status"], "queued");
    }
    assert_eq!(cancel(client, &cancelled).await.ok()["status"], "cancelled");
    assert_eq!(first.counts().requests, 1);
    clock.advance(Duration::from_secs(101));
    assert_eq!(ended(client, &polled).await["status"], "completed");
    assert_eq!(events.rest().await.last().unwrap().name, "response.completed");
    assert_eq!(first.counts().requests, 3);
}

#[tokio::test]
async fn a_turn_without_a_usable_account_is_refused_and_one_that_is_queued_waits() {
    let (first, second) = (simulator().await, simulator().await);
    let gateway = two_models(&first, &second).start().await;
    let (client, operator) = (&gateway.client, Operator::of(&gateway).await);
    let (script, gate) = Script::answer("done").gated();
    second.script(script);
    let running = client.create(json!({"model": "other", "input": "x", "background": true})).await.ok_id();
    gate.arrived(1).await;
    let queued = client.create(body("queued")).await.ok_id();
    operator.post("/api/accounts/one/pause").await;
    for stream in [false, true] {
        let mut refused = body("refused");
        refused["stream"] = json!(stream);
        let refused = client.create(refused).await;
        assert_eq!(refused.refusal(), (503, Some("no_account_available".to_owned()), None));
    }
    gate.open();
    assert_eq!(ended(client, &running).await["status"], "completed");
    run_another(client).await;
    assert_eq!(client.get(&path(&queued)).await.ok()["status"], "queued");
    operator.post("/api/accounts/one/resume").await;
    assert_eq!(ended(client, &queued).await["status"], "completed");
    assert_eq!(first.counts().requests, 1);
}

#[tokio::test]
async fn a_turn_that_waits_for_a_busy_account_stays_queued_and_survives_its_gateway() {
    let upstream = simulator().await;
    let config = "timeouts.shutdown = \"100ms\"\nbackground.retries = 0";
    let gateway = Setup::over(&upstream).account(0, "max_in_flight = 1").config(config).start().await;
    let (script, gate) = Script::answer("done").gated();
    upstream.script(script);
    let sent = gateway.client.create(body("sent")).await.ok_id();
    gate.arrived(1).await;
    let waiting = gateway.client.create(body("waiting")).await.ok_id();
    let pool = &gateway.app.pool;
    eventually("the second turn waits for the account", async || pool.queued() == 1).await;
    assert_eq!(gateway.client.get(&path(&waiting)).await.ok()["status"], "queued");
    let gateway = gateway.restart().await;
    assert_eq!(ended(&gateway.client, &waiting).await["status"], "completed");
    // The upstream had this one, and may bill it again.
    assert_eq!(ended(&gateway.client, &sent).await["status"], "failed");
    assert_eq!(asked(&upstream), ["sent", "waiting"]);
}

#[tokio::test]
async fn a_turn_of_an_unlisted_model_waits_for_a_busy_account_as_long_as_any_other() {
    let upstream = simulator().await;
    let config = "routing.queue_timeout = \"100ms\"";
    let gateway = Setup::over(&upstream).account(0, "max_in_flight = 1").config(config).start().await;
    let (script, gate) = Script::answer("done").gated();
    upstream.script(script);
    let sent = gateway.client.create(body("sent")).await.ok_id();
    gate.arrived(1).await;
    let unlisted = json!({"model": "unlisted", "input": "waiting", "background": true});
    let waiting = gateway.client.create(unlisted).await.ok_id();
    let pool = &gateway.app.pool;
    eventually("the second turn waits for the account", async || pool.queued() == 1).await;
    eventually("it has waited long enough for one time", async || pool.queued() == 0).await;
    eventually("it waits again", async || pool.queued() == 1).await;
    assert_eq!(gateway.client.get(&path(&waiting)).await.ok()["status"], "queued");
    gate.open();
    for id in [&sent, &waiting] {
        assert_eq!(ended(&gateway.client, id).await["status"], "completed");
    }
}
