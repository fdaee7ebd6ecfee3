//! Acknowledged responses survive a kill.

use std::time::{Duration, Instant};

use antiphon_simulator::upstream::{Options, Script, Simulator};
use antiphon_testkit::{Process, Setup, eventually};
use http::Method;
use serde_json::{Value, json};

use crate::binary;

#[tokio::test]
async fn a_chain_survives_a_kill_right_after_its_terminal_event() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let setup = Setup::over(&upstream);
    let mut previous = Value::Null;
    for turn in 0..5 {
        let gateway = Process::start(binary(), &setup).await;
        let body = json!({"model": "sim", "input": format!("turn {turn}"), "stream": true, "previous_response_id": previous});
        let mut events = gateway.client.stream(body).await;
        let completed = events.until("response.completed").await.json();
        gateway.kill().await;
        previous = completed["response"]["id"].clone();
        assert_eq!(
            upstream.last_request().unwrap().json()["input"].as_array().map_or(1, Vec::len),
            2 * turn + 1
        );
    }
}

#[tokio::test]
async fn no_acknowledged_turn_is_lost_when_the_gateway_is_killed_under_load() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let setup = Setup::over(&upstream);
    let mut acknowledged = Vec::new();
    for round in 1..4 {
        let gateway = Process::start(binary(), &setup).await;
        let workers: Vec<_> = (0..16)
            .map(|n| {
                let client = gateway.client.clone();
                tokio::spawn(async move { worker(client, n).await })
            })
            .collect();
        upstream.wait_until(|upstream| upstream.counts().requests > 200 * round).await;
        gateway.kill().await;
        for worker in workers {
            acknowledged.extend(worker.await.unwrap());
        }
    }
    let gateway = Process::start(binary(), &setup).await;
    for id in &acknowledged {
        assert_eq!(gateway.client.get(&format!("/v1/responses/{id}")).await.ok()["status"], "completed");
    }
    println!("acknowledged: {}, lost: 0", acknowledged.len());
    assert!(acknowledged.len() > 100);
}

/// Streams turns until the gateway is killed; returns the ids whose terminal event was seen.
async fn worker(client: antiphon_testkit::Client, n: usize) -> Vec<String> {
    let mut seen = Vec::new();
    loop {
        let body = json!({"model": "sim", "input": format!("worker {n}"), "stream": true});
        let Some(mut events) = client.try_stream(body).await else { return seen };
        loop {
            let Some(event) = events.next().await else { return seen };
            if event.name == "response.completed" {
                seen.push(event.json()["response"]["id"].as_str().unwrap().to_owned());
                break;
            }
        }
    }
}

#[tokio::test]
async fn the_conversation_of_a_killed_turn_is_free_again_when_its_lease_ends() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let setup = Setup::over(&upstream);
    let gateway = Process::start(binary(), &setup).await;
    let made = gateway.client.request(Method::POST, "/v1/conversations", &[], "").await.ok();
    let turn = json!({"model": "sim", "input": "x", "conversation": made["id"]});
    gateway.client.create(&turn).await.ok();
    upstream.script(Script::answer("never").hang());
    let client = gateway.client.clone();
    let killed = turn.clone();
    let running = tokio::spawn(async move {
        let body = json!({"model": killed["model"], "input": "y", "conversation": killed["conversation"], "stream": true});
        client.try_stream(body).await.is_some()
    });
    upstream.wait_until(|upstream| upstream.counts().requests == 2).await;
    let locked_at = Instant::now();
    gateway.kill().await;
    running.await.unwrap();
    let gateway = Process::start(binary(), &setup).await;
    let refused = gateway.client.create(&turn).await;
    assert_eq!(refused.refusal().1.as_deref(), Some("conversation_locked"));
    eventually("its lease of 30 seconds has ended", async || {
        gateway.client.create(&turn).await.status == 200
    })
    .await;
    assert!(locked_at.elapsed() > Duration::from_secs(20), "{:?}", locked_at.elapsed());
    assert_eq!(upstream.last_request().unwrap().input().len(), 3, "of the killed turn, nothing was appended");
}
