//! However a turn ends, its reservation is settled once, by its actual usage.

use std::time::Duration;

use antiphon_access::limits::{Estimate, ReservationRequest, ReserveError};
use antiphon_protocol::id::{ProjectId, ResponseId};
use antiphon_simulator::upstream::{Script, Simulator};
use antiphon_store::{Clock, CounterId, Hold, Measure, Reservation, SystemClock, Timestamp};
use antiphon_testkit::{Client, Fault, Faults, Postgres, Setup};
use futures_util::future::join_all;
use http::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::administering::Operator;
use crate::limits::{
    Limited, Standing, half_past, held_turn, limited, limited_over, of, plain, refusal, settled, standing,
};
use crate::simulator;

const REQUESTS: &str = "requests per minute";
const TOKENS: &str = "tokens per minute";
const TURNS: &str = "concurrent turns";

/// Limits that are never reached.
fn wide() -> Value {
    json!({"requests_per_minute": 1_000, "tokens_per_minute": 1_000_000, "concurrent_turns": 100})
}

fn spent(requests: u64, tokens: u64) -> Standing {
    of(&[(REQUESTS, requests), (TOKENS, tokens)])
}

fn body(stream: bool, store: bool) -> Value {
    json!({"model": "sim", "input": "question", "stream": stream, "store": store})
}

#[tokio::test]
async fn an_absurd_report_counts_alike_everywhere_and_the_client_gets_it_unchanged() {
    const REPORTED: u64 = 1 << 62;
    const COUNTED: u64 = 1_000_000_000_000;
    let upstream = simulator().await;
    let setup = Setup::over(&upstream)
        .clock(&half_past())
        .config("prices = [{ model = \"sim\", input = 1, output = 1000 }]");
    let limits = json!({"tokens_per_minute": 1_000_000_000_000_000_u64, "budgets": [{"cost": 1_000_000, "window": "day"}]});
    let limited = limited_over(upstream, setup, limits).await;
    limited.upstream.script(Script::answer("x").usage(REPORTED, REPORTED));
    let shown = limited.client.created(body(false, true)).await;
    assert_eq!(
        (&shown["usage"]["input_tokens"], &shown["usage"]["output_tokens"]),
        (&json!(REPORTED), &json!(REPORTED))
    );
    let million_dollars = 1_000_000_000_000_000;
    assert_eq!(
        limited.settled().await,
        of(&[(TOKENS, 2 * COUNTED), ("US dollars per day", million_dollars)])
    );
    for kind in ["input", "output"] {
        let metric = format!("antiphon_tokens_total{{kind=\"{kind}\"}}");
        assert_eq!(limited.gateway.client.metric(&metric).await, COUNTED);
    }
    assert_eq!(
        limited.gateway.client.metric("antiphon_model_tokens_total{model=\"sim\"}").await,
        2 * COUNTED
    );
    let metrics = limited.gateway.client.metrics().await;
    assert!(metrics.lines().any(|line| line == "antiphon_cost_usd_total 1000000.0"), "{metrics}");
    let row = limited.gateway.logged(1).await.remove(0);
    assert_eq!((row.input_tokens, row.output_tokens), (COUNTED, COUNTED));
    assert_eq!(row.cost_nano_usd, Some(million_dollars));
}

#[tokio::test]
async fn every_terminal_status_is_settled_by_reported_usage() {
    for (script, requests, tokens) in [
        (Script::answer("a b").usage(100, 20), 1, 120),
        (Script::answer("a b").incomplete("max_output_tokens").usage(100, 20), 1, 120),
        (Script::answer("a b").failed("server_error", "No.").usage(100, 20), 1, 120),
        // The client's fault: one request, no tokens.
        (Script::refusal(400, "invalid_value", "No."), 1, 0),
        // Another fault: nothing.
        (Script::refusal(500, "server_error", "No."), 0, 0),
        (Script::refusal(429, "rate_limit_exceeded", "No.").header("retry-after", "60"), 0, 0),
        (Script::refusal(402, "insufficient_balance", "No."), 0, 0),
        (Script::refusal(401, "invalid_api_key", "No."), 0, 0),
    ] {
        for (stream, store) in [(false, true), (true, true), (false, false), (true, false)] {
            for background in [false, true] {
                let limited = limited(wide()).await;
                limited.upstream.script(script.clone());
                let mut body = body(stream, store);
                body["background"] = json!(background);
                limited.client.create(&body).await;
                let found = limited.settled().await;
                assert_eq!(found, spent(requests, tokens), "{script:?}, {body}");
            }
        }
    }
}

