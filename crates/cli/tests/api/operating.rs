//! What operators see: health, metrics, the request log, and a graceful shutdown.

use std::sync::Arc;
use std::time::{Duration, Instant};

use antiphon_config::Config;
use antiphon_simulator::upstream::Script;
use antiphon_testkit::{Came, Setup, eventually};
use serde_json::json;

use crate::{gateway, simulator};

#[tokio::test]
async fn health_and_readiness_are_reported() {
    let (_upstream, gateway) = gateway().await;
    assert_eq!(gateway.client.get("/healthz").await.ok()["status"], "ok");
    assert_eq!(gateway.client.get("/readyz").await.ok()["status"], "ready");
}

#[tokio::test]
async fn turns_are_counted_and_logged_with_their_usage() {
    let (upstream, gateway) = gateway().await;
    upstream.script(Script::answer("x").usage(17, 4));
    let first = gateway.client.created(json!({"model": "sim", "input": "x"})).await;
    upstream
        .script(Script::http(400, r#"{"error":{"message":"m","type":"t","param":null,"code":"bad_thing"}}"#));
    gateway.client.create(json!({"model": "sim", "input": "x", "store": false})).await;
    gateway.idle().await;
    let text = gateway.client.metrics().await;
    for line in [
        r#"antiphon_turns_total{transport="http",outcome="completed"} 1"#,
        r#"antiphon_turns_total{transport="http",outcome="refused"} 1"#,
        r#"antiphon_failures_total{fault="client",code="other"} 1"#,
        r#"antiphon_tokens_total{kind="input"} 17"#,
        "antiphon_turns_in_flight 0",
        "antiphon_store_available 1",
        "antiphon_store_failed_commits_total 0",
        r#"antiphon_account_in_flight{account="one"} 0"#,
    ] {
        assert!(text.lines().any(|have| have == line), "{line} is missing from\n{text}");
    }
    assert_ne!(gateway.client.metric("antiphon_store_commit_seconds_count").await, 0);
    let setup = gateway.stop().await;
    let gateway = setup.start().await;
    let rows = gateway.logged(2).await;
    // Rows of the same millisecond are in no order.
    let row = |outcome: &str| rows.iter().find(|row| row.outcome == outcome).unwrap();
    let (refused, completed) = (row("refused"), row("completed"));
    assert_eq!((refused.http_status, refused.code.as_deref()), (400, Some("bad_thing")));
    assert_eq!((completed.http_status, completed.code.as_deref()), (200, None));
    assert_eq!((completed.input_tokens, completed.output_tokens, completed.depth), (17, 4, 1));
    assert_eq!(completed.response.to_string(), first["id"].as_str().unwrap());
    assert_eq!(completed.account.as_deref(), Some("one"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_metrics_reads_miss_no_account_while_accounts_are_replaced() {
    let upstream = simulator().await;
    let url = upstream.url();
    let accounts = ["kept", "first", "second"].map(|name| (name, url.as_str()));
    let gateway = Setup::with_accounts(accounts).start().await;
    let pool = Arc::clone(&gateway.app.pool);
    let all: Vec<_> = pool.accounts().iter().map(|account| account.settings.clone()).collect();
    let replace = move |other: usize| {
        let accounts = vec![all[0].clone(), all[other].clone()];
        pool.replace(accounts, Config::default().routing.settings()).unwrap();
    };
    replace(1);
    let scrapes = [(); 2].map(|()| {
        let client = gateway.client.clone();
        tokio::spawn(async move {
            let mut pages = Vec::new();
            for _ in 0..100 {
                pages.push(String::from_utf8(client.get("/metrics").await.body.to_vec()).unwrap());
            }
            pages
        })
    });
    let mut n = 0;
    while !scrapes.iter().all(tokio::task::JoinHandle::is_finished) {
        replace(1 + n % 2);
        n += 1;
        tokio::task::yield_now().await;
    }
    for scrape in scrapes {
        for page in scrape.await.unwrap() {
            let samples = |name: &str, account: &str| {
                let start = format!("antiphon_account_{name}{{account=\"{account}\"");
                page.lines().filter(|line| line.starts_with(&start)).count()
            };
            let samples_of =
                |account| ["in_flight", "state", "cooling_seconds"].map(|name| samples(name, account));
            let (whole, none) = ([1, 4, 1], [0, 0, 0]);
            assert_eq!(samples_of("kept"), whole, "{page}");
            let others = [samples_of("first"), samples_of("second")];
            assert!(others == [whole, none] || others == [none, whole], "{page}");
        }
    }
}

#[tokio::test]
async fn a_turn_in_flight_is_finished_before_the_gateway_stops() {
    let (upstream, gateway) = gateway().await;
    let (script, gate) = Script::answer("to the end").gated_after(1);
    upstream.script(script);
    let mut events = gateway.client.stream(json!({"model": "sim", "input": "x", "stream": true})).await;
    let id = events.next().await.unwrap().json()["response"]["id"].as_str().unwrap().to_owned();
    let stopping = tokio::spawn(gateway.stop());
    gate.open();
    assert_eq!(events.rest().await.last().unwrap().name, "response.completed");
    let gateway = stopping.await.unwrap().start().await;
    assert_eq!(gateway.client.get(&format!("/v1/responses/{id}")).await.ok()["status"], "completed");
}

#[tokio::test]
async fn turns_are_aborted_at_the_shutdown_timeout() {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).config("timeouts.shutdown = \"200ms\"").start().await;
    for _ in 0..2 {
        upstream.script(Script::answer("a b").hang_after(2));
    }
    let body = |stream: bool| json!({"model": "sim", "input": "x", "stream": stream});
    let mut events = gateway.client.stream(body(true)).await;
    let id = events.next().await.unwrap().response_id();
    let mut socket = gateway.socket().await;
    socket.create(json!({"type": "response.create", "model": "sim", "input": "x"})).await;
    let of_socket = socket.frame().await["response"]["id"].as_str().unwrap().to_owned();
    let (script, _gate) = Script::answer("never").gated();
    upstream.script(script);
    let client = gateway.client.clone();
    let collected = tokio::spawn(async move { client.create(body(false)).await });
    upstream.wait_until(|upstream| upstream.in_flight() == 3).await;
    let began = Instant::now();
    let gateway = gateway.stop().await.start().await;
    // The upstream would hold them for as long as it is there.
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    let rest = events.rest().await;
    let [.., error, failed] = &rest[..] else { panic!("too few events") };
    assert_eq!(
        (error.json()["type"].as_str(), error.json()["code"].as_str()),
        (Some("error"), Some("server_error"))
    );
    assert_eq!(failed.json()["type"], "response.failed");
    assert_eq!(failed.json()["response"]["error"]["code"], "server_error");
    let frames = socket.turn().await;
    assert_eq!(frames.last().unwrap()["type"], "response.failed");
    assert!(frames.iter().any(|frame| frame["type"] == "error"), "{frames:?}");
    assert_eq!(socket.next().await, Came::Closed(1012, "service restart".to_owned()));
    let collected = collected.await.unwrap();
    assert_eq!(collected.refusal(), (503, Some("server_error".to_owned()), None));
    for id in [id, of_socket] {
        let stored = gateway.client.get(&format!("/v1/responses/{id}")).await.ok();
        assert_eq!((&stored["status"], &stored["error"]["code"]), (&json!("failed"), &json!("server_error")));
        let next = json!({"model": "sim", "input": "on", "previous_response_id": id});
        gateway.client.created(next).await;
    }
    let log = gateway.logged(5).await;
    let cut_off = log.iter().filter(|row| row.code.as_deref() == Some("server_error"));
    assert_eq!(cut_off.count(), 3);
}

#[tokio::test]
async fn a_purge_keeps_the_parent_of_a_running_turn() {
    let upstream = simulator().await;
    let clock = Arc::default();
    let config = "store.retention = \"60m\"\nstore.purge_interval = \"20ms\"\ntimeouts.turn = \"30m\"\n\
                  background.max_duration = \"30m\"";
    let gateway = Setup::over(&upstream).clock(&clock).config(config).start().await;
    let minutes = |n| clock.advance(Duration::from_mins(n));
    let create = |input: &str| gateway.client.created(json!({"model": "sim", "input": input}));
    let (first, other) = (create("one").await, create("other").await);
    minutes(30);
    gateway.client.delete(&format!("/v1/responses/{}", other["id"].as_str().unwrap())).await.ok();
    minutes(10);
    let (script, gate) = Script::answer("two").gated();
    upstream.script(script);
    let client = gateway.client.clone();
    let second = json!({"model": "sim", "input": "two", "previous_response_id": first["id"]});
    let second = tokio::spawn(async move { client.created(second).await });
    upstream.wait_until(|upstream| upstream.in_flight() == 1).await;
    // Now the first one has expired, and the other one was deleted longer ago than a turn may take.
    minutes(25);
    let purged = async || gateway.client.metric("antiphon_purged_responses_total").await;
    eventually("a response is purged", async || purged().await > 0).await;
    assert_eq!(purged().await, 1);
    gate.open();
    let second = second.await.unwrap();
    let gateway = gateway.restart().await;
    gateway
        .client
        .created(json!({"model": "sim", "input": "on", "previous_response_id": second["id"]}))
        .await;
    assert_eq!(upstream.last_request().unwrap().json()["input"].as_array().unwrap().len(), 5);
}

#[tokio::test]
async fn sixty_four_concurrent_turns_leak_nothing() {
    let (upstream, gateway) = gateway().await;
    upstream.always(Script::answer("a b c").deltas(3));
    let turns = (0..64).map(|n| {
        let client = gateway.client.clone();
        tokio::spawn(async move {
            let body = json!({"model": "sim", "input": format!("turn {n}"), "stream": n % 2 == 0});
            if n % 2 == 0 {
                client.stream(body).await.rest().await.len()
            } else {
                client.created(body).await;
                1
            }
        })
    });
    for turn in turns.collect::<Vec<_>>() {
        assert!(turn.await.unwrap() > 0);
    }
    gateway.idle().await;
    assert_eq!(upstream.counts().requests, 64);
}
