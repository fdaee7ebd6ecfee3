//! Limits of keys and projects, through the front door: which turns are rejected, and what clients see.

use std::collections::BTreeMap;
use std::ops::Index;
use std::sync::Arc;
use std::time::Duration;

use antiphon_simulator::upstream::{Gate, Script, Simulator};
use antiphon_store::Clock;
use antiphon_testkit::{Client, Gateway, ManualClock, Reply, Setup, Socket, eventually, header};
use http::Method;
use serde_json::{Value, json};

use crate::administering::Operator;
use crate::simulator;

/// A gateway with one limited key.
pub(crate) struct Limited {
    pub(crate) upstream: Simulator,
    pub(crate) gateway: Gateway,
    /// With the key.
    pub(crate) client: Client,
    pub(crate) secret: String,
    pub(crate) key: String,
}

/// The clock stands still, so that no window ends during a test.
pub(crate) async fn limited(limits: Value) -> Limited {
    let upstream = simulator().await;
    let setup = Setup::over(&upstream).clock(&half_past());
    limited_over(upstream, setup, limits).await
}

pub(crate) async fn limited_over(upstream: Simulator, setup: Setup, limits: Value) -> Limited {
    let gateway = setup.start().await;
    let operator = Operator::of(&gateway).await;
    let secret = operator.key(json!({"name": "one", "project": "team", "limits": limits})).await;
    let key = operator.get("/api/keys/one").await["id"].as_str().unwrap().to_owned();
    let client = gateway.client.with_secret(&secret);
    Limited { upstream, gateway, client, secret, key }
}

/// Used and reserved amounts, by rule. The gateway purges counters of concurrent turns when none runs, at any time: a counter of
/// zero is as good as none.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Standing(BTreeMap<String, (u64, u64)>);

impl FromIterator<(String, (u64, u64))> for Standing {
    fn from_iter<I: IntoIterator<Item = (String, (u64, u64))>>(counters: I) -> Self {
        Self(counters.into_iter().filter(|(_, amounts)| *amounts != (0, 0)).collect())
    }
}

impl Index<&str> for Standing {
    type Output = (u64, u64);

    fn index(&self, rule: &str) -> &(u64, u64) {
        self.0.get(rule).unwrap_or(&(0, 0))
    }
}

impl Limited {
    pub(crate) async fn standing(&self) -> Standing {
        standing(&self.gateway, &self.key).await
    }

    /// Once no turn runs.
    pub(crate) async fn settled(&self) -> Standing {
        settled(&self.gateway).await;
        self.standing().await
    }
}

pub(crate) async fn standing(gateway: &Gateway, scope: &str) -> Standing {
    let (store, now) = (gateway.app.chains.store(), gateway.app.env.clock.now());
    let counters = store.list_counters(scope, now).await.unwrap();
    counters.into_iter().map(|(id, count)| (id.rule.to_string(), (count.used, count.held))).collect()
}

/// Waits until no turn runs and nothing is reserved.
pub(crate) async fn settled(gateway: &Gateway) {
    gateway.idle().await;
    let store = gateway.app.chains.store();
    eventually("nothing is held", async || store.count_reservations().await.unwrap() == 0).await;
}

pub(crate) fn of(rules: &[(&str, u64)]) -> Standing {
    rules.iter().map(|&(rule, used)| (rule.to_owned(), (used, 0))).collect()
}

pub(crate) fn plain(input: &str) -> Value {
    json!({"model": "sim", "input": input})
}

pub(crate) fn refusal(reply: &Reply) -> (u16, String, String) {
    let (status, code, param) = reply.refusal();
    assert_eq!(param, None);
    (status, code.unwrap(), reply.json()["error"]["type"].as_str().unwrap().to_owned())
}

fn message(reply: &Reply) -> String {
    reply.json()["error"]["message"].as_str().unwrap().to_owned()
}

fn rates(reply: &Reply, of: &str) -> [String; 2] {
    ["limit", "remaining"].map(|what| {
        let name = format!("x-ratelimit-{what}-{of}");
        reply.header(&name).unwrap_or_else(|| panic!("no {name} in {:?}", reply.headers)).to_owned()
    })
}

/// A clock at the thirtieth second of a minute.
pub(crate) fn half_past() -> Arc<ManualClock> {
    let clock = Arc::new(ManualClock::default());
    let into_minute = clock.now().unix_ms().rem_euclid(60_000);
    clock.advance(Duration::from_millis((90_000 - into_minute).unsigned_abs()));
    clock
}

