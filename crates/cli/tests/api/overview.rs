//! The admin API behind the dashboard: overview, request log, chains, configuration and store.

use std::time::Duration;

use antiphon_simulator::upstream::Script;
use antiphon_testkit::{Gateway, Setup, eventually};
use http::Method;
use serde_json::{Value, json};

use crate::administering::Operator;
use crate::simulator;

const PRICES: &str = "prices = [{ model = \"sim*\", input = 1, cached_input = 0.1, output = 4 }]";

fn turn(input: &str) -> Value {
    json!({"model": "sim", "input": input})
}

fn continuing(parent: &str, input: &str) -> Value {
    json!({"model": "sim", "input": input, "previous_response_id": parent})
}

async fn created(gateway: &Gateway, body: Value) -> String {
    gateway.client.created(body).await["id"].as_str().unwrap().to_owned()
}

fn ids(list: &Value, name: &str) -> Vec<String> {
    let entries = list[name].as_array().unwrap().iter();
    entries.map(|entry| entry["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn the_overview_has_figures_series_and_what_needs_attention() {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).config(PRICES).start().await;
    let operator = Operator::of(&gateway).await;
    for window in ["24h", "7d", "30d"] {
        let empty = operator.get(&format!("/api/overview?window={window}")).await;
        assert_eq!((&empty["current"]["turns"], &empty["current"]["error_rate"]), (&json!(0), &Value::Null));
        assert_eq!(empty["attention"], json!([]));
    }
    created(&gateway, turn("a")).await;
    upstream.script(Script::http(429, "{}").header("retry-after", "100"));
    gateway.client.create(turn("b")).await;
    let overview = eventually("both turns are counted", async || {
        let overview = operator.get("/api/overview").await;
        (overview["current"]["turns"] == 2).then_some(overview)
    })
    .await;
    assert_eq!(overview["window"], "24h");
    let current = &overview["current"];
    assert_eq!((&current["failed_turns"], &current["error_rate"]), (&json!(1), &json!(0.5)));
    assert!(current["cost_usd"].as_f64().unwrap() > 0.0 && current["input_tokens"].as_u64().unwrap() > 0);
    assert!(current["first_event_ms"]["p95"].as_f64().unwrap() > 0.0);
    assert_eq!(overview["previous"]["turns"], 0);
    let series = &overview["series"];
    let len = series["starts"].as_array().unwrap().len();
    let is_last = |values: &Value| values.as_array().unwrap().len() == len && values[len - 1] == 1;
    // In the last interval, unless the hour has just ended.
    let sum = |values: &Value| values.as_array().unwrap().iter().filter_map(Value::as_u64).sum::<u64>();
    assert!(is_last(&series["turns"]["completed"]) || sum(&series["turns"]["completed"]) == 1);
    assert_eq!(series["cost_usd"][0]["model"], "sim");
    assert_eq!(series["first_event_ms"]["p50"].as_array().unwrap().len(), len);
    let attention = overview["attention"].as_array().unwrap();
    assert_eq!((&attention[0]["kind"], &attention[0]["subject"]), (&json!("account_cooling"), &json!("one")));
    let day = |days_ago: i64| {
        let day = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(24 * days_ago);
        day.to_string()[..10].to_owned()
    };
    let until_now = operator.get(&format!("/api/overview?from={}", day(5))).await;
    assert_eq!((&until_now["window"], &until_now["current"]["turns"]), (&Value::Null, &json!(2)));
    let (begin, end) = (format!("{}T10:00", day(9)), format!("{}T10:00:00Z", day(8)));
    let earlier = operator.get(&format!("/api/overview?from={begin}&to={end}")).await;
    assert_eq!((&earlier["from"], &earlier["to"]), (&json!(format!("{begin}:00Z")), &json!(end)));
    assert_eq!(
        (&earlier["current"]["turns"], earlier["series"]["starts"].as_array().unwrap().len()),
        (&json!(0), 24)
    );
    for (query, param) in [
        ("from=x".to_owned(), "from"),
        (format!("to={}", day(1)), "from"),
        (format!("from={}", day(500)), "from"),
        (format!("from={}&to=x", day(2)), "to"),
        (format!("window=7d&from={}", day(2)), "window"),
    ] {
        let reply = operator.call(Method::GET, &format!("/api/overview?{query}")).await;
        assert_eq!(reply.refusal(), (400, Some("invalid_value".into()), Some(param.into())), "{query}");
    }
    let reply = operator.call(Method::GET, "/api/overview?window=1y").await;
    assert_eq!(reply.refusal(), (400, Some("invalid_value".into()), Some("window".into())));
}

#[tokio::test]
async fn turns_are_counted_by_account() {
    let (first, second) = (simulator().await, simulator().await);
    let gateway = Setup::with_accounts([("a", first.url().as_str()), ("b", second.url().as_str())])
        .account(0, "priority = 1")
        .start()
        .await;
    let operator = Operator::of(&gateway).await;
    for window in ["24h", "7d", "30d"] {
        let empty = operator.get(&format!("/api/overview/accounts?window={window}")).await;
        assert_eq!((&empty["turns"], &empty["accounts"]), (&json!(0), &json!([])));
    }
    for _ in 0..3 {
        created(&gateway, turn("x")).await;
    }
    operator.post("/api/accounts/a/pause").await;
    second.script(Script::answer("x").failed("server_error", "it failed"));
    gateway.client.create(turn("x")).await;
    // None of them has an account.
    operator.post("/api/accounts/b/pause").await;
    gateway.client.create(turn("x")).await;
    let report = eventually("all turns are counted", async || {
        let report = operator.get("/api/overview/accounts").await;
        (report["turns"] == 4).then_some(report)
    })
    .await;
    assert_eq!(report["window"], "24h");
    let accounts = report["accounts"].as_array().unwrap();
    let figures = |n: usize| {
        let account = &accounts[n];
        ["account", "turns", "share", "failed_turns", "error_rate"].map(|name| account[name].clone())
    };
    assert_eq!(figures(0), [json!("a"), json!(3), json!(0.75), json!(0), json!(0.0)]);
    assert_eq!(figures(1), [json!("b"), json!(1), json!(0.25), json!(1), json!(1.0)]);
    let values = |n: usize, name: &str| -> Vec<u64> {
        let values = accounts[n]["series"][name].as_array().unwrap().iter();
        values.map(|value| value.as_u64().unwrap()).collect()
    };
    assert_eq!(values(0, "turns").len(), report["starts"].as_array().unwrap().len());
    assert_eq!(values(0, "turns").iter().sum::<u64>(), 3);
    assert_eq!(values(1, "failed_turns").iter().sum::<u64>(), 1);
    let reply = operator.call(Method::GET, "/api/overview/accounts?window=1y").await;
    assert_eq!(reply.refusal(), (400, Some("invalid_value".into()), Some("window".into())));
    let range = operator.get("/api/overview/accounts?from=2026-01-01&to=2026-01-03").await;
    assert_eq!(
        (&range["window"], &range["turns"], &range["interval_seconds"]),
        (&Value::Null, &json!(0), &json!(3600))
    );
}

#[tokio::test]
async fn a_limit_that_is_nearly_used_up_needs_attention() {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).start().await;
    let operator = Operator::of(&gateway).await;
    let secret = operator
        .key(json!({"name": "laptop", "limits": {"budgets": [{"tokens": 1, "window": "month"}]}}))
        .await;
    gateway.client.with_secret(&secret).created(turn("a")).await;
    let near = eventually("the limit is listed", async || {
        let overview = operator.get("/api/overview").await;
        overview["attention"]
            .as_array()
            .unwrap()
            .iter()
            .find(|entry| entry["kind"] == "key_near_limit")
            .cloned()
    })
    .await;
    assert_eq!(near["subject"], "laptop");
    assert!(near["value"].as_f64().unwrap() >= 1.0);
}

#[tokio::test]
async fn the_request_log_is_filtered_and_comes_in_pages() {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).account(0, "models = [\"*\"]").start().await;
    let operator = Operator::of(&gateway).await;
    let mut expected = Vec::new();
    for n in 0..5 {
        expected.insert(0, created(&gateway, turn(&n.to_string())).await);
    }
    let all = operator.get("/api/log").await;
    let mut found = ids(&all, "turns");
    found.sort();
    let mut sorted = expected.clone();
    sorted.sort();
    assert_eq!((found, &all["has_more"]), (sorted, &json!(false)));
    let mut paged = Vec::new();
    let mut after = String::new();
    loop {
        let page = operator.get(&format!("/api/log?limit=2&after={after}")).await;
        paged.extend(ids(&page, "turns"));
        match page["after"].as_str() {
            Some(next) => after = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(paged, ids(&all, "turns"));
    let entry = &operator.get(&format!("/api/log?id={}", expected[2])).await["turns"][0];
    assert_eq!(
        (&entry["id"], &entry["outcome"], &entry["account"]),
        (&json!(expected[2]), &json!("completed"), &json!("one"))
    );
    assert!(entry["sent_ms"].as_f64().unwrap() <= entry["first_event_ms"].as_f64().unwrap());
    for (filter, count) in [
        ("model=sim", 5),
        ("model=other", 0),
        ("account=one&outcome=completed", 5),
        ("outcome=failed", 0),
        ("code=server_error", 0),
        ("since=2099-01-01T00:00:00Z", 0),
        ("until=2099-01-01T00:00:00%2B01:00", 5),
        ("key=", 5),
    ] {
        let list = operator.get(&format!("/api/log?{filter}")).await;
        assert_eq!(list["turns"].as_array().unwrap().len(), count, "{filter}");
    }
    for (filter, code, param) in [
        ("key=nobody", "key_not_found", None),
        ("since=yesterday", "invalid_value", Some("since")),
        ("after=x", "invalid_value", Some("after")),
        ("id=x", "invalid_value", Some("id")),
        ("outcome=complete", "invalid_value", Some("outcome")),
    ] {
        let (_, found, of) = operator.call(Method::GET, &format!("/api/log?{filter}")).await.refusal();
        assert_eq!((found.as_deref(), of.as_deref()), (Some(code), param), "{filter}");
    }
}

#[tokio::test]
async fn attempts_of_a_turn_are_shown_in_order() {
    let (first, second) = (simulator().await, simulator().await);
    let gateway = Setup::with_accounts([("a", first.url().as_str()), ("b", second.url().as_str())])
        .account(0, "priority = 1")
        .start()
        .await;
    let operator = Operator::of(&gateway).await;
    first.script(Script::http(500, "{}"));
    let id = created(&gateway, turn("x")).await;
    let response = operator.get(&format!("/api/responses/{id}")).await;
    let attempts = response["attempts"].as_array().unwrap();
    let accounts: Vec<_> = attempts.iter().map(|attempt| attempt["account"].as_str().unwrap()).collect();
    assert!(accounts.len() >= 2 && accounts[0] == "a" && accounts.last() == Some(&"b"), "{accounts:?}");
    assert_eq!(attempts.last().unwrap()["outcome"], "answered");
    for pair in attempts.windows(2) {
        assert!(pair[0]["ended_ms"].as_f64().unwrap() <= pair[1]["began_ms"].as_f64().unwrap());
    }
}

#[tokio::test]
async fn bodies_are_shown_on_request_and_each_view_is_in_the_audit_log() {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).start().await;
    let operator = Operator::of(&gateway).await;
    let id = created(&gateway, turn("<b>a secret</b>")).await;
    let response = operator.get(&format!("/api/responses/{id}")).await;
    assert_eq!((&response["stored"]["status"], &response["bodies"]), (&json!("completed"), &Value::Null));
    assert_eq!(response["turn"]["id"], json!(id));
    assert!(!response.to_string().contains("a secret"));
    let views = async || -> usize {
        let audit = operator.get("/api/audit").await;
        let entries = audit["entries"].as_array().unwrap().iter();
        entries.filter(|entry| entry["action"] == "response.viewed" && entry["target"] == json!(id)).count()
    };
    assert_eq!(views().await, 0);
    let response = operator.get(&format!("/api/responses/{id}?bodies=true")).await;
    assert!(response["bodies"]["input"].to_string().contains("<b>a secret</b>"));
    assert_eq!(response["bodies"]["response"]["id"], json!(id));
    assert_eq!(views().await, 1);
    for unknown in ["resp_0199a1b2c3d47e5f8a9b0c1d2e3f4a5b", "nothing"] {
        for path in ["", "?bodies=true", "/chain"] {
            let reply = operator.call(Method::GET, &format!("/api/responses/{unknown}{path}")).await;
            assert_eq!(reply.refusal(), (404, Some("response_not_found".into()), None), "{unknown}{path}");
        }
    }
}

#[tokio::test]
async fn a_chain_is_shown_from_its_root_with_its_branches() {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).start().await;
    let operator = Operator::of(&gateway).await;
    let root = created(&gateway, turn("root")).await;
    let middle = created(&gateway, continuing(&root, "middle")).await;
    let branch = created(&gateway, continuing(&root, "branch")).await;
    let leaf = created(&gateway, continuing(&middle, "leaf")).await;
    let chain = operator.get(&format!("/api/responses/{middle}/chain")).await;
    assert_eq!(ids(&chain, "turns"), [root.clone(), middle.clone(), leaf.clone()]);
    assert_eq!((&chain["length"], &chain["has_more"]), (&json!(3), &json!(false)));
    let turns = chain["turns"].as_array().unwrap();
    assert_eq!(turns[0]["branches"], json!([branch]));
    assert_eq!(turns[1]["branches"], json!([]));
    assert_eq!(turns[0]["input_items"], json!({"message": 1}));
    assert_eq!(turns[0]["turn"]["reasoning"], "full");
    let bytes =
        |n: usize| turns[n]["input_bytes"].as_u64().unwrap() + turns[n]["output_bytes"].as_u64().unwrap();
    assert_eq!(turns[2]["replay_bytes"], json!(bytes(0) + bytes(1)));
    let first = operator.get(&format!("/api/responses/{leaf}/chain?limit=2")).await;
    assert_eq!(
        (ids(&first, "turns"), &first["has_more"]),
        (vec![root.clone(), middle.clone()], &json!(true))
    );
    let rest = operator.get(&format!("/api/responses/{leaf}/chain?limit=2&after={middle}")).await;
    assert_eq!((&rest["turns"][0], rest["turns"].as_array().unwrap().len()), (&turns[2], 1));
    let other = operator.get(&format!("/api/responses/{branch}/chain")).await;
    assert_eq!(ids(&other, "turns"), [root, branch]);
}

