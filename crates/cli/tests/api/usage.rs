//! GET /api/usage: reports for an operator's tools.

use std::sync::Arc;
use std::time::Duration;

use antiphon_access::admin::{AdminToken, Role};
use antiphon_access::audit::Actor;
use antiphon_gateway::jobs::usage::{Rollup, RollupRules};
use antiphon_simulator::upstream::{Script, Simulator};
use antiphon_store::{Clock, PurgeProgress};
use antiphon_testkit::{Gateway, ManualClock, Postgres, Reply, Setup, eventually, header};
use http::Method;
use serde_json::{Value, json};

use crate::simulator;

/// For a million tokens: a dollar, ten cents if cached, and four dollars.
const PRICES: &str = "prices = [{ model = \"sim*\", input = 1, cached_input = 0.1, output = 4 }]";

/// The job that rolls usage up, called by the test.
fn rollup(gateway: &Gateway) -> Rollup {
    let rules = RollupRules {
        longest_turn: gateway.app.settings.turn_timeout,
        hour_retention: Some(Duration::from_hours(90 * 24)),
        day_retention: Some(Duration::from_hours(400 * 24)),
    };
    Rollup::new(Arc::clone(gateway.app.chains.store()), Arc::clone(&gateway.app.env.clock), rules)
}

async fn over(config: &str) -> (Simulator, Gateway) {
    let upstream = simulator().await;
    let setup = Setup::over(&upstream).account(0, "models = [\"*\"]").config(PRICES).config(config);
    let gateway = setup.start().await;
    (upstream, gateway)
}

struct Operator {
    gateway: Gateway,
    token: String,
}

impl Operator {
    async fn of(gateway: Gateway) -> Self {
        let (store, clock) = (&**gateway.app.chains.store(), &*gateway.app.env.clock);
        let token = AdminToken::rotate(store, clock, Role::Admin, Actor::CommandLine).await;
        Self { token: token.unwrap().expose().to_owned(), gateway }
    }

    async fn ask(&self, query: &str) -> Reply {
        let token = header("authorization", &format!("Bearer {}", self.token));
        self.gateway.client.request(Method::GET, &format!("/api/usage?{query}"), &[token], "").await
    }

    async fn groups(&self, query: &str) -> Vec<Value> {
        self.ask(query).await.ok()["data"].as_array().unwrap().clone()
    }

    /// The total, once this many turns are counted: rows of unstored turns are written a little later.
    async fn total(&self, turns: i64) -> Value {
        eventually(&format!("{turns} turns are counted"), async || {
            self.groups("").await.pop().filter(|total| total["turns"] == turns)
        })
        .await
    }
}