/// A turn that runs until the gate is opened.
pub(crate) async fn held_turn(limited: &Limited) -> (Gate, tokio::task::JoinHandle<Reply>) {
    let (script, gate) = Script::answer("done").gated();
    limited.upstream.script(script);
    let client = limited.client.clone();
    let in_flight = limited.upstream.in_flight();
    let running = tokio::spawn(async move { client.create(plain("wait")).await });
    limited.upstream.wait_until(|upstream| upstream.in_flight() > in_flight).await;
    (gate, running)
}

#[tokio::test]
async fn requests_per_minute_are_counted_and_reported() {
    let upstream = simulator().await;
    let clock = half_past();
    let setup = Setup::over(&upstream).clock(&clock);
    let limited = limited_over(upstream, setup, json!({"requests_per_minute": 2})).await;
    for remaining in ["1", "0"] {
        let reply = limited.client.create(plain("hi")).await;
        reply.ok();
        assert_eq!(rates(&reply, "requests"), ["2", remaining]);
        assert_eq!(reply.header("x-ratelimit-reset-requests"), Some("30s"));
        assert_eq!(reply.header("x-ratelimit-limit-tokens"), None, "there is no such limit");
    }
    let asked = limited.upstream.counts().requests;
    let reply = limited.client.create(plain("hi")).await;
    assert_eq!(refusal(&reply), (429, "rate_limit_exceeded".into(), "rate_limit_error".into()));
    assert_eq!(
        (reply.header("retry-after"), rates(&reply, "requests")),
        (Some("30"), ["2".into(), "0".into()])
    );
    let message = message(&reply);
    assert!(
        message.starts_with("This API key is limited to 2 requests per minute: 2 used, 0 reserved"),
        "{message}"
    );
    assert!(message.contains("The limit resets in 30 s, at 20"), "{message}");
    assert_eq!(limited.upstream.counts().requests, asked, "nothing went upstream");
    assert_eq!(limited.settled().await, of(&[("requests per minute", 2)]));
    clock.advance(Duration::from_secs(30));
    limited.client.create(plain("hi")).await.ok();
    assert_eq!(limited.settled().await["requests per minute"], (1, 0));
}

#[tokio::test]
async fn tokens_are_reserved_by_estimate_and_settled_by_reported_usage() {
    let limited = limited(json!({"tokens_per_minute": 5_000})).await;
    limited.upstream.script(Script::answer("short").usage(100, 20));
    let body = json!({"model": "sim", "input": "hi", "max_output_tokens": 2_000});
    let reply = limited.client.create(&body).await;
    reply.ok();
    let [limit, remaining] = rates(&reply, "tokens");
    let remaining: u64 = remaining.parse().unwrap();
    assert!(limit == "5000" && (2_900..3_000).contains(&remaining), "{remaining}");
    assert_eq!(limited.settled().await, of(&[("tokens per minute", 120)]));
    // The estimate exceeds the whole limit: the turn runs, as no other turn does.
    limited.upstream.script(Script::answer("long").usage(1_000, 4_000));
    let large = json!({"model": "sim", "input": "hi", "max_output_tokens": 100_000});
    let reply = limited.client.create(&large).await;
    assert_eq!(refusal(&reply).1, "rate_limit_exceeded", "120 are used");
    let text = message(&reply);
    assert!(
        text.contains(
            "5000 tokens per minute: 120 used, 0 reserved by running requests, and this request may need 5000"
        ),
        "{text}"
    );
    limited.client.create(&body).await.ok();
    assert_eq!(
        limited.settled().await,
        of(&[("tokens per minute", 5_120)]),
        "reality is counted, not the hope"
    );
    let reply = limited.client.create(json!({"model": "sim", "input": "hi", "max_output_tokens": 1})).await;
    assert_eq!((refusal(&reply).0, &rates(&reply, "tokens")[1][..]), (429, "0"));
}

#[tokio::test]
async fn an_estimate_above_the_limit_does_not_reject_a_turn_for_ever() {
    let limited = limited(json!({"tokens_per_minute": 100})).await;
    limited.upstream.script(Script::answer("short").usage(10, 2));
    limited.client.create(plain(&"word ".repeat(1_000))).await.ok();
    assert_eq!(limited.settled().await, of(&[("tokens per minute", 12)]));
}