#[tokio::test]
async fn live_figures_come_as_events() {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).start().await;
    let operator = Operator::of(&gateway).await;
    let id = created(&gateway, turn("a")).await;
    let mut frames = operator.follow("/api/live").await;
    let frame = frames.until("frame").await.json();
    assert_eq!(frame["running"]["turns"], 0);
    assert_eq!(frame["last_turns"][0]["id"], json!(id));
    assert_eq!(frame["accounts"][0]["name"], "one");
    frames.until("frame").await;
}

#[tokio::test]
async fn live_figures_end_when_their_token_is_replaced() {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).start().await;
    let mut frames = Operator::of(&gateway).await.follow("/api/live").await;
    frames.until("frame").await;
    let mut others = Operator::of(&gateway).await.follow("/api/live").await;
    let rest = tokio::time::timeout(Duration::from_secs(60), frames.rest()).await.expect("the stream ends");
    assert!(rest.iter().all(|event| event.name == "frame"));
    others.until("frame").await;
}

#[tokio::test]
async fn the_configuration_says_where_its_values_come_from() {
    let upstream = simulator().await;
    let gateway =
        Setup::over(&upstream).account_key("sk-secret").config("limits.max_connections = 77").start().await;
    let operator = Operator::of(&gateway).await;
    let config = operator.get("/api/config").await;
    let value = |key: &str| {
        let values = config["values"].as_array().unwrap().iter();
        values.clone().find(|value| value["key"] == key).cloned().unwrap_or_else(|| panic!("{key}"))
    };
    let set = value("limits.max_connections");
    assert_eq!((&set["value"], &set["source"]), (&json!(77), &json!("file")));
    assert_eq!(value("timeouts.idle")["source"], "default");
    assert_eq!(value("accounts[0].name")["value"], "one");
    assert!(!config.to_string().contains("sk-secret"));
    created(&gateway, turn("a")).await;
    let store = operator.get("/api/store").await;
    assert!(store["bytes"].as_u64().unwrap() > 0 && store["available"] == true);
    assert!(store["tables"].as_array().unwrap().iter().any(|table| table["name"] == "request_log"));
}

