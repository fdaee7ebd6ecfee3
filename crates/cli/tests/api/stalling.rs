//! Clients that stop reading in the middle of a stream.

use antiphon_simulator::upstream::Simulator;
use antiphon_testkit::{Events, Gateway, Setup, flood};
use serde_json::json;

use crate::simulator;

/// Starts a large stream that nobody reads, with a short limit.
async fn stalled(store: bool, config: &str) -> (Simulator, Gateway, Events) {
    let upstream = simulator().await;
    let config = format!("timeouts.write_stall = \"1s\"\n{config}");
    let gateway = Setup::over(&upstream).config(&config).start().await;
    upstream.script(flood());
    let body = json!({"model": "sim", "input": "x", "stream": true, "store": store});
    let events = gateway.client.stream(body).await;
    assert_eq!(events.status, 200);
    (upstream, gateway, events)
}

async fn outcome(gateway: &Gateway) -> (String, String) {
    let row = gateway.logged(1).await.remove(0);
    (row.outcome.into_owned(), row.response.to_string())
}

#[tokio::test]
async fn a_client_that_stops_reading_slows_its_upstream_and_is_then_disconnected() {
    let (upstream, gateway, mut events) = stalled(false, "").await;
    upstream.wait_until(|upstream| upstream.in_flight() == 0).await;
    assert_eq!(upstream.aborted(), 1, "the gateway took in everything that the client did not take");
    assert!(events.rest().await.iter().all(|event| event.name != "response.completed"));
    gateway.idle().await;
}

#[tokio::test]
async fn a_stored_turn_is_finished_without_the_client_that_stopped_reading() {
    let (upstream, gateway, mut events) = stalled(true, "").await;
    upstream.wait_until(|upstream| upstream.in_flight() == 0).await;
    assert_eq!(upstream.aborted(), 0);
    let (outcome, id) = outcome(&gateway).await;
    assert_eq!(outcome, "completed");
    assert_eq!(gateway.client.get(&format!("/v1/responses/{id}")).await.ok()["status"], "completed");
    assert!(events.rest().await.iter().all(|event| event.name != "response.completed"));
}

#[tokio::test]
async fn a_stored_turn_is_cancelled_with_the_client_that_stopped_reading_if_that_is_configured() {
    let (upstream, gateway, _events) = stalled(true, "turns.on_disconnect = \"cancel\"").await;
    upstream.wait_until(|upstream| upstream.in_flight() == 0).await;
    assert_eq!(upstream.aborted(), 1);
    let (outcome, id) = outcome(&gateway).await;
    assert_eq!(outcome, "cancelled");
    assert_eq!(gateway.client.get(&format!("/v1/responses/{id}")).await.ok()["status"], "cancelled");
}