#[tokio::test]
async fn concurrent_turns_are_limited_and_released() {
    let limited = limited(json!({"concurrent_turns": 2})).await;
    let (first, second) = (held_turn(&limited).await, held_turn(&limited).await);
    let reply = limited.client.create(plain("hi")).await;
    assert_eq!(refusal(&reply), (429, "rate_limit_exceeded".into(), "rate_limit_error".into()));
    assert_eq!(reply.header("retry-after"), Some("1"));
    assert_eq!(
        message(&reply),
        "This API key is limited to 2 concurrent turns, and 2 are running. Please retry when one has finished."
    );
    first.0.open();
    first.1.await.unwrap().ok();
    settled_to(&limited, 1).await;
    limited.client.create(plain("hi")).await.ok();
    second.0.open();
    second.1.await.unwrap().ok();
    assert_eq!(limited.settled().await, of(&[("concurrent turns", 0)]));
}

async fn settled_to(limited: &Limited, held: u64) {
    let is_held = async || limited.standing().await["concurrent turns"] == (0, held);
    eventually(&format!("{held} turns are held"), is_held).await;
}

#[tokio::test]
async fn budgets_end_with_their_windows() {
    let upstream = simulator().await;
    let clock = half_past();
    let setup = Setup::over(&upstream).clock(&clock).config(
        "prices = [{ model = \"sim\", input = 1000, output = 2000 }]\nlimits.assumed_output_tokens = 1",
    );
    let limits = json!({"budgets": [
        {"tokens": 1_000, "window": "hour"},
        {"cost": 0.5, "window": "day"},
        {"tokens": 5, "window": "hour", "models": ["other"]},
    ]});
    let limited = limited_over(upstream, setup, limits).await;
    limited.upstream.script(Script::answer("x").usage(100, 200));
    limited.client.create(plain("hi")).await.ok();
    assert_eq!(
        limited.settled().await,
        of(&[("US dollars per day", 500_000_000), ("tokens per hour", 300)]),
        "100 thousandths of a dollar and 400 of them"
    );
    let reply = limited.client.create(plain("hi")).await;
    assert_eq!(refusal(&reply), (429, "insufficient_quota".into(), "insufficient_quota".into()));
    let text = message(&reply);
    assert!(
        text.starts_with("This API key is limited to 0.50 US dollars per day: 0.50 used, 0.00 reserved"),
        "{text}"
    );
    let rest: u64 = reply.header("retry-after").unwrap().parse().unwrap();
    let until_midnight = 86_400 - clock.now().unix_seconds().rem_euclid(86_400).unsigned_abs();
    assert_eq!(rest, until_midnight);
    clock.advance(Duration::from_secs(until_midnight));
    limited.client.create(plain("hi")).await.ok();
}

#[tokio::test]
async fn a_clock_set_back_finds_windows_unchanged() {
    let upstream = simulator().await;
    let clock = half_past();
    let setup = Setup::over(&upstream).clock(&clock);
    let limited =
        limited_over(upstream, setup, json!({"requests_per_minute": 1, "concurrent_turns": 9})).await;
    let ask = async || limited.client.create(plain("hi")).await.status.as_u16();
    assert_eq!((ask().await, ask().await), (200, 429));
    let (gate, running) = {
        clock.advance(Duration::from_mins(1));
        held_turn(&limited).await
    };
    clock.go_back(Duration::from_mins(1));
    assert_eq!(ask().await, 429, "this minute is used up still");
    clock.go_back(Duration::from_mins(1));
    assert_eq!((ask().await, ask().await), (200, 429));
    gate.open();
    running.await.unwrap().ok();
    clock.advance(Duration::from_mins(2));
    assert_eq!(ask().await, 429);
    clock.advance(Duration::from_mins(1));
    assert_eq!(ask().await, 200);
    let found = limited.settled().await;
    assert_eq!((found["requests per minute"], found["concurrent turns"]), ((1, 0), (0, 0)));
}

