//! Several accounts as one: which of them gets a turn, and which takes over when one fails.

use std::sync::Arc;
use std::time::Duration;

use antiphon_config::Config;
use antiphon_simulator::upstream::{Options, Script, Simulator};
use antiphon_testkit::{Gateway, ManualClock, Reply, Setup, eventually};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::{listed, simulator};

/// Upstreams with an account each: `a0`, `a1`, … [`pool`] tries them in this order.
pub(crate) struct Pool {
    pub(crate) upstreams: Vec<Simulator>,
    pub(crate) gateway: Gateway,
    clock: Arc<ManualClock>,
}

const NAMES: [&str; 5] = ["a0", "a1", "a2", "a3", "a4"];

pub(crate) async fn pool(size: usize) -> Pool {
    pool_with(size, |setup| setup.config("routing.strategy = \"fill_first\"")).await
}

async fn pool_with(size: usize, configure: impl FnOnce(Setup) -> Setup) -> Pool {
    let upstreams = join_all((0..size).map(|_| simulator())).await;
    let urls: Vec<String> = upstreams.iter().map(Simulator::url).collect();
    let clock = Arc::new(ManualClock::default());
    let accounts = NAMES.into_iter().zip(urls.iter().map(String::as_str));
    // The clock stands still, so no turn must wait for a cooldown to end.
    let setup = Setup::with_accounts(accounts).clock(&clock).config("routing.patience = \"1ms\"");
    let setup = configure(setup);
    Pool { upstreams, gateway: setup.start().await, clock }
}

pub(crate) fn plain() -> Value {
    json!({"model": "sim", "input": "x"})
}

impl Pool {
    pub(crate) fn counts(&self) -> Vec<u64> {
        self.upstreams.iter().map(|upstream| upstream.counts().requests).collect()
    }

    pub(crate) async fn state(&self, index: usize) -> &'static str {
        self.gateway.account_state(NAMES[index]).await
    }

    /// How many turns wait for an account.
    async fn queued(&self) -> u64 {
        self.gateway.client.metric("antiphon_turns_queued").await
    }

    pub(crate) async fn ask(&self) -> Reply {
        self.gateway.client.create(plain()).await
    }
}

fn error(code: &str) -> String {
    json!({"error": {"message": "m", "type": "t", "param": null, "code": code}}).to_string()
}