fn turn(model: &str, more: &Value) -> Value {
    let mut body = json!({"model": model, "input": "x"});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn figures(group: &Value) -> [i64; 6] {
    ["turns", "failed_turns", "unpriced_turns", "input_tokens", "output_tokens", "cost_nano_usd"]
        .map(|name| group[name].as_i64().unwrap_or(-1))
}

#[tokio::test]
async fn every_turn_is_counted_with_its_outcome_tokens_and_cost() {
    let (upstream, gateway) = over("turns.on_disconnect = \"cancel\"").await;
    let operator = Operator::of(gateway).await;
    let client = &operator.gateway.client;
    let with_usage = || Script::answer("a").usage(100, 10);
    upstream.script(with_usage());
    client.created(turn("sim", &json!({}))).await;
    let mut expected = [1, 0, 0, 100, 10, 140_000];
    assert_eq!(figures(&operator.total(1).await), expected);
    let row = operator.gateway.logged(1).await.remove(0);
    assert_eq!((row.attempts, row.cost_nano_usd, row.key), (1, Some(140_000), None));

    for (store, stream) in [(false, false), (false, true), (true, true)] {
        upstream.script(with_usage());
        client.create(turn("sim", &json!({"store": store, "stream": stream}))).await;
        expected = [expected[0] + 1, 0, 0, expected[3] + 100, expected[4] + 10, expected[5] + 140_000];
        assert_eq!(figures(&operator.total(expected[0]).await), expected, "{store} {stream}");
    }
    upstream.script(with_usage().incomplete("max_output_tokens"));
    client.created(turn("sim", &json!({}))).await;
    assert_eq!(figures(&operator.total(5).await), [5, 0, 0, 500, 50, 700_000]);

    upstream.script(Script::answer("a b").failed("server_error", "no"));
    client.create(turn("sim", &json!({"stream": true}))).await;
    upstream.script(Script::refusal(400, "no", "no"));
    assert_eq!(client.create(turn("sim", &json!({}))).await.status, 400);
    upstream.script(Script::answer("a b c").cut_after(4));
    client.create(turn("sim", &json!({"stream": true}))).await;
    assert_eq!(figures(&operator.total(8).await), [8, 3, 0, 500, 50, 700_000]);

    upstream.script(Script::answer("a b c").hang_after(4));
    let mut events = client.stream(turn("sim", &json!({"stream": true}))).await;
    events.next().await.unwrap();
    drop(events);
    upstream.wait_until(|upstream| upstream.aborted() == 1).await;
    assert_eq!(figures(&operator.total(9).await), [9, 3, 0, 500, 50, 700_000]);
    let log = operator.gateway.logged(9).await;
    assert_eq!(log.iter().filter(|row| row.outcome == "cancelled").count(), 1);
    assert_eq!(client.create(turn("sim", &json!({"previous_response_id": "resp_no"}))).await.status, 400);
    let log = operator.gateway.logged(10).await;
    assert_eq!(log.iter().filter(|row| row.attempts == 0).count(), 1);
    let by_model = operator.groups("group_by=model").await;
    assert_eq!(by_model.len(), 2);
    assert_eq!((&by_model[0]["model"], figures(&by_model[0])), (&Value::Null, [1, 1, 0, 0, 0, 0]));
    assert_eq!(by_model[1]["model"], "sim");
}

#[tokio::test]
async fn compacting_and_counting_are_counted_too() {
    let (upstream, gateway) = over("").await;
    let operator = Operator::of(gateway).await;
    upstream.script(Script::answer("a").usage(100, 10));
    for (path, turns) in [("compact", 1), ("input_tokens", 2)] {
        let body = turn("sim", &json!({})).to_string();
        operator.gateway.client.request(Method::POST, &format!("/v1/responses/{path}"), &[], body).await.ok();
        let total = operator.total(turns).await;
        assert_eq!(figures(&total)[..3], [turns, 0, 0], "{path}");
        assert!(total["cost_nano_usd"].as_i64().unwrap() >= 140_000, "{total}");
    }
}

#[tokio::test]
async fn turns_without_a_price_are_counted_as_unpriced() {
    let (upstream, gateway) = over("").await;
    let operator = Operator::of(gateway).await;
    let client = &operator.gateway.client;
    for model in ["sim", "other", "other"] {
        upstream.script(Script::answer("a").usage(100, 10));
        client.created(turn(model, &json!({}))).await;
    }
    let groups = operator.groups("group_by=model").await;
    assert_eq!(groups[0]["model"], "other");
    assert_eq!((figures(&groups[0]), &groups[0]["cost_usd"]), ([2, 0, 2, 200, 20, -1], &Value::Null));
    assert_eq!(groups[1]["cost_usd"], "0.000140000");
    assert_eq!(figures(&operator.total(3).await), [3, 0, 2, 300, 30, 140_000]);
    upstream.script(Script::refusal(400, "invalid_value", "No."));
    assert_eq!(client.create(turn("other", &json!({}))).await.status, 400);
    operator.total(4).await;
    let groups = operator.groups("group_by=model").await;
    assert_eq!((figures(&groups[0]), &groups[0]["cost_usd"]), ([3, 1, 2, 200, 20, -1], &Value::Null));
    let metrics = client.metrics().await;
    assert!(metrics.contains("\nantiphon_unpriced_turns_total 2\n"), "{metrics}");
    assert!(metrics.contains("\nantiphon_cost_usd_total 0.00014\n"), "{metrics}");
}

#[tokio::test]
async fn usage_is_grouped_paged_and_exported_as_csv() {
    let (upstream, gateway) = over("").await;
    let operator = Operator::of(gateway).await;
    for model in ["sim-a", "sim-b", "sim-c"] {
        upstream.script(Script::answer("a").usage(1, 1));
        operator.gateway.client.created(turn(model, &json!({}))).await;
    }
    let all = operator.groups("group_by=model,hour,project,account,key").await;
    assert_eq!(all.len(), 3);
    assert_eq!(
        (&all[0]["project"], &all[0]["account"], &all[0]["key"]),
        (&json!("default"), &json!("one"), &json!(null))
    );
    let start = all[0]["start"].as_str().unwrap();
    assert!(start.ends_with(":00:00Z"), "{start}");
    let (mut paged, mut after) = (Vec::new(), String::new());
    for has_more in [true, false] {
        let query = format!("group_by=model,hour,project,account,key&limit=2{after}");
        let page = operator.ask(&query).await.ok();
        assert_eq!(page["has_more"], has_more);
        after = format!("&after={}", page["after"].as_str().unwrap_or_default());
        paged.extend(page["data"].as_array().unwrap().clone());
    }
    assert_eq!(paged, all);
    let reply = operator.ask("group_by=model&format=csv&limit=2&key=").await;
    assert!(reply.header("content-type").unwrap().starts_with("text/csv"));
    let csv = String::from_utf8(reply.body.to_vec()).unwrap();
    let lines: Vec<_> = csv.split_terminator("\r\n").collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[1], ",,,,sim-a,1,0,0,0,1,0,1,0,0.000005000");
    let rest = operator
        .ask(&format!("group_by=model&after={}", reply.header("x-antiphon-after").unwrap()))
        .await
        .ok();
    assert_eq!(rest["data"][0]["model"], "sim-c");
    let headers =
        [header("authorization", &format!("Bearer {}", operator.token)), header("accept", "text/csv")];
    let reply = operator.gateway.client.request(Method::GET, "/api/usage?model=sim-b", &headers, "").await;
    assert!(reply.body.ends_with(b"\r\n,,,,,1,0,0,0,1,0,1,0,0.000005000\r\n"), "{:?}", reply.body);
    assert_eq!(operator.groups("project=another").await, [] as [Value; 0]);
    assert_eq!(operator.groups("from=2020-01-01&to=2020-02-01").await, [] as [Value; 0]);
    for param in ["from=soon", "to=1", "group_by=user", "limit=0", "after=x", "format=xml"] {
        let name = param.split_once('=').unwrap().0;
        let refusal = operator.ask(param).await.refusal();
        assert_eq!(refusal, (400, Some("invalid_value".into()), Some(name.into())));
    }
    assert_eq!(operator.ask("key=typo").await.refusal(), (404, Some("key_not_found".into()), None));
    let deleted = "key_0199a1b2c3d47e5f8a9b0c1d2e3f4a5b";
    assert_eq!(operator.groups(&format!("key={deleted}")).await, [] as [Value; 0]);
    let reply = operator.gateway.client.get("/api/usage").await;
    assert_eq!(reply.refusal(), (401, Some("invalid_admin_token".into()), None));
}