#[tokio::test]
async fn keys_of_a_project_share_its_limits_and_have_their_own() {
    let upstream = simulator().await;
    let setup = Setup::over(&upstream)
        .clock(&half_past())
        .config("[projects.team]\nlimits = { requests_per_minute = 3 }");
    let limited = limited_over(upstream, setup, json!({"requests_per_minute": 2})).await;
    let operator = Operator::of(&limited.gateway).await;
    let other = operator.key(json!({"name": "two", "project": "team"})).await;
    let other = limited.gateway.client.with_secret(&other);
    assert_eq!(rates(&other.create(plain("hi")).await, "requests"), ["3", "2"]);
    assert_eq!(rates(&limited.client.create(plain("hi")).await, "requests"), ["2", "1"], "the tighter one");
    assert_eq!(rates(&limited.client.create(plain("hi")).await, "requests")[1], "0");
    let reply = other.create(plain("hi")).await;
    assert!(message(&reply).starts_with("The project of this API key is limited to 3 requests per minute"));
    settled(&limited.gateway).await;
    assert_eq!(standing(&limited.gateway, "project:team").await, of(&[("requests per minute", 3)]));
    assert_eq!(limited.standing().await, of(&[("requests per minute", 2)]));
    let third = operator.key(json!({"name": "three", "project": "elsewhere"})).await;
    let reply = limited.gateway.client.with_secret(&third).create(plain("hi")).await;
    reply.ok();
    assert_eq!(reply.header("x-ratelimit-limit-requests"), Some("10000"), "the upstream's");
}

#[tokio::test]
async fn operators_see_the_state_of_limits() {
    let upstream = simulator().await;
    let clock = half_past();
    let setup = Setup::over(&upstream)
        .clock(&clock)
        .config("prices = [{ model = \"sim\", input = 1000, output = 2000 }]")
        .config("[projects.team]\nlimits = { tokens_per_minute = 9000 }");
    let limits = json!({"concurrent_turns": 2, "budgets": [{"cost": 2.5, "window": "month"}]});
    let limited = limited_over(upstream, setup, limits).await;
    limited.upstream.script(Script::answer("x").usage(50, 100));
    limited.client.create(plain("hi")).await.ok();
    limited.settled().await;
    let (gate, running) = held_turn(&limited).await;
    let shown = Operator::of(&limited.gateway).await.get("/api/keys/one/limits").await;
    let [turns, cost, tokens] = &shown["limits"].as_array().unwrap()[..] else { panic!("{shown}") };
    assert_eq!(
        *turns,
        json!({"owner": "key", "name": "concurrent turns", "limit": 2.0, "used": 0.0, "held": 1.0, "resets_at": null})
    );
    assert_eq!(
        (&cost["name"], &cost["limit"], &cost["used"]),
        (&json!("US dollars per month"), &json!(2.5), &json!(0.25))
    );
    assert!(cost["held"].as_f64().unwrap() > 1.9, "{cost}");
    let now = antiphon_runtime::rfc3339(clock.now());
    assert!(cost["resets_at"].as_str().unwrap() > now.as_str());
    assert_eq!((&tokens["owner"], &tokens["limit"]), (&json!("project"), &json!(9000.0)));
    gate.open();
    running.await.unwrap().ok();
    let none = Operator::of(&limited.gateway).await.call(Method::GET, "/api/keys/none/limits").await;
    assert_eq!(none.refusal().0, 404);
}

#[tokio::test]
async fn per_model_limits_do_not_affect_other_models() {
    let limited = limited(json!({"per_model": [{"models": ["s?m"], "requests_per_minute": 1}]})).await;
    let other = json!({"model": "gpt-5.4", "input": "hi"});
    limited.client.create(plain("hi")).await.ok();
    for _ in 0..2 {
        limited.client.create(&other).await.ok();
    }
    let reply = limited.client.create(plain("hi")).await;
    assert!(message(&reply).contains("1 requests per minute for s?m"), "{}", message(&reply));
    limited.client.create(&other).await.ok();
}

#[tokio::test]
async fn a_models_other_name_passes_no_limit_or_budget_of_it() {
    let upstream = simulator().await;
    let setup = Setup::over(&upstream).clock(&half_past()).config(
        "prices = [{ model = \"sim\", input = 1000, output = 1000 }]\nlimits.assumed_output_tokens = 1",
    );
    let limits = json!({
        "per_model": [{"models": ["sim"], "requests_per_minute": 2}],
        "budgets": [{"cost": 0.5, "window": "day"}],
    });
    let limited = limited_over(upstream, setup, limits).await;
    let ask = async |model: &str| limited.client.create(json!({"model": model, "input": "hi"})).await;
    limited.upstream.script(Script::answer("x").usage(100, 100));
    ask("sim:latest").await.ok();
    limited.upstream.script(Script::answer("x").usage(100, 200));
    ask("sim").await.ok();
    assert_eq!(
        limited.settled().await,
        of(&[("US dollars per day", 500_000_000), ("requests per minute for sim", 2)])
    );
    let reply = ask("sim:latest").await;
    assert_eq!(refusal(&reply).0, 429);
    assert!(message(&reply).contains("0.50 US dollars per day"), "{}", message(&reply));
}

