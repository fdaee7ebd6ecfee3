//! Clients that leave before their turn has ended.

use antiphon_simulator::upstream::{Script, Simulator};
use antiphon_testkit::{Client, Gateway, Setup, eventually};
use serde_json::{Value, json};

use crate::fairness::two_projects;
use crate::{gateway, simulator};

async fn leave(gateway: &Gateway, store: bool) -> String {
    leave_as(&gateway.client, store).await
}

/// Starts a stream whose upstream waits, reads its first event, and leaves. Returns the response's id.
async fn leave_as(client: &Client, store: bool) -> String {
    let body = json!({"model": "sim", "input": "question", "stream": true, "store": store});
    let mut events = client.stream(body).await;
    let id = events.next().await.unwrap().json()["response"]["id"].as_str().unwrap().to_owned();
    drop(events);
    id
}

async fn stored(gateway: &Gateway, id: &str) -> Value {
    gateway.idle().await;
    gateway.client.get(&format!("/v1/responses/{id}")).await.ok()
}

async fn over(config: &str) -> (Simulator, Gateway) {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).config(config).start().await;
    (upstream, gateway)
}

#[tokio::test]
async fn a_stored_turn_is_finished_without_its_client() {
    let (upstream, gateway) = gateway().await;
    let (script, gate) = Script::answer("the whole answer").gated_after(1);
    upstream.script(script);
    let id = leave(&gateway, true).await;
    gate.open();
    let stored = stored(&gateway, &id).await;
    assert_eq!(stored["status"], "completed");
    assert_eq!(stored["output"][0]["content"][0]["text"], "the whole answer");
    assert_eq!(upstream.aborted(), 0);
}

#[tokio::test]
async fn with_cancel_a_disconnect_stops_the_upstream_and_stores_the_turn_as_cancelled() {
    let (upstream, gateway) = over("turns.on_disconnect = \"cancel\"").await;
    upstream.script(Script::new().reasoning("Thinking.").text("a b c").hang_after(12));
    let body = json!({"model": "sim", "input": "question", "stream": true});
    let mut events = gateway.client.stream(body).await;
    let id = events.next().await.unwrap().json()["response"]["id"].as_str().unwrap().to_owned();
    events.until("response.output_item.done").await;
    drop(events);
    upstream.wait_until(|upstream| upstream.aborted() == 1).await;
    let stored = stored(&gateway, &id).await;
    assert_eq!(stored["status"], "cancelled");
    assert_eq!(stored["output"].as_array().unwrap().len(), 1);
    gateway.client.created(json!({"model": "sim", "input": "on", "previous_response_id": id})).await;
    assert_eq!(upstream.last_request().unwrap().json()["input"][0]["content"][0]["text"], "question");
}

#[tokio::test]
async fn a_turn_without_its_client_has_a_time_limit() {
    let (upstream, gateway) = over("turns.finish_timeout = \"100ms\"").await;
    upstream.script(Script::answer("a b c").hang_after(3));
    let id = leave(&gateway, true).await;
    upstream.wait_until(|upstream| upstream.aborted() == 1).await;
    assert_eq!(stored(&gateway, &id).await["status"], "cancelled");
}

#[tokio::test]
async fn a_turn_that_is_not_stored_is_cancelled_at_once() {
    let (upstream, gateway) = gateway().await;
    upstream.script(Script::answer("a b c").hang_after(3));
    let id = leave(&gateway, false).await;
    upstream.wait_until(|upstream| upstream.aborted() == 1).await;
    gateway.idle().await;
    assert_eq!(gateway.client.get(&format!("/v1/responses/{id}")).await.status, 404);
}

#[tokio::test]
async fn a_collected_turn_is_finished_without_its_client() {
    let (upstream, gateway) = gateway().await;
    let (script, gate) = Script::answer("the whole answer").gated();
    upstream.script(script);
    let client = gateway.client.clone();
    let asking =
        tokio::spawn(async move { client.create(json!({"model": "sim", "input": "question"})).await });
    upstream.wait_until(|upstream| upstream.in_flight() == 1).await;
    asking.abort();
    asking.await.unwrap_err();
    gate.open();
    gateway.idle().await;
    let row = gateway.logged(1).await.remove(0);
    assert_eq!((row.outcome.as_ref(), row.http_status), ("completed", 200));
    assert_eq!(
        gateway.client.get(&format!("/v1/responses/{}", row.response)).await.ok()["status"],
        "completed"
    );
}

#[tokio::test]
async fn a_collected_turn_that_is_not_stored_is_cancelled_at_once() {
    let (upstream, gateway) = gateway().await;
    let (script, _gate) = Script::answer("never").gated();
    upstream.script(script);
    let client = gateway.client.clone();
    let body = json!({"model": "sim", "input": "question", "store": false});
    let asking = tokio::spawn(async move { client.create(body).await });
    upstream.wait_until(|upstream| upstream.in_flight() == 1).await;
    asking.abort();
    upstream.wait_until(|upstream| upstream.aborted() == 1).await;
    gateway.idle().await;
}

#[tokio::test]
async fn a_project_has_a_quarter_of_the_turns_that_are_finished_without_their_clients() {
    let upstream = simulator().await;
    let (gateway, [one, two]) =
        two_projects(Setup::over(&upstream).config("limits.max_connections = 12")).await;
    let (mut left, mut gates) = (Vec::new(), Vec::new());
    for (number, client) in [&one, &one, &one, &two].into_iter().enumerate() {
        let (script, gate) = Script::answer("the whole answer").gated_after(1);
        upstream.script(script);
        left.push((client, leave_as(client, true).await));
        gates.push(gate);
        let running = async || gateway.client.metric("antiphon_turns_detached").await;
        eventually("it is finished without its client", async || running().await == number as u64 + 1).await;
    }
    upstream.script(Script::new().reasoning("Thinking.").text("a b c").hang_after(12));
    let refused = leave_as(&one, true).await;
    upstream.wait_until(|upstream| upstream.aborted() == 1).await;
    for gate in gates {
        gate.open();
    }
    gateway.idle().await;
    let status = async |client: &Client, id: &str| {
        client.get(&format!("/v1/responses/{id}")).await.ok()["status"].as_str().unwrap().to_owned()
    };
    for (client, id) in left {
        assert_eq!(status(client, &id).await, "completed");
    }
    assert_eq!(status(&one, &refused).await, "cancelled");
    assert_eq!(gateway.client.metric("antiphon_turns_detached").await, 0);
    assert_eq!(gateway.client.metric("antiphon_turns_detached_refused_total").await, 1);
    let (script, gate) = Script::answer("the whole answer").gated_after(1);
    upstream.script(script);
    let next = leave_as(&one, true).await;
    gate.open();
    gateway.idle().await;
    assert_eq!(status(&one, &next).await, "completed", "there is room again");
}
