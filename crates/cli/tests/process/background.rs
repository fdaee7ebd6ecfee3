//! Background responses survive the death of their gateway.

use std::path::Path;

use antiphon_simulator::upstream::{Gate, Options, Script, Simulator};
use antiphon_testkit::{Client, Event, Postgres, Process, Setup, client_tool, eventually};
use http::Method;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::binary;

/// How many events an upstream's reply to these tests has.
pub(crate) const EVENTS: usize = 12;

/// How a gateway dies, and what follows it.
#[derive(Clone, Copy)]
pub(crate) enum Store {
    File,
    /// Its lease has to expire first, as other replicas may live.
    Postgres,
}

pub(crate) async fn setup(upstream: &Simulator, store: Store) -> Setup {
    let setup = Setup::over(upstream).config("background.lease = \"3s\"");
    match store {
        Store::File => setup,
        Store::Postgres => setup.database_url(&Postgres::shared_database().await),
    }
}

async fn simulator() -> Simulator {
    Simulator::bind(Options::default()).await.unwrap()
}

pub(crate) fn body(stream: bool) -> Value {
    json!({"model": "sim", "input": "x", "background": true, "stream": stream})
}

#[tokio::test]
async fn the_openai_node_sdk_polls_resumes_and_cancels() {
    let upstream = simulator().await;
    let setup = setup(&upstream, Store::File).await;
    let gateway = Process::start(binary(), &setup).await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/clients/background.mjs");
    let output = Command::new("node")
        .arg(script)
        .env("ANTIPHON_URL", &gateway.url)
        .env("CLIENTS", client_tool(""))
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let shown = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    let (log, _) = gateway.terminate().await;
    assert!(output.status.success() && shown[0] == "ok\n", "{shown:?}\n{log:#?}");
}

pub(crate) fn number(event: &Event) -> u64 {
    event.json()["sequence_number"].as_u64().unwrap()
}

pub(crate) async fn ended(client: &Client, id: &str) -> Value {
    eventually("the response has ended", async || {
        let response = client.get(&format!("/v1/responses/{id}")).await.ok();
        let is_running = ["queued", "in_progress"].map(Value::from).contains(&response["status"]);
        (!is_running).then_some(response)
    })
    .await
}

/// Kills the gateway while it runs a turn for the client, once the upstream has sent so many events.
async fn kill_during_a_polled_turn(
    setup: &Setup,
    upstream: &Simulator,
    id: Option<&str>,
    events: usize,
) -> String {
    let (script, gate) = Script::answer("a b c d").gated_after(events);
    upstream.script(script);
    let gateway = Process::start(binary(), setup).await;
    let id = match id {
        Some(id) => id.to_owned(),
        None => gateway.client.create(body(false)).await.ok_id(),
    };
    gate.arrived(1).await;
    gateway.kill().await;
    id
}