/// Failures before the first event that lead to another account, and the state of the account after each.
fn failures() -> Vec<(Script, &'static str)> {
    let mut cases: Vec<(Script, &'static str)> = [500, 502, 503, 504, 529]
        .into_iter()
        .flat_map(|status| {
            [(Script::http(status, error("x")), "ready"), (Script::http(status, "<html>"), "ready")]
        })
        .collect();
    cases.extend([
        (Script::http(302, "<html>").header("location", "https://sign-in.example/"), "ready"),
        (Script::http(429, error("rate_limit_exceeded")).header("retry-after", "9"), "cooling"),
        (Script::http(429, error("insufficient_quota")), "cooling"),
        (Script::http(429, "<html>"), "cooling"),
        // A refused credential is verified first.
        (Script::http(401, error("invalid_api_key")), "ready"),
        (Script::http(403, error("account_deactivated")), "ready"),
        (Script::http(404, error("model_not_found")), "ready"),
        (Script::http(403, error("model_not_found")), "ready"),
    ]);
    cases
}

#[tokio::test]
async fn every_failure_before_the_first_event_leads_to_the_next_account() {
    let only_streams = [
        (Script::answer("a b").cut_after(0), "ready"),
        (Script::answer("a b").end_after(0), "ready"),
        (Script::http(200, "{}"), "ready"),
        (Script::stream_bytes(error_event("rate_limit_exceeded")), "cooling"),
        (Script::stream_bytes(error_event("insufficient_quota")), "cooling"),
        (Script::stream_bytes(error_event("server_error")), "ready"),
    ];
    let only_collected = [
        (Script::http(200, "<html>"), "ready"),
        (Script::http(200, "{\"id\": \"cut"), "ready"),
        (Script::answer("a b").failed("server_error", "m"), "ready"),
        (Script::answer("a b").failed("rate_limit_exceeded", "m"), "cooling"),
        (Script::answer("a b").failed("insufficient_quota", "m"), "cooling"),
    ];
    let with_stream = |cases: &[(Script, &'static str)], stream| {
        cases.iter().cloned().map(|(script, state)| (script, state, stream)).collect::<Vec<_>>()
    };
    let cases = [
        with_stream(&failures(), false),
        with_stream(&failures(), true),
        with_stream(&only_streams, true),
        with_stream(&only_collected, false),
    ];
    for (script, state, stream) in cases.concat() {
        let pool = pool(2).await;
        pool.upstreams[0].script(script.clone());
        let mut body = plain();
        body["stream"] = json!(stream);
        let reply = pool.gateway.client.create(&body).await;
        assert_eq!(reply.status, 200, "{script:?}: {:?}", String::from_utf8_lossy(&reply.body));
        assert_eq!(pool.counts(), [1, 1], "{script:?}");
        assert_eq!((pool.state(0).await, pool.state(1).await), (state, "ready"), "{script:?}");
        pool.gateway.idle().await;
    }
}

pub(crate) fn error_event(code: &str) -> String {
    let error = json!({"type": "error", "sequence_number": 0, "code": code, "message": "m", "param": null});
    format!("event: error\ndata: {error}\n\n")
}

#[tokio::test]
async fn an_upstream_that_drops_connections_or_is_down_is_replaced() {
    let mut pool = pool(2).await;
    pool.upstreams[0].always(Script::answer("x").drop_connection());
    pool.ask().await.ok();
    // The request was read, and may have been carried out: it is not sent to this account again.
    assert_eq!(pool.counts(), [1, 1]);
    pool.upstreams.remove(0).shutdown().await;
    pool.ask().await.ok();
    assert_eq!(pool.counts(), [2]);
}

#[tokio::test]
async fn client_errors_are_passed_on_and_do_not_affect_the_account() {
    for status in [400, 403, 404, 408, 409, 413, 422] {
        let pool = pool(2).await;
        pool.upstreams[0].script(Script::http(status, error("odd")));
        assert_eq!(pool.ask().await.status, status);
        assert_eq!((pool.counts(), pool.state(0).await), (vec![1, 0], "ready"));
    }
}

#[tokio::test]
async fn nothing_is_sent_twice_after_its_first_event() {
    let created = json!({"type": "response.created", "sequence_number": 0, "response": {"id": "resp_1", "object": "response",
        "status": "in_progress", "output": []}});
    // Both events arrive in one piece.
    let at_once =
        format!("event: response.created\ndata: {created}\n\n{}", error_event("rate_limit_exceeded"));
    for script in [
        Script::stream_bytes(at_once),
        Script::answer("a b").cut_after(1),
        Script::answer("a b").end_after(3),
        Script::answer("a b").failed("rate_limit_exceeded", "m"),
    ] {
        let pool = pool(2).await;
        pool.upstreams[0].script(script);
        let mut events =
            pool.gateway.client.stream(json!({"model": "sim", "input": "x", "stream": true})).await;
        events.until("response.failed").await;
        assert_eq!(pool.counts(), [1, 0]);
        pool.gateway.idle().await;
    }
}

#[tokio::test]
async fn a_turn_is_tried_on_three_accounts_and_returns_the_last_error() {
    let pool = pool(5).await;
    for (upstream, status) in pool.upstreams.iter().zip([500, 502, 503, 504]) {
        upstream.always(Script::http(status, error(&format!("code_{status}"))));
    }
    assert_eq!(pool.ask().await.refusal(), (503, Some("code_503".to_owned()), None));
    assert_eq!(pool.counts(), [1, 1, 1, 0, 0]);
}

#[tokio::test]
async fn a_rate_limited_account_cools_down_until_its_reset() {
    let pool = pool(2).await;
    pool.upstreams[0].script(Script::http(429, error("rate_limit_exceeded")).header("retry-after", "20"));
    for _ in 0..3 {
        pool.ask().await.ok();
    }
    assert_eq!((pool.counts(), pool.state(0).await), (vec![1, 3], "cooling"));
    pool.clock.advance(Duration::from_secs(20));
    pool.ask().await.ok();
    assert_eq!((pool.counts(), pool.state(0).await), (vec![2, 3], "ready"));
}

#[tokio::test]
async fn an_account_whose_reset_is_over_cools_down_as_if_it_had_named_none() {
    for reset in ["0", "Wed, 21 Oct 2015 07:28:00 GMT"] {
        let pool = pool(2).await;
        let limited = Script::http(429, error("rate_limit_exceeded"));
        pool.upstreams[0].script(limited.header("retry-after", reset));
        for _ in 0..2 {
            pool.ask().await.ok();
        }
        assert_eq!((pool.counts(), pool.state(0).await), (vec![1, 2], "cooling"), "{reset}");
        pool.clock.advance(Duration::from_secs(1));
        assert_eq!(pool.state(0).await, "ready", "{reset}");
    }
}

#[tokio::test]
async fn when_all_accounts_cool_down_retry_after_is_the_first_end() {
    let pool = pool(2).await;
    for (upstream, seconds) in pool.upstreams.iter().zip(["30", "7"]) {
        upstream.script(Script::http(429, error("rate_limit_exceeded")).header("retry-after", seconds));
    }
    for counts in [[1, 1], [1, 1]] {
        let reply = pool.ask().await;
        assert_eq!(reply.refusal(), (429, Some("rate_limit_exceeded".to_owned()), None));
        assert_eq!(reply.header("retry-after"), Some("7"));
        assert_eq!(pool.counts(), counts);
    }
    pool.clock.advance(Duration::from_secs(7));
    pool.ask().await.ok();
    assert_eq!(pool.counts(), [1, 2]);
}

#[tokio::test]
async fn every_429_and_503_has_retry_after() {
    let pool = pool(2).await;
    // The first account stays ready, so no cooldown gives the time, and `retry-after` has its default.
    pool.upstreams[0].script(Script::http(500, error("server_error")));
    pool.upstreams[1].script(Script::http(429, error("rate_limit_exceeded")));
    let reply = pool.ask().await;
    assert_eq!((reply.status.as_u16(), reply.header("retry-after")), (429, Some("1")));

    let overloaded = Script::http(503, error("server_is_overloaded"));
    for (script, expected) in [(overloaded.clone(), "1"), (overloaded.header("retry-after", "9"), "9")] {
        let pool = pool_with(1, |setup| setup).await;
        pool.upstreams[0].script(script);
        let reply = pool.ask().await;
        assert_eq!((reply.status.as_u16(), reply.header("retry-after")), (503, Some(expected)));
    }
}

#[tokio::test]
async fn three_consecutive_failures_start_a_cooldown_and_a_success_resets_the_count() {
    let pool = pool(2).await;
    let broken = Script::http(500, error("server_error"));
    for _ in 0..2 {
        pool.upstreams[0].script(broken.clone());
        pool.ask().await.ok();
    }
    pool.ask().await.ok();
    assert_eq!((pool.counts(), pool.state(0).await), (vec![3, 2], "ready"));
    pool.upstreams[0].always(broken);
    for _ in 0..6 {
        pool.ask().await.ok();
    }
    assert_eq!((pool.counts(), pool.state(0).await), (vec![6, 8], "cooling"));
    pool.clock.advance(Duration::from_secs(1));
    for _ in 0..3 {
        pool.ask().await.ok();
    }
    assert_eq!(
        (pool.counts(), pool.state(0).await),
        (vec![9, 11], "cooling"),
        "earlier failures are forgotten"
    );
}

#[tokio::test]
async fn a_successful_probe_ends_a_failure_cooldown_but_not_a_rate_limit() {
    let pool = pool_with(3, |setup| {
        setup.config("routing.strategy = \"fill_first\"\nrouting.probe_interval = \"20ms\"")
    })
    .await;
    let broken = Script::http(500, error("server_error"));
    for _ in 0..3 {
        pool.upstreams[0].script(broken.clone());
    }
    pool.upstreams[1].script(Script::http(429, error("rate_limit_exceeded")).header("retry-after", "60"));
    for _ in 0..3 {
        pool.ask().await.ok();
    }
    // The clock stands still, so only a probe can end the cooldown.
    eventually("the account is ready", async || pool.state(0).await == "ready").await;
    assert_eq!(pool.state(1).await, "cooling");
    pool.ask().await.ok();
    assert_eq!(pool.counts()[0], 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adding_and_removing_accounts_drops_no_stream() {
    let pool = pool_with(2, |setup| setup).await;
    let (script, gate) = Script::answer("a b c").gated_after(2);
    for upstream in &pool.upstreams {
        upstream.always(script.clone());
    }
    let streams = (0..64).map(|_| {
        let client = pool.gateway.client.clone();
        tokio::spawn(async move {
            let mut events = client.stream(json!({"model": "sim", "input": "x", "stream": true})).await;
            events.until("response.completed").await;
        })
    });
    let streams: Vec<_> = streams.collect();
    let all: Vec<_> =
        pool.gateway.app.pool.accounts().iter().map(|account| account.settings.clone()).collect();
    let routing = || Config::default().routing.settings();
    eventually("all streams are upstream", async || pool.counts().iter().sum::<u64>() == 64).await;
    for n in 0..20 {
        pool.gateway.app.pool.replace(vec![all[n % 2].clone()], routing()).unwrap();
    }
    pool.gateway.app.pool.replace(all, routing()).unwrap();
    gate.open();
    for stream in streams {
        stream.await.unwrap();
    }
    pool.gateway.idle().await;
}

#[tokio::test]
async fn refused_credentials_disable_accounts_until_none_is_left() {
    let pool = pool(2).await;
    for upstream in &pool.upstreams {
        listed(upstream).await;
        upstream.revoke_credentials(true);
    }
    let ask = async || {
        let reply = pool.ask().await;
        assert_eq!(reply.refusal(), (503, Some("no_account_available".to_owned()), None));
        assert!(!String::from_utf8_lossy(&reply.body).contains("sk-"));
    };
    ask().await;
    let are_disabled = async || (pool.state(0).await, pool.state(1).await) == ("disabled", "disabled");
    eventually("both accounts are disabled", are_disabled).await;
    ask().await;
    assert_eq!(pool.counts(), [1, 1]);
    assert_eq!(pool.gateway.client.get("/v1/models").await.ok()["data"], json!([]));
    let metrics = pool.gateway.client.metrics().await;
    assert!(metrics.contains(r#"antiphon_account_state{account="a1",state="disabled"} 1"#), "{metrics}");
    assert!(
        metrics.contains(r#"antiphon_account_attempts_total{account="a0",outcome="credential_refused"} 1"#)
    );
}

#[tokio::test]
async fn a_model_missing_at_one_account_is_served_by_another() {
    let pool = pool(2).await;
    pool.upstreams[0].script(Script::http(404, error("model_not_found")));
    for _ in 0..3 {
        pool.ask().await.ok();
    }
    assert_eq!(pool.counts(), [1, 3]);
    pool.clock.advance(Duration::from_mins(5));
    pool.ask().await.ok();
    assert_eq!(pool.counts(), [2, 3]);
}

#[tokio::test]
async fn a_chain_moves_to_another_account_during_a_cooldown_and_stays_there() {
    let pool = pool(2).await;
    let mut parent = pool.gateway.client.created(json!({"model": "sim", "input": "remember blue"})).await;
    let next = async |parent: &Value| {
        let body = json!({"model": "sim", "input": "on", "previous_response_id": parent["id"]});
        pool.gateway.client.created(body).await
    };
    pool.upstreams[0].script(Script::http(429, error("rate_limit_exceeded")).header("retry-after", "20"));
    parent = next(&parent).await;
    assert_eq!(pool.counts(), [2, 1]);
    let replayed = pool.upstreams[1].last_request().unwrap().input();
    assert_eq!(replayed[0]["content"][0]["text"], "remember blue");
    pool.clock.advance(Duration::from_secs(20));
    // The other account served the chain last, so it has the chain's cache now.
    next(&parent).await;
    assert_eq!(pool.counts(), [2, 2]);
}

#[tokio::test]
async fn a_chain_survives_the_removal_of_its_account() {
    let pool = pool(2).await;
    let first = pool.gateway.client.created(plain()).await;
    let Pool { upstreams, gateway, .. } = pool;
    let setup = gateway.stop().await;
    let gateway = setup.without_account(0).start().await;
    gateway.client.created(json!({"model": "sim", "input": "on", "previous_response_id": first["id"]})).await;
    assert_eq!(upstreams[1].last_request().unwrap().input().len(), 3);
}

#[tokio::test]
async fn turns_with_the_same_key_or_session_go_to_the_same_account() {
    let pool = pool_with(4, |setup| setup).await;
    for round in 1..=3 {
        for n in 0..12 {
            pool.gateway
                .client
                .created(json!({"model": "sim", "input": "x", "prompt_cache_key": format!("key-{n}")}))
                .await;
        }
        let counts = pool.counts();
        assert!(counts.iter().all(|count| count % round == 0) && counts.iter().sum::<u64>() == 12 * round);
        assert!(counts.iter().filter(|count| **count > 0).count() > 1, "{counts:?}");
    }
    let before = pool.counts();
    for _ in 0..5 {
        let session = [antiphon_testkit::header("session-id", "thread-1")];
        let body = plain().to_string();
        pool.gateway.client.request(http::Method::POST, "/v1/responses", &session, body).await.ok();
    }
    let grown = before.iter().zip(pool.counts()).filter(|(before, now)| **before + 5 == *now).count();
    assert_eq!(grown, 1);
}

#[tokio::test]
async fn max_in_flight_is_enforced_and_further_turns_wait() {
    let pool = pool_with(2, |setup| {
        setup
            .account(0, "max_in_flight = 2")
            .account(1, "max_in_flight = 1\npriority = 1")
            .config("routing.max_queued = 3\nrouting.queue_timeout = \"30s\"")
    })
    .await;
    let mut gates = Vec::new();
    for (upstream, turns) in pool.upstreams.iter().zip([2, 1]) {
        for _ in 0..turns {
            let (script, gate) = Script::answer("x").gated();
            upstream.script(script);
            gates.push(gate);
        }
    }
    let ask = || {
        let client = pool.gateway.client.clone();
        tokio::spawn(async move { client.create(plain()).await })
    };
    let running = [ask(), ask(), ask()];
    eventually("both accounts are busy", async || pool.counts() == [2, 1]).await;
    let waiting = [ask(), ask(), ask()];
    eventually("three turns wait", async || pool.queued().await == 3).await;
    let refused = pool.ask().await;
    assert_eq!(refused.refusal(), (503, Some("server_is_overloaded".to_owned()), None));
    assert_eq!((pool.counts(), refused.header("retry-after")), (vec![2, 1], Some("1")));
    for gate in gates {
        gate.open();
    }
    for turn in running.into_iter().chain(waiting) {
        turn.await.unwrap().ok();
    }
    assert_eq!(pool.counts().iter().sum::<u64>(), 6);
    pool.gateway.idle().await;
}

#[tokio::test]
async fn a_client_that_leaves_the_queue_frees_its_place() {
    let pool = pool_with(1, |setup| setup.account(0, "max_in_flight = 1")).await;
    let (script, gate) = Script::answer("x").gated();
    pool.upstreams[0].script(script);
    let client = pool.gateway.client.clone();
    let running = tokio::spawn(async move { client.create(plain()).await });
    eventually("the account is busy", async || pool.counts() == [1]).await;
    let client = pool.gateway.client.clone();
    let left =
        tokio::spawn(
            async move { client.create(json!({"model": "sim", "input": "x", "store": false})).await },
        );
    eventually("a turn waits", async || pool.queued().await == 1).await;
    left.abort();
    let in_flight = async || pool.gateway.client.metric("antiphon_turns_in_flight").await;
    eventually("the turn has ended", async || in_flight().await == 1).await;
    let client = pool.gateway.client.clone();
    let waiting = tokio::spawn(async move { client.create(plain()).await });
    gate.open();
    running.await.unwrap().ok();
    waiting.await.unwrap().ok();
    pool.gateway.idle().await;
    assert_eq!((pool.counts(), pool.queued().await), (vec![2], 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_turn_is_lost_while_accounts_flap_under_many_streams() {
    let upstreams = join_all((0..4).map(|_| Simulator::bind(Options::default()))).await;
    let upstreams: Vec<Simulator> = upstreams.into_iter().map(Result::unwrap).collect();
    let urls: Vec<String> = upstreams.iter().map(Simulator::url).collect();
    let accounts = NAMES.into_iter().zip(urls.iter().map(String::as_str));
    let gateway = Setup::with_accounts(accounts).start().await;
    // Two upstreams always work and a turn is tried three times. The other two keep failing in different ways.
    let failures = [
        Script::http(429, error("rate_limit_exceeded")).header("retry-after-ms", "5"),
        Script::answer("x").drop_connection(),
        Script::answer("x").end_after(0),
        Script::http(503, error("server_is_overloaded")),
    ];
    for (n, upstream) in upstreams[..2].iter().enumerate() {
        for round in 0..90 {
            let script = &failures[(n + round) % failures.len()];
            upstream.script(if round % 3 == 0 { Script::answer("fine") } else { script.clone() });
        }
    }
    let chains = (0..64).map(|n| {
        let client = gateway.client.clone();
        tokio::spawn(async move {
            let mut parent = Value::Null;
            for turn in 0..4 {
                let input = format!("chain {n}, turn {turn}");
                let body =
                    json!({"model": "sim", "input": input, "stream": true, "previous_response_id": parent});
                let mut events = client.stream(body).await;
                assert_eq!(events.status, 200);
                let events = events.rest().await;
                let last = events.last().unwrap();
                assert_eq!(last.name, "response.completed");
                parent = last.json()["response"]["id"].clone();
            }
        })
    });
    for chain in join_all(chains).await {
        chain.unwrap();
    }
    gateway.idle().await;
    assert!(upstreams.iter().all(|upstream| upstream.in_flight() == 0));
}