#[tokio::test]
async fn rate_limit_headers_of_the_upstream_are_hidden_from_limited_keys() {
    let limited = limited(json!({"requests_per_minute": 9})).await;
    let theirs =
        |script: Script| script.header("x-ratelimit-remaining-requests", "4999").header("x-request-id", "u1");
    for body in [plain("hi"), json!({"model": "sim", "input": "hi", "stream": true})] {
        limited.upstream.script(theirs(Script::answer("x")));
        let reply = limited.client.create(&body).await;
        assert_eq!((reply.status.as_u16(), &rates(&reply, "requests")[0][..]), (200, "9"));
        assert_eq!(reply.header("x-request-id"), Some("u1"));
        limited.upstream.script(theirs(Script::refusal(400, "invalid_value", "No.")));
        let reply = limited.client.create(&body).await;
        assert_eq!((reply.status.as_u16(), &rates(&reply, "requests")[0][..]), (400, "9"));
    }
    let operator = Operator::of(&limited.gateway).await;
    let free = operator.key(json!({"name": "free"})).await;
    limited.upstream.script(theirs(Script::answer("x")));
    let reply = limited.gateway.client.with_secret(&free).create(plain("hi")).await;
    assert_eq!(reply.header("x-ratelimit-remaining-requests"), Some("4999"));
}

#[tokio::test]
async fn a_socket_gets_rate_limits_in_its_error_frame() {
    let limited = limited(json!({"requests_per_minute": 1})).await;
    let bearer = format!("Bearer {}", limited.secret);
    let headers = [header("authorization", &bearer)];
    let mut socket = Socket::connect(limited.gateway.address(), "/v1/responses", &headers).await.unwrap();
    // A warm-up calls no upstream and counts nothing.
    let frame = |generate: bool| json!({"model": "sim", "input": "hi", "store": false, "generate": generate});
    socket.created(frame(false)).await;
    socket.created(frame(true)).await;
    socket.create(frame(true)).await;
    let frame = socket.frame().await;
    assert_eq!((&frame["status"], &frame["error"]["code"]), (&json!(429), &json!("rate_limit_exceeded")));
    assert_eq!(frame["headers"]["x-ratelimit-remaining-requests"], "0");
    let after: u64 = frame["headers"]["retry-after"].as_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&after));
    assert_eq!(limited.settled().await, of(&[("requests per minute", 1)]));
}

#[tokio::test]
async fn invalid_limits_of_a_new_key_are_rejected() {
    let limited = limited(json!({})).await;
    let operator = Operator::of(&limited.gateway).await;
    for (limits, code, param) in [
        (json!({"rpm": 1}), "unknown_parameter", "limits.rpm"),
        (json!({"requests_per_minute": 0}), "invalid_value", "limits"),
        (json!({"budgets": [{"tokens": 1}]}), "missing_required_parameter", "limits.budgets[0].window"),
    ] {
        let body = json!({"name": "two", "limits": limits});
        let reply = operator.send(Method::POST, "/api/keys", body).await;
        assert_eq!(reply.refusal(), (400, Some(code.into()), Some(param.into())));
    }
    limited.client.create(plain("hi")).await.ok();
    assert_eq!(limited.settled().await, of(&[]), "a key without limits is never counted");
}

#[tokio::test]
async fn rejections_and_reservations_are_counted_without_keys() {
    let limited = limited(json!({"concurrent_turns": 1})).await;
    let (gate, running) = held_turn(&limited).await;
    limited.client.create(plain("hi")).await.refusal();
    let shown = limited.gateway.client.metrics().await;
    assert!(shown.contains("antiphon_limit_rejections_total{limit=\"concurrent_turns\"} 1"), "{shown}");
    assert!(shown.contains("antiphon_reservations 1"));
    assert!(
        shown.contains("antiphon_failures_total{fault=\"limits\",code=\"rate_limit_exceeded\"} 1"),
        "{shown}"
    );
    assert!(!shown.contains(&limited.key));
    gate.open();
    running.await.unwrap().ok();
    settled(&limited.gateway).await;
    assert_eq!(limited.gateway.client.metric("antiphon_reservations").await, 0);
}