async fn a_polled_turn_is_run_again_once(store: Store) {
    let upstream = simulator().await;
    let setup = setup(&upstream, store).await;
    for events in 1..EVENTS {
        let requests = upstream.counts().requests;
        let id = kill_during_a_polled_turn(&setup, &upstream, None, events).await;
        let gateway = Process::start(binary(), &setup).await;
        let response = ended(&gateway.client, &id).await;
        assert_eq!(response["status"], "completed", "{response}");
        assert_eq!(upstream.counts().requests, requests + 2);
        gateway.kill().await;
    }
    let requests = upstream.counts().requests;
    let id = kill_during_a_polled_turn(&setup, &upstream, None, 4).await;
    kill_during_a_polled_turn(&setup, &upstream, Some(&id), 4).await;
    let gateway = Process::start(binary(), &setup).await;
    let response = ended(&gateway.client, &id).await;
    assert_eq!((&response["status"], &response["error"]["code"]), (&json!("failed"), &json!("server_error")));
    assert_eq!(response["background"], true);
    assert_eq!(upstream.counts().requests, requests + 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_polled_turn_is_run_again_once_when_its_gateway_is_killed() {
    a_polled_turn_is_run_again_once(Store::File).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_polled_turn_is_run_again_once_when_its_replica_is_killed() {
    a_polled_turn_is_run_again_once(Store::Postgres).await;
}

/// Kills the gateway once the client has seen the event of this number; returns all events until then.
pub(crate) async fn events_until_a_kill(
    setup: &Setup,
    upstream: &Simulator,
    last: u64,
) -> (Vec<Event>, Gate) {
    let upstream_events = usize::try_from(last).unwrap() + 1;
    let (script, gate) = Script::answer("a b c d").gated_after(upstream_events);
    upstream.script(script);
    let gateway = Process::start(binary(), setup).await;
    let mut stream = gateway.client.stream(body(true)).await;
    let mut events = vec![stream.next().await.unwrap()];
    while number(events.last().unwrap()) < last {
        events.push(stream.next().await.unwrap());
    }
    gate.arrived(1).await;
    gateway.kill().await;
    (events, gate)
}

/// Adds the events that a client gets from another gateway, up to the end.
pub(crate) async fn read_on(setup: &Setup, mut events: Vec<Event>) -> Vec<Event> {
    let last = number(events.last().unwrap());
    let gateway = Process::start(binary(), setup).await;
    let id = events[0].response_id();
    let rest = format!("/v1/responses/{id}?stream=true&starting_after={last}");
    events.extend(gateway.client.follow(&rest).await.rest().await);
    let response = ended(&gateway.client, &id).await;
    assert_eq!(response, events.last().unwrap().json()["response"]);
    let whole = gateway.client.follow(&format!("/v1/responses/{id}?stream=true")).await.rest().await;
    let raw = |events: &[Event]| events.iter().flat_map(|event| event.raw.to_vec()).collect::<Vec<_>>();
    assert_eq!(raw(&whole), raw(&events), "the log is what its reader saw");
    gateway.kill().await;
    let numbers: Vec<_> = events.iter().map(number).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "after {last}: {numbers:?}");
    let created = events.iter().filter(|event| event.name == "response.created");
    assert_eq!(created.count(), 1, "after {last}");
    events
}

async fn no_event_is_lost_or_repeated(store: Store) {
    let upstream = simulator().await;
    let setup = setup(&upstream, store).await;
    for last in 0..EVENTS as u64 - 1 {
        let (seen, _gate) = events_until_a_kill(&setup, &upstream, last).await;
        let events = read_on(&setup, seen).await;
        let names: Vec<_> = events.iter().map(|event| event.name.as_str()).collect();
        // With nothing seen but its start it was run again; else it has failed.
        let end = if last <= 1 { "response.completed" } else { "response.failed" };
        assert_eq!(names.last(), Some(&end), "after {last}");
        if last > 1 {
            assert_eq!(names[names.len() - 2], "error");
            assert_eq!(events.last().unwrap().json()["response"]["error"]["code"], "server_error");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_event_neither_loses_nor_repeats_one() {
    no_event_is_lost_or_repeated(Store::File).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_of_a_replica_at_any_event_neither_loses_nor_repeats_one() {
    no_event_is_lost_or_repeated(Store::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_living_replica_takes_over_the_turns_of_a_dead_one() {
    let upstream = simulator().await;
    let setup = setup(&upstream, Store::Postgres).await;
    let other = Process::start(binary(), &setup).await;
    let id = kill_during_a_polled_turn(&setup, &upstream, None, 4).await;
    assert_eq!(ended(&other.client, &id).await["status"], "completed");
    assert_eq!(other.client.metric("antiphon_background_taken_over_total").await, 1);
}

/// The lock of a conversation stays with its turn, and the turn is appended once.
async fn a_conversation_outlives_its_gateway(store: Store) {
    let upstream = simulator().await;
    let setup = setup(&upstream, store).await;
    let gateway = Process::start(binary(), &setup).await;
    let made = gateway.client.request(Method::POST, "/v1/conversations", &[], "{}").await.ok();
    let (script, _gate) = Script::answer("a b c d").gated_after(4);
    let (again, gate) = Script::answer("a b c d").gated_after(4);
    upstream.script(script).script(again);
    let mut request = body(false);
    request["conversation"] = made["id"].clone();
    let id = gateway.client.create(&request).await.ok_id();
    upstream.wait_until(|upstream| upstream.counts().requests == 1).await;
    gateway.kill().await;
    let gateway = Process::start(binary(), &setup).await;
    let beside = json!({"model": "sim", "input": "beside", "conversation": made["id"]});
    let (status, code, _) = gateway.client.create(&beside).await.refusal();
    assert_eq!((status, code.as_deref()), (400, Some("conversation_locked")));
    gate.open();
    assert_eq!(ended(&gateway.client, &id).await["status"], "completed");
    gateway.client.created(&beside).await;
    let path = format!("/v1/conversations/{}/items?order=asc", made["id"].as_str().unwrap());
    assert_eq!(gateway.client.get(&path).await.ok()["data"].as_array().unwrap().len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_in_a_conversation_is_appended_once_after_a_kill() {
    a_conversation_outlives_its_gateway(Store::File).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_in_a_conversation_is_appended_once_after_a_kill_of_its_replica() {
    a_conversation_outlives_its_gateway(Store::Postgres).await;
}