#[tokio::test]
async fn limits_of_a_key_can_be_changed() {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).start().await;
    let operator = Operator::of(&gateway).await;
    let secret = operator.key(json!({"name": "laptop", "models": ["sim"]})).await;
    let client = gateway.client.with_secret(&secret);
    client.created(turn("a")).await;
    let changes = json!({"limits": {"budgets": [{"tokens": 1, "window": "month"}]}, "expires_at": "2099-01-01T00:00:00Z"});
    let key = operator.send(Method::PATCH, "/api/keys/laptop", &changes).await.ok();
    assert_eq!((&key["limits"], &key["models"]), (&changes["limits"], &json!(["sim"])));
    assert_eq!(key["expires_at"], "2099-01-01T00:00:00Z");
    client.created(turn("b")).await;
    assert_eq!(client.create(turn("c")).await.status, 429);
    let key = operator
        .send(Method::PATCH, "/api/keys/laptop", json!({"limits": {}, "expires_at": "never"}))
        .await
        .ok();
    assert_eq!((&key["limits"], &key["expires_at"]), (&json!({}), &Value::Null));
    client.created(turn("d")).await;
    let reply = operator.send(Method::PATCH, "/api/keys/laptop", json!({"limits": {"x": 1}})).await;
    assert_eq!(reply.refusal(), (400, Some("unknown_parameter".into()), Some("limits.x".into())));
    let reply = operator.send(Method::PATCH, "/api/keys/nobody", json!({})).await;
    assert_eq!(reply.refusal(), (404, Some("key_not_found".into()), None));
    operator.post("/api/keys/laptop/revoke").await;
    let reply = operator.send(Method::PATCH, "/api/keys/laptop", json!({"limits": {}})).await;
    assert_eq!(reply.refusal(), (409, Some("key_not_active".into()), None));
    let audit = operator.get("/api/audit").await;
    let changed = audit["entries"].as_array().unwrap().iter().find(|entry| entry["action"] == "key.changed");
    assert_eq!(changed.unwrap()["detail"]["limits"], json!({}));
    eventually("the turns of the key are counted", async || {
        operator.get("/api/usage?key=laptop").await["data"][0]["turns"] == 4
    })
    .await;
}