/// Rows are rolled up and then purged from the log, with a restart in between.
#[tokio::test]
async fn usage_survives_the_purge_of_the_request_log() {
    let clock = Arc::new(ManualClock::default());
    let upstream = simulator().await;
    let config = "usage.raw_retention = \"2d\"\nstore.purge_interval = \"20ms\"";
    let setup = Setup::over(&upstream).config(PRICES).config(config).clock(&clock);
    let operator = Operator::of(setup.start().await).await;
    let ask = async |operator: &Operator| {
        for _ in 0..3 {
            upstream.script(Script::answer("a").usage(100, 10));
            operator.gateway.client.created(turn("sim", &json!({}))).await;
        }
    };
    ask(&operator).await;
    let from = |clock: &ManualClock| {
        let since = clock.now().minus(Duration::from_hours(24 * 20));
        format!("from={}&group_by=model", antiphon_runtime::rfc3339(since))
    };
    let known = [3, 0, 0, 300, 30, 420_000];
    clock.advance(Duration::from_hours(3));
    rollup(&operator.gateway).run_once().await.unwrap();
    let store = operator.gateway.app.chains.store();
    assert!(store.rolled_up_until().await.unwrap().unix_ms() > 0);
    assert_eq!(figures(&operator.groups(&from(&clock)).await[0]), known);

    let operator = Operator { gateway: operator.gateway.restart().await, token: operator.token };
    clock.advance(Duration::from_hours(72));
    let store = operator.gateway.app.chains.store();
    eventually("old rows leave the log", async || store.list_log(1).await.unwrap().is_empty()).await;
    assert_eq!(figures(&operator.groups(&from(&clock)).await[0]), known);
    ask(&operator).await;
    rollup(&operator.gateway).run_once().await.unwrap();
    assert_eq!(figures(&operator.groups(&from(&clock)).await[0]), known.map(|figure| figure * 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_aggregate_concurrently_count_once() {
    let clock = Arc::new(ManualClock::default());
    let upstream = simulator().await;
    let url = Postgres::shared_database().await;
    let setup = Setup::over(&upstream).config(PRICES).clock(&clock).database_url(&url);
    let first = Operator::of(setup.start().await).await;
    // A new token would end the first one.
    let second = Operator { gateway: first.gateway.setup.clone().start().await, token: first.token.clone() };
    let replicas = [&first.gateway, &second.gateway];
    let mut rollups = replicas.map(rollup);
    for round in 1..=6 {
        let turns =
            (0..12).map(|n| replicas[n % 2].client.created(turn("sim", &json!({"store": n % 3 == 0}))));
        futures_util::future::join_all(turns).await;
        first.total(12 * round).await;
        let [one, two] = &mut rollups;
        let now = clock.now();
        let purge = |replica: &Gateway| {
            let store = Arc::clone(replica.app.chains.store());
            async move {
                store
                    .purge(&mut PurgeProgress::default(), now, Some(now.minus(Duration::from_hours(30))), 5)
                    .await
            }
        };
        let (one, two, here, there) =
            tokio::join!(one.run_once(), two.run_once(), purge(replicas[0]), purge(replicas[1]));
        one.and(two).unwrap();
        here.and(there).unwrap();
        let since = antiphon_runtime::rfc3339(now.minus(Duration::from_hours(24 * 30)));
        for operator in [&first, &second] {
            let groups = operator.groups(&format!("from={since}")).await;
            assert_eq!(groups[0]["turns"], 12 * round);
        }
        clock.advance(Duration::from_hours(10));
    }
}
