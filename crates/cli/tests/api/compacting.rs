//! POST /v1/responses/compact and /v1/responses/input_tokens: chains are resolved, replies are passed on unchanged.

use antiphon_simulator::upstream::{Options, Script, Simulator};
use antiphon_testkit::{Client, Gateway, Reply, Setup, header};
use http::Method;
use serde_json::{Value, json};

use crate::{gateway, simulator};

const COMPACT: &str = "/v1/responses/compact";
const INPUT_TOKENS: &str = "/v1/responses/input_tokens";

async fn post(client: &Client, path: &str, body: &Value) -> Reply {
    client.request(Method::POST, path, &[], body.to_string()).await
}

/// A chain of two turns: the id of its newest response.
async fn chain(gateway: &Gateway) -> Value {
    let mut previous = Value::Null;
    for input in ["one", "REASON two"] {
        let body = json!({"model": "sim", "input": input, "previous_response_id": previous});
        previous = gateway.client.created(body).await["id"].clone();
    }
    previous
}

fn texts(items: &Value) -> Vec<&str> {
    let text = |item: &'_ Value| item["content"][0]["text"].as_str().map(str::len);
    let items = items.as_array().unwrap().iter().filter(|item| text(item).is_some());
    items.map(|item| item["content"][0]["text"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn the_chain_goes_upstream_as_explicit_input() {
    let (upstream, gateway) = gateway().await;
    let previous = chain(&gateway).await;
    for path in [COMPACT, INPUT_TOKENS, "/backend-api/codex/responses/compact"] {
        let own = json!([{"type": "message", "role": "user", "content": "three"}]);
        for (input, items) in [(Some(own), 6), (Some(json!("three")), 6), (None, 5), (Some(Value::Null), 5)] {
            let mut body =
                json!({"model": "sim", "previous_response_id": previous, "instructions": "Be brief."});
            if let Some(input) = input {
                body["input"] = input;
            }
            post(&gateway.client, path, &body).await.ok();
            let sent = upstream.last_request().unwrap();
            assert_eq!(sent.path, path.replace("/backend-api/codex", "/v1"));
            let sent = sent.json();
            assert_eq!(sent["input"].as_array().unwrap().len(), items, "{path}: {sent}");
            assert_eq!(texts(&sent["input"])[0], "one");
            assert!(sent["input"].to_string().contains("encrypted_content"), "the reasoning is missing");
            let mut names: Vec<_> = sent.as_object().unwrap().keys().map(String::as_str).collect();
            names.sort_unstable();
            assert_eq!(names, ["input", "instructions", "model"]);
        }
    }
}

#[tokio::test]
async fn a_compacted_context_starts_a_new_chain() {
    let (upstream, gateway) = gateway().await;
    let previous = chain(&gateway).await;
    let body = json!({"model": "sim", "previous_response_id": previous});
    let compacted = post(&gateway.client, COMPACT, &body).await.ok();
    assert_eq!(compacted["object"], "response.compaction");
    assert_eq!(texts(&compacted["output"]), ["one", "REASON two"]);
    let mut input = compacted["output"].as_array().unwrap().clone();
    assert_eq!(input.last().unwrap()["type"], "compaction");
    input.push(json!({"type": "message", "role": "user", "content": "on"}));
    let next = gateway.client.created(json!({"model": "sim", "input": input})).await;
    let last = json!({"model": "sim", "input": "last", "previous_response_id": next["id"]});
    gateway.client.created(last).await;
    let sent = upstream.last_request().unwrap().json();
    let kinds: Vec<_> = sent["input"].as_array().unwrap().iter().map(|item| item["type"].clone()).collect();
    assert_eq!(
        kinds[..3],
        ["message", "message", "compaction"],
        "the items that a compaction keeps are its context"
    );
    assert_eq!(texts(&sent["input"])[..2], ["one", "REASON two"]);
    assert_eq!(kinds.len(), 6, "{sent}");
}

#[tokio::test]
async fn a_request_for_a_compaction_is_sent_once() {
    let (upstream, gateway) = gateway().await;
    let first = gateway.client.created(json!({"model": "sim", "input": "one"})).await;
    upstream.script(Script::new().text("so"));
    let trigger = json!([{"type": "compaction_trigger"}]);
    let body = json!({"model": "sim", "input": trigger, "previous_response_id": first["id"]});
    let second = gateway.client.created(body).await;
    let is_trigger = |item: &&Value| item["type"] == "compaction_trigger";
    assert_eq!(upstream.last_request().unwrap().input().iter().filter(is_trigger).count(), 1);
    gateway
        .client
        .created(json!({"model": "sim", "input": "on", "previous_response_id": second["id"]}))
        .await;
    let sent = upstream.last_request().unwrap().input();
    assert_eq!((sent.len(), sent.iter().filter(is_trigger).count()), (4, 0), "{sent:?}");
}

#[tokio::test]
async fn a_compaction_that_cannot_be_replaced_is_left_out_and_the_reply_does_not_call_that_rebuilt() {
    let upstream = async |boundary: &str| {
        Simulator::bind(Options { boundary: boundary.to_owned(), ..Options::default() }).await.unwrap()
    };
    let (one, two) = (upstream("one").await, upstream("two").await);
    let setup = Setup::with_accounts([("one", one.url().as_str()), ("two", two.url().as_str())]);
    let gateway = setup.config("routing.strategy = \"fill_first\"").start().await;
    let previous = chain(&gateway).await;
    let body = json!({"model": "sim", "previous_response_id": previous});
    let compacted = post(&gateway.client, COMPACT, &body).await.ok();
    let mut input = compacted["output"].as_array().unwrap().clone();
    input.push(json!({"type": "message", "role": "user", "content": "on"}));
    one.script(Script::http(500, "{}"));
    let reply = gateway.client.create(json!({"model": "sim", "input": input})).await;
    reply.ok();
    assert_eq!(reply.header("x-antiphon-reasoning"), Some("stripped"));
    assert_eq!(texts(&two.last_request().unwrap().json()["input"]), ["one", "REASON two"]);
    // With the chain there is something in its place.
    input = compacted["output"].as_array().unwrap().clone();
    one.script(Script::http(500, "{}"));
    let body = json!({"model": "sim", "input": input, "previous_response_id": previous});
    let reply = gateway.client.create(body).await;
    reply.ok();
    assert_eq!(reply.header("x-antiphon-reasoning"), Some("rebuilt"));
}

#[tokio::test]
async fn compaction_is_never_stored_or_streamed() {
    let (upstream, gateway) = gateway().await;
    let body = json!({"model": "sim", "input": "x", "store": true, "stream": true, "background": false,
        "generate": true, "stream_id": "a"});
    for (path, outcome) in [(COMPACT, "compacted"), (INPUT_TOKENS, "counted")] {
        let reply = post(&gateway.client, path, &body).await;
        reply.ok();
        assert_eq!(reply.header("content-type"), Some("application/json"));
        assert_eq!(upstream.last_request().unwrap().json(), json!({"model": "sim", "input": "x"}));
        if let Some(id) = reply.json()["id"].as_str() {
            assert_eq!(gateway.client.get(&format!("/v1/responses/{id}")).await.status, 404);
            let on_it = json!({"model": "sim", "input": "y", "previous_response_id": id});
            let refusal = gateway.client.create(on_it).await.refusal();
            assert_eq!(refusal.1.as_deref(), Some("previous_response_not_found"));
        }
        let metrics = gateway.client.metrics().await;
        let line = format!(r#"antiphon_turns_total{{transport="http",outcome="{outcome}"}} 1"#);
        assert!(metrics.lines().any(|have| have == line), "{line} is missing");
    }
    let gateway = gateway.restart().await;
    let rows = gateway.logged(3).await;
    for (outcome, is_usage) in [("compacted", true), ("counted", false)] {
        let row = rows.iter().find(|row| row.outcome == outcome).expect("a row in the request log");
        assert_eq!((row.transport.as_ref(), row.http_status), ("http", 200));
        assert_eq!(row.input_tokens > 0, is_usage, "only what a model reads is usage");
    }
}

#[tokio::test]
async fn replies_pass_byte_for_byte_with_their_headers() {
    let (upstream, gateway) = gateway().await;
    let reply = r#"{"id":"resp_up", "new":1.50e+400,"store":true,"s":"\u00e9\/"}"#;
    for path in [COMPACT, INPUT_TOKENS] {
        upstream.script(Script::http(200, reply).header("x-ratelimit-remaining-tokens", "7"));
        let got = post(&gateway.client, path, &json!({"model": "sim", "input": "x"})).await;
        assert_eq!((got.status.as_u16(), &got.body[..]), (200, reply.as_bytes()));
        assert_eq!(got.header("x-ratelimit-remaining-tokens"), Some("7"));
    }
}

#[tokio::test]
async fn unresolvable_input_is_rejected_without_calling_the_upstream() {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).account(0, "models = [\"sim\"]").start().await;
    let cases = [
        ("{", 400, Some("invalid_json"), None),
        (r#"{"model":7}"#, 400, Some("invalid_type"), Some("model")),
        (
            r#"{"model":"sim","previous_response_id":"resp_1"}"#,
            400,
            Some("previous_response_not_found"),
            Some("previous_response_id"),
        ),
        (
            r#"{"model":"sim","conversation":"conv_1","previous_response_id":"resp_1"}"#,
            400,
            Some("mutually_exclusive_parameters"),
            None,
        ),
        (r#"{"model":"sim","input":"x","conversation":"conv_1"}"#, 404, None, None),
        (r#"{"model":"no-such","input":"x"}"#, 404, Some("model_not_found"), Some("model")),
        (r#"{"model":"sim","input":[{"type":"item_reference","id":"msg_1"}]}"#, 404, None, Some("input")),
    ];
    for path in [COMPACT, INPUT_TOKENS] {
        for (body, status, code, param) in cases {
            let refusal = gateway.client.request(Method::POST, path, &[], body).await.refusal();
            assert_eq!(
                (refusal.0, refusal.1.as_deref(), refusal.2.as_deref()),
                (status, code, param),
                "{body}"
            );
        }
        assert_eq!(gateway.client.request(Method::PUT, path, &[], "{}").await.refusal().0, 405);
    }
    assert_eq!(upstream.counts().requests, 0);
}

#[tokio::test]
async fn upstream_errors_are_handled_as_for_turns() {
    let refused = r#"{"error":{"message":"m","type":"t","param":null,"code":"odd", "more":1.0}}"#;
    let body = json!({"model": "sim", "input": "x"});
    let (upstream, gateway) = gateway().await;
    for path in [COMPACT, INPUT_TOKENS] {
        upstream.script(Script::http(409, refused).header("retry-after", "7"));
        let reply = post(&gateway.client, path, &body).await;
        assert_eq!((reply.status.as_u16(), &reply.body[..]), (409, refused.as_bytes()));
        assert_eq!(reply.header("retry-after"), Some("7"));
        for script in [Script::http(200, "<html>"), Script::http(502, "<html>"), Script::http(200, "[1]")] {
            upstream.script(script);
            let refusal = post(&gateway.client, path, &body).await.refusal();
            assert_eq!((refusal.0, refusal.1.as_deref()), (502, Some("upstream_failed")));
        }
    }
    // The upstream decides what is required: this one needs a model to compact, and none to count.
    assert_eq!(
        post(&gateway.client, COMPACT, &json!({"input": "x"})).await.refusal().2.as_deref(),
        Some("model")
    );
    post(&gateway.client, INPUT_TOKENS, &json!({"input": "x"})).await.ok();
}

#[tokio::test]
async fn compaction_uses_the_account_of_the_chain() {
    let (one, two) = (simulator().await, simulator().await);
    let gateway =
        Setup::with_accounts([("one", one.url().as_str()), ("two", two.url().as_str())]).start().await;
    let previous = chain(&gateway).await;
    let requests = |upstream: &Simulator| upstream.counts().requests;
    let before = (requests(&one), requests(&two));
    for path in [COMPACT, INPUT_TOKENS, COMPACT, INPUT_TOKENS] {
        post(&gateway.client, path, &json!({"model": "sim", "previous_response_id": previous})).await.ok();
    }
    let after = (requests(&one), requests(&two));
    assert!(after == (before.0 + 4, before.1) || after == (before.0, before.1 + 4), "{before:?} {after:?}");
}

#[tokio::test]
async fn bodies_are_limited_and_decompressed_as_for_turns() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let gateway = Setup::over(&upstream).config("limits.max_body = \"100KiB\"").start().await;
    for path in [COMPACT, INPUT_TOKENS] {
        for (size, status) in [(90_000, 200), (200_000, 413)] {
            let body = json!({"model": "sim", "input": "x".repeat(size)}).to_string();
            let compressed = zstd::encode_all(body.as_bytes(), 1).unwrap();
            let headers = [header("content-encoding", "zstd")];
            assert_eq!(gateway.client.request(Method::POST, path, &headers, compressed).await.status, status);
        }
    }
}

#[tokio::test]
async fn a_disconnect_cancels_compaction_immediately() {
    let (upstream, gateway) = gateway().await;
    let (script, _gate) = Script::answer("never").gated();
    upstream.script(script);
    let client = gateway.client.clone();
    let asking =
        tokio::spawn(async move { post(&client, COMPACT, &json!({"model": "sim", "input": "x"})).await });
    upstream.wait_until(|upstream| upstream.in_flight() == 1).await;
    asking.abort();
    upstream.wait_until(|upstream| upstream.aborted() == 1).await;
    gateway.idle().await;
}

#[tokio::test]
async fn an_account_without_the_endpoint_leaves_it_to_another() {
    for path in [COMPACT, INPUT_TOKENS] {
        let (one, two) = (simulator().await, simulator().await);
        let setup = Setup::with_accounts([("one", one.url().as_str()), ("two", two.url().as_str())]);
        let gateway = setup.config("routing.strategy = \"fill_first\"").start().await;
        one.script(Script::http(404, "404: Not Found"));
        let reply = post(&gateway.client, path, &json!({"model": "sim", "input": "x"})).await;
        assert_eq!((reply.status.as_u16(), two.counts().requests), (200, 1), "{path}");
        // It is remembered.
        post(&gateway.client, path, &json!({"model": "sim", "input": "x"})).await.ok();
        assert_eq!((one.counts().requests, two.counts().requests), (1, 2), "{path}");
    }
}