#[tokio::test]
async fn a_cut_off_stream_counts_one_request_and_no_tokens() {
    for n in [1, 3, 6] {
        for script in [Script::answer("a b c d").cut_after(n), Script::answer("a b c d").end_after(n)] {
            for store in [true, false] {
                for (stream, background) in [(true, false), (true, true), (false, true)] {
                    let limited = limited(wide()).await;
                    limited.upstream.script(script.clone());
                    let mut body = body(stream, store);
                    body["background"] = json!(background);
                    limited.client.create(&body).await;
                    assert_eq!(limited.settled().await, spent(1, 0), "{script:?}, {body}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_client_that_leaves_a_stream_is_charged_for_what_it_received() {
    let limited = limited(wide()).await;
    limited.upstream.script(Script::answer("a b c").hang_after(4));
    let mut events = limited.client.stream(body(true, false)).await;
    events.next().await.unwrap();
    drop(events);
    limited.upstream.wait_until(|upstream| upstream.aborted() == 1).await;
    let found = limited.settled().await;
    let (tokens, held) = found[TOKENS];
    assert_eq!((found[REQUESTS], found[TURNS], held), ((1, 0), (0, 0), 0));
    assert!((10..40).contains(&tokens), "the question, and a few events: {tokens}");
}

#[tokio::test]
async fn a_client_that_leaves_before_the_first_event_is_charged_one_request() {
    let limited = limited(wide()).await;
    let (_gate, running) = {
        let (script, gate) = Script::answer("never").gated();
        limited.upstream.script(script);
        let client = limited.client.clone();
        (gate, tokio::spawn(async move { client.create(body(false, false)).await }))
    };
    limited.upstream.wait_until(|upstream| upstream.in_flight() == 1).await;
    running.abort();
    limited.upstream.wait_until(|upstream| upstream.aborted() == 1).await;
    assert_eq!(limited.settled().await, spent(1, 0));
}

#[tokio::test]
async fn a_stored_turn_whose_client_left_is_counted_when_it_is_finished() {
    let limited = limited(wide()).await;
    let (script, gate) = Script::answer("the whole answer").usage(100, 20).gated_after(1);
    limited.upstream.script(script);
    let mut events = limited.client.stream(body(true, true)).await;
    events.next().await.unwrap();
    drop(events);
    assert_eq!(limited.standing().await[TURNS], (0, 1), "it runs");
    gate.open();
    assert_eq!(limited.settled().await, spent(1, 120));
}

#[tokio::test]
async fn a_turn_that_moves_to_another_account_is_counted_once() {
    let (bad, good) = (simulator().await, simulator().await);
    bad.script(Script::refusal(500, "server_error", "No."));
    let setup = Setup::with_accounts([("bad", bad.url().as_str()), ("good", good.url().as_str())])
        .account(0, "priority = 0")
        .account(1, "priority = 1");
    let limited = limited_over(good, setup, wide()).await;
    limited.upstream.script(Script::answer("a").usage(100, 20));
    limited.client.create(body(false, true)).await.ok();
    assert_eq!(limited.settled().await, spent(1, 120));
}

#[tokio::test]
async fn turns_that_never_reach_an_upstream_count_nothing() {
    let limited = limited(wide()).await;
    let unknown = json!({"model": "sim", "input": "x", "previous_response_id": "resp_0199a1b2c3d47e5f8a9b0c1d2e3f4a5b"});
    assert_eq!(limited.client.create(unknown).await.status, 400);
    assert_eq!(limited.client.create("no JSON").await.status, 400);
    assert_eq!(limited.settled().await, of(&[]));
    let operator = Operator::of(&limited.gateway).await;
    operator.post("/api/accounts/one/pause").await;
    assert_eq!(limited.client.create(plain("x")).await.status, 503);
    assert_eq!(limited.settled().await, spent(0, 0), "it was held, and given back");
}

#[tokio::test]
async fn compacting_uses_tokens_and_counting_uses_none() {
    let limited = limited(wide()).await;
    let post = async |path: &str| {
        let body = json!({"model": "sim", "input": "question"}).to_string();
        limited.client.request(Method::POST, path, &[], body).await
    };
    let reply = post("/v1/responses/compact").await;
    let usage = &reply.ok()["usage"];
    let tokens = usage["input_tokens"].as_u64().unwrap() + usage["output_tokens"].as_u64().unwrap();
    assert!(reply.header("x-ratelimit-remaining-requests") == Some("999") && tokens > 0);
    assert_eq!(limited.settled().await, spent(1, tokens));
    post("/v1/responses/input_tokens").await.ok();
    assert_eq!(limited.settled().await, spent(2, tokens));
}

#[tokio::test]
async fn a_store_failure_leaks_no_reservation() {
    let upstream = simulator().await;
    let faults = Faults::default();
    let setup = Setup::over(&upstream).faults(&faults);
    let limited = limited_over(upstream, setup, wide()).await;
    for fault in [Fault::WritesFail, Fault::Down] {
        faults.set(fault);
        for store in [true, false] {
            let reply = limited.client.create(body(false, store)).await;
            assert_eq!(reply.refusal().1.as_deref(), Some("store_unavailable"), "{fault:?}");
        }
        faults.set(Fault::None);
    }
    assert_eq!(limited.upstream.counts().requests, 0, "nothing went upstream");
    assert_eq!(limited.settled().await, of(&[]));
    // Recording fails: the usage at the upstream still counts.
    let (gate, running) = held_turn(&limited).await;
    faults.set(Fault::WritesFail);
    gate.open();
    let reply = running.await.unwrap();
    assert_eq!(reply.refusal().1.as_deref(), Some("store_unavailable"));
    faults.set(Fault::None);
    let found = limited.settled().await;
    assert!(found[REQUESTS] == (1, 0) && found[TURNS] == (0, 0) && found[TOKENS].0 > 0, "{found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_reservation_is_left_after_combined_failures() {
    let limited = limited(json!({"concurrent_turns": 12, "tokens_per_minute": 1_000_000})).await;
    let words =
        ["CUT{2}", "CUT{5}", "ERROR{500,x}", "ERROR{400,x}", "FAIL", "INCOMPLETE", "LONG{3000}", "hi"];
    let ask = async |n: usize| {
        let (stream, store) = (n.is_multiple_of(2), n.is_multiple_of(3));
        let asked =
            json!({"model": "sim", "input": words[n % words.len()], "stream": stream, "store": store});
        let asking = limited.client.create(&asked);
        // Some clients leave early.
        let patience = Duration::from_millis(if n.is_multiple_of(5) { n as u64 % 40 } else { 20_000 });
        tokio::time::timeout(patience, asking).await.ok();
    };
    join_all((0..200).map(ask)).await;
    let found = limited.settled().await;
    assert_eq!((found[TURNS], found[TOKENS].1), ((0, 0), 0), "{found:?}");
    let reserved = join_all((0..12).map(|_| limited.client.create(plain("hi")))).await;
    assert!(reserved.iter().all(|reply| reply.status == 200), "all of it is there again");
}

/// A reservation of a killed process.
async fn orphan(limited: &Limited, id: u8, expires_at: Timestamp) {
    let window_start = Timestamp::from_unix_ms(0);
    let counter = CounterId { scope: limited.key.as_str().into(), rule: TURNS.into(), window_start };
    let hold = Hold { counter, window_end: window_start, measure: Measure::Turns, amount: 1, limit: 1 };
    let id = ResponseId::mint(1, &[id; 10]);
    let reservation = Reservation { id, replica: Uuid::nil(), expires_at, holds: vec![hold] };
    assert!(limited.gateway.app.chains.store().reserve(reservation).await.unwrap().is_held);
}

#[tokio::test]
async fn reservations_of_a_killed_process_are_released() {
    let (upstream, clock) = (simulator().await, half_past());
    let setup = Setup::over(&upstream).clock(&clock);
    let limited = limited_over(upstream, setup, json!({"concurrent_turns": 1})).await;
    orphan(&limited, 1, clock.now().plus(Duration::from_hours(1))).await;
    assert_eq!(refusal(&limited.client.create(plain("x")).await).0, 429);
    let is_alone = !limited.gateway.app.chains.store().is_shared();
    let (key, secret) = (limited.key, limited.secret);
    let setup = limited.gateway.stop().await;
    // At the start, the only process of a store releases them at once; with replicas they have to expire.
    if !is_alone {
        clock.advance(Duration::from_hours(1));
    }
    let gateway = setup.start().await;
    settled(&gateway).await;
    gateway.client.with_secret(&secret).create(plain("x")).await.ok();
    settled(&gateway).await;
    assert_eq!(standing(&gateway, &key).await, of(&[]));
    assert_eq!(gateway.client.metric("antiphon_reservations_swept_total").await, 1);
}

#[tokio::test]
async fn a_panicking_turn_releases_its_reservation() {
    let upstream = simulator().await;
    let setup = Setup::over(&upstream).config("[projects.team]\nlimits = { concurrent_turns = 1 }");
    let gateway = setup.start().await;
    let turns = &gateway.app;
    let project = ProjectId::new("team");
    let reserve = async |id: u8| {
        let now = turns.env.clock.now();
        let id = ResponseId::mint(1, &[id; 10]);
        let expires_at = now.plus(Duration::from_hours(2));
        let request = ReservationRequest { id, project: &project, key: None, now, expires_at };
        turns.limits.reserve(request, "sim", Estimate::default()).await
    };
    let held = reserve(1).await.unwrap().unwrap();
    assert!(matches!(reserve(2).await, Err(ReserveError::Exceeded(_))));
    // The gateway's own purge may come at any time.
    while turns.chains.store().purge_counters(SystemClock.now(), 100).await.unwrap() {}
    assert_eq!(standing(&gateway, "project:team").await[TURNS], (0, 1), "a purge leaves what is held");
    let lost = tokio::spawn(async move {
        let _held = held;
        panic!("ordered by the test");
    });
    lost.await.unwrap_err();
    settled(&gateway).await;
    assert_eq!(standing(&gateway, "project:team").await, of(&[]));
    assert!(reserve(3).await.unwrap().is_some());
}

/// Two gateways over one database, and a key. No minute ends.
async fn replicas(
    config: &str,
    limits: Value,
) -> (Simulator, [antiphon_testkit::Gateway; 2], [Client; 2], String) {
    let upstream = simulator().await;
    let url = Postgres::shared_database().await;
    let clock = half_past();
    let setup = || Setup::over(&upstream).config(config).database_url(&url).clock(&clock);
    let first = setup().start().await;
    let operator = Operator::of(&first).await;
    let secret = operator.key(json!({"name": "one", "limits": limits})).await;
    let key = operator.get("/api/keys/one").await["id"].as_str().unwrap().to_owned();
    let second = setup().start().await;
    let clients = [first.client.with_secret(&secret), second.client.with_secret(&secret)];
    (upstream, [first, second], clients, key)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_share_limits_without_exceeding_them_under_load() {
    const CLIENTS: usize = 64;
    let limits = json!({
        "concurrent_turns": 5,
        "budgets": [{"tokens": 20_000, "window": "month"}],
    });
    let (_upstream, gateways, clients, key) = replicas("limits.assumed_output_tokens = 10", limits).await;
    let ask = async |n: usize| {
        let (mut tokens, mut served) = (0, 0);
        for round in 0.. {
            let reply = clients[(n + round) % 2].create(plain("DELAY{5} hi")).await;
            match reply.status.as_u16() {
                200 => {
                    let usage = &reply.json()["usage"];
                    tokens +=
                        usage["input_tokens"].as_u64().unwrap() + usage["output_tokens"].as_u64().unwrap();
                    served += 1;
                }
                429 if refusal(&reply).1 == "insufficient_quota" => break,
                429 => tokio::time::sleep(Duration::from_millis(20)).await,
                status => panic!("{status}: {}", reply.json()),
            }
            // Not the upstream's count: it notes the end of a turn after the gateway.
            if n == 0 {
                let (_, running) = standing(&gateways[0], &key).await[TURNS];
                assert!(running <= 5, "{running} run");
            }
        }
        (tokens, served)
    };
    let all = join_all((0..CLIENTS).map(ask)).await;
    let (tokens, served) = all.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    for gateway in &gateways {
        settled(gateway).await;
    }
    let found = standing(&gateways[0], &key).await;
    assert_eq!(found["tokens per month"], (tokens, 0), "all that was used is counted, once");
    assert_eq!(found[TURNS], (0, 0));
    // At most what five turns use beyond their reservations.
    let largest = tokens / served;
    assert!(tokens <= 20_000 + 5 * largest, "{tokens} of 20000, {largest} each");
    assert!(tokens >= 20_000 - 6 * largest, "{tokens}: what was free was not used");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_on_two_replicas_never_exceed_the_request_limit() {
    let (upstream, gateways, clients, key) =
        replicas("", json!({"budgets": [], "requests_per_minute": 40})).await;
    let before = upstream.counts().requests;
    let replies = join_all((0..128).map(|n| clients[n % 2].create(plain("hi")))).await;
    let served = replies.iter().filter(|reply| reply.status == 200).count() as u64;
    assert_eq!((served, upstream.counts().requests - before), (40, 40));
    settled(&gateways[0]).await;
    assert_eq!(standing(&gateways[0], &key).await[REQUESTS], (40, 0));
}
