//! POST /v1/chat/completions and /v1/embeddings: passed through to accounts that have them, with all that protects a turn.

use std::sync::Arc;
use std::time::Duration;

use antiphon_simulator::upstream::{Options, Script, Simulator};
use antiphon_testkit::{Client, Fault, Faults, Gateway, ManualClock, Reply, Setup, header};
use http::Method;
use serde_json::{Value, json};

use crate::administering::Operator;
use crate::limits::{limited, of, settled, standing};
use crate::{gateway, simulator};

const CHAT: &str = "/v1/chat/completions";
const EMBEDDINGS: &str = "/v1/embeddings";
const PRICES: &str = "prices = [{ model = \"sim*\", input = 1, cached_input = 0.1, output = 4 }]";
/// Errors in the forms in which servers send them in a stream.
const ERRORS: [&str; 5] = [
    "data: {\"error\":{\"message\":\"m\",\"type\":\"server_error\",\"code\":null}}\n\n",
    "data: {\"error\":{\"message\":\"m\",\"code\":500}}\n\ndata: [DONE]\n\n",
    "data: {\"error\":\"m\"}\n\n",
    "data: {\"object\":\"error\",\"message\":\"m\"}\n\n",
    "event: error\ndata: {\"message\":\"m\"}\n\ndata: [DONE]\n\n",
];
const WITH_USAGE: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":null}\n\n\
    : a comment\n\ndata: {\"odd\" : 1.50e+400}\n\n\
    data: {\"choices\":[],\"usage\":{\"prompt_tokens\":100,\"completion_tokens\":20,\"prompt_tokens_details\":{\"cached_tokens\":50}}}\n\n\
    data: [DONE]\n\n";

fn chat(text: &str) -> Value {
    json!({"model": "sim", "messages": [{"role": "user", "content": text}]})
}

fn streamed(text: &str) -> Value {
    let mut body = chat(text);
    body["stream"] = true.into();
    body
}

fn embed(input: &str) -> Value {
    json!({"model": "sim", "input": input})
}

/// Each endpoint with a request that it serves.
fn requests() -> [(&'static str, Value); 3] {
    [(CHAT, chat("hi")), (CHAT, streamed("hi")), (EMBEDDINGS, embed("hi"))]
}

async fn post(client: &Client, path: &str, body: impl ToString) -> Reply {
    client.request(Method::POST, path, &[], body.to_string()).await
}

/// A gateway over these upstreams, which it tries in this order.
async fn over(upstreams: &[&Simulator], config: &str) -> Gateway {
    let urls: Vec<String> = upstreams.iter().map(|upstream| upstream.url()).collect();
    let setup = Setup::with_accounts(
        ["one", "two", "three", "four", "five"].into_iter().zip(urls.iter().map(String::as_str)),
    );
    setup.config("routing.strategy = \"fill_first\"").config(config).start().await
}

async fn without_endpoints() -> Simulator {
    Simulator::bind(Options { other_endpoints: false, ..Options::default() }).await.unwrap()
}

#[tokio::test]
async fn requests_and_replies_pass_byte_for_byte() {
    let upstream = simulator().await;
    let aliases = "aliases = { mine = \"theirs\" }";
    let gateway = Setup::over(&upstream).account(0, aliases).account_key("sk-up").start().await;
    for path in [CHAT, EMBEDDINGS] {
        let reply = r#"{"id":"x", "new":1.50e+400,"usage":{"prompt_tokens":1},"s":"\u00e9\/"}"#;
        for (model, sent_model) in [("sim", "sim"), ("mine", "theirs")] {
            upstream.script(Script::http(200, reply).header("x-ratelimit-remaining-tokens", "7"));
            let text = |model: &str| {
                format!(
                    r#"{{"messages":[{{"role":"user","content":"x"}}], "model" : "{model}","input":"x","odd":1.0,"stream":null}}"#
                )
            };
            let headers =
                [header("authorization", "Bearer mine"), header("openai-beta", "b"), header("cookie", "c=d")];
            // The simulator is strict about what it does not know, so that only what a script replies is looked at.
            let got = gateway.client.request(Method::POST, path, &headers, text(model)).await;
            let sent = upstream.last_request().unwrap();
            assert_eq!((sent.path.as_str(), &sent.body[..]), (path, text(sent_model).as_bytes()));
            assert_eq!(sent.header("authorization"), Some("Bearer sk-up"));
            assert_eq!((sent.header("openai-beta"), sent.header("cookie")), (Some("b"), None));
            assert_eq!(got.status, 400, "{}", String::from_utf8_lossy(&got.body));
        }
        let (_, body) = requests().into_iter().find(|(of, _)| *of == path).unwrap();
        let got = post(&gateway.client, path, &body).await;
        assert_eq!((got.status.as_u16(), &got.body[..]), (200, reply.as_bytes()));
        assert_eq!(got.header("x-ratelimit-remaining-tokens"), Some("7"));
        assert_eq!(
            (got.header("content-type"), got.header("x-antiphon-reasoning")),
            (Some("application/json"), None)
        );
        assert_eq!(post(&gateway.client, path, &body).await.status, 200);
    }
}

#[tokio::test]
async fn a_stream_passes_byte_for_byte_and_its_usage_is_counted() {
    let upstream = simulator().await;
    let gateway = over(&[&upstream], PRICES).await;
    for size in [1, 7, 10_000] {
        upstream.script(Script::stream_bytes(WITH_USAGE).writes_of(size));
        let got = post(&gateway.client, CHAT, streamed("hi")).await;
        assert_eq!(String::from_utf8_lossy(&got.body), WITH_USAGE);
        assert_eq!(got.header("content-type"), Some("text/event-stream; charset=utf-8"));
    }
    let rows = gateway.logged(3).await;
    for row in &rows {
        assert_eq!(
            (row.transport.as_ref(), row.outcome.as_ref(), row.http_status),
            ("sse", "completed", 200)
        );
        assert_eq!((row.input_tokens, row.cached_tokens, row.output_tokens), (100, 50, 20));
        assert_eq!(row.cost_nano_usd, Some(50_000 + 5_000 + 80_000));
        assert_eq!(row.account.as_deref(), Some("one"));
        assert!(!row.is_estimated);
    }
    assert_eq!(gateway.client.metric("antiphon_turns_usage_estimated_total").await, 0);
}

#[tokio::test]
async fn collected_replies_are_counted_with_their_usage() {
    let upstream = simulator().await;
    let gateway = over(&[&upstream], PRICES).await;
    for (path, body, output_tokens) in [(CHAT, chat("hi"), 20), (EMBEDDINGS, embed("hi"), 0)] {
        upstream.script(Script::answer("x").usage(100, 20));
        post(&gateway.client, path, body).await.ok();
        // Rows of the same millisecond are in no order.
        let rows = gateway.logged(if path == CHAT { 1 } else { 2 }).await;
        let row = rows.iter().find(|row| row.output_tokens == output_tokens).unwrap();
        assert_eq!((row.input_tokens, row.outcome.as_ref()), (100, "completed"));
        assert_eq!(row.cost_nano_usd, Some(100_000 + output_tokens * 4_000));
    }
}

#[tokio::test]
async fn usage_that_is_not_reported_is_estimated_and_marked() {
    let upstream = simulator().await;
    let gateway = over(&[&upstream], PRICES).await;
    let long = "x".repeat(4_000);
    upstream.script(Script::answer("a b c d e f").deltas(6));
    let text = post(&gateway.client, CHAT, streamed(&long)).await;
    assert!(text.body.ends_with(b"data: [DONE]\n\n"));
    upstream.script(Script::http(200, format!(r#"{{"text":"{long}"}}"#)));
    post(&gateway.client, CHAT, chat("hi")).await.ok();
    upstream.script(Script::http(200, "{}"));
    post(&gateway.client, EMBEDDINGS, embed(&long)).await.ok();
    let rows = gateway.logged(3).await;
    let tokens =
        |range: std::ops::Range<u64>, count: u64| assert!(range.contains(&count), "{count} {rows:#?}");
    // Rows of the same millisecond are in no order.
    let row = |output: std::ops::Range<u64>| rows.iter().find(|row| output.contains(&row.output_tokens));
    let [embedded, streamed, collected] = [0..1, 1..100, 100..u64::MAX].map(|output| row(output).unwrap());
    tokens(1_000..1_050, streamed.input_tokens);
    tokens(6..10, streamed.output_tokens);
    tokens(1_000..1_010, collected.output_tokens);
    tokens(1_000..1_050, embedded.input_tokens);
    assert!(rows.iter().all(|row| row.cost_nano_usd > Some(0) && row.is_estimated));
    let operator = Operator::of(&gateway).await;
    let usage = operator.get("/api/usage").await;
    assert_eq!((&usage["data"][0]["turns"], &usage["data"][0]["estimated_turns"]), (&json!(3), &json!(3)));
    let csv = operator.call(Method::GET, "/api/usage?format=csv").await.body;
    assert!(String::from_utf8_lossy(&csv).lines().nth(1).unwrap().starts_with(",,,,,3,0,0,3,"), "{csv:?}");
    assert_eq!(gateway.client.metric("antiphon_turns_usage_estimated_total").await, 3);
}

#[tokio::test]
async fn keys_models_and_requests_are_checked_before_an_account_is_asked() {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).account(0, "models = [\"sim\", \"gpt-5*\"]").start().await;
    let operator = Operator::of(&gateway).await;
    let secret = operator.key(json!({"name": "one", "models": ["gpt-*"]})).await;
    let client = gateway.client.with_secret(&secret);
    for (path, _) in requests() {
        for (body, status, code) in [
            ("{", 400, Some("invalid_json")),
            (r#"{"messages":[],"input":"x"}"#, 400, Some("missing_required_parameter")),
            (r#"{"model":7}"#, 400, Some("invalid_type")),
            (r#"{"model":"gpt-5.4","Model":"sim"}"#, 400, Some("unknown_parameter")),
            (r#"{"model":"sim"}"#, 403, Some("model_not_allowed")),
            (r#"{"model":"gpt-none"}"#, 404, Some("model_not_found")),
        ] {
            let refusal = post(&client, path, body).await.refusal();
            assert_eq!((refusal.0, refusal.1.as_deref()), (status, code), "{path} {body}");
        }
        let other = gateway.client.with_secret("apn-unknown");
        assert_eq!(post(&other, path, "{}").await.refusal().0, 401);
        assert_eq!(client.get(path).await.refusal().0, 405);
    }
    assert_eq!(upstream.counts().requests, 0);
}

#[tokio::test]
async fn every_choice_of_a_chat_completion_is_reserved() {
    let limited = limited(json!({"tokens_per_minute": 100_000})).await;
    for (tokens, reserved) in [
        (json!({"max_tokens": 100, "n": 50}), 5_000),
        (json!({"max_tokens": 7_000, "max_completion_tokens": null}), 7_000),
        (json!({"n": 9}), 9_000),
    ] {
        let mut body = chat("hi");
        body.as_object_mut().unwrap().extend(tokens.as_object().unwrap().clone());
        limited.settled().await;
        let used = limited.standing().await["tokens per minute"].0;
        let reply = post(&limited.client, CHAT, body).await;
        reply.ok();
        let remaining: u64 = reply.header("x-ratelimit-remaining-tokens").unwrap().parse().unwrap();
        let held = 100_000 - used - remaining;
        assert!((reserved..reserved + 100).contains(&held), "{held} for {tokens}");
    }
}

#[tokio::test]
async fn limits_reserve_and_settle_by_usage() {
    let rules = json!({"requests_per_minute": 4, "tokens_per_minute": 10_000, "concurrent_turns": 5});
    let limited = limited(rules).await;
    limited.upstream.script(Script::answer("x").usage(100, 20));
    let reply = post(&limited.client, CHAT, chat("hi")).await;
    assert_eq!(reply.header("x-ratelimit-remaining-requests"), Some("3"));
    limited.settled().await;
    limited.upstream.script(Script::stream_bytes(WITH_USAGE));
    post(&limited.client, CHAT, streamed("hi")).await;
    limited.settled().await;
    limited.upstream.script(Script::answer("x").usage(7, 0));
    post(&limited.client, EMBEDDINGS, embed("hi")).await.ok();
    limited.upstream.script(Script::refusal(400, "invalid_value", "No."));
    assert_eq!(post(&limited.client, EMBEDDINGS, embed("hi")).await.status, 400);
    let expected = of(&[("requests per minute", 4), ("tokens per minute", 247), ("concurrent turns", 0)]);
    assert_eq!(limited.settled().await, expected);
    for (path, body) in requests() {
        let reply = post(&limited.client, path, body).await;
        assert_eq!(reply.refusal().1.as_deref(), Some("rate_limit_exceeded"));
        assert!(reply.header("retry-after").is_some());
    }
    assert_eq!(limited.upstream.counts().requests, 4);
}

#[tokio::test]
async fn what_a_chat_may_use_is_reserved() {
    let limited = limited(json!({"tokens_per_minute": 1_000})).await;
    // Embeddings have no output: they reserve little, and leave little less.
    post(&limited.client, EMBEDDINGS, embed("hi")).await.ok();
    settled(&limited.gateway).await;
    assert!((1..50).contains(&standing(&limited.gateway, &limited.key).await["tokens per minute"].0));
    for (name, tokens, status) in
        [("max_tokens", 2_000, 429), ("max_completion_tokens", 2_000, 429), ("max_tokens", 100, 200)]
    {
        let mut body = chat("hi");
        body[name] = tokens.into();
        assert_eq!(post(&limited.client, CHAT, body).await.status, status);
    }
}

#[tokio::test]
async fn another_account_takes_over_before_the_first_byte() {
    let (one, two) = (simulator().await, simulator().await);
    let gateway = over(&[&one, &two], "").await;
    for (path, body) in requests() {
        let is_stream = body["stream"] == true;
        let mut scripts =
            vec![Script::http(500, "{}"), Script::http(200, "<html>"), Script::new().drop_connection()];
        if is_stream {
            scripts.extend(ERRORS.map(Script::stream_bytes));
            scripts.push(Script::stream_bytes(""));
        }
        for script in scripts {
            one.script(script);
            let before = two.counts().requests;
            assert_eq!(post(&gateway.client, path, &body).await.status, 200);
            assert_eq!(two.counts().requests, before + 1);
            // So that its failures do not add up.
            assert_eq!(post(&gateway.client, path, &body).await.status, 200);
        }
    }
    one.script(Script::refusal(400, "invalid_value", "No."));
    assert_eq!(post(&gateway.client, CHAT, chat("hi")).await.refusal().1.as_deref(), Some("invalid_value"));
    one.script(Script::refusal(429, "rate_limit_exceeded", "No.").header("retry-after", "600"));
    post(&gateway.client, CHAT, chat("hi")).await.ok();
    assert_eq!(gateway.account_state("one").await, "cooling");
}

#[tokio::test]
async fn an_account_without_the_endpoint_is_remembered_for_a_while() {
    let lacking = [without_endpoints().await, without_endpoints().await, without_endpoints().await];
    let last = simulator().await;
    let clock = Arc::new(ManualClock::default());
    let urls = [lacking[0].url(), lacking[1].url(), lacking[2].url(), last.url()];
    let setup = Setup::with_accounts(["a", "b", "c", "d"].into_iter().zip(urls.iter().map(String::as_str)));
    let gateway = setup.config("routing.strategy = \"fill_first\"").clock(&clock).start().await;
    let posts = |upstream: &Simulator| {
        upstream.other_requests().iter().filter(|request| request.method == Method::POST).count()
    };
    let asked = || -> Vec<usize> { lacking.iter().map(posts).collect() };
    let first = asked();
    // More accounts lack it than a turn has attempts.
    post(&gateway.client, CHAT, chat("hi")).await.ok();
    let once = asked();
    assert!(once.iter().zip(&first).all(|(after, before)| after > before), "{first:?} {once:?}");
    post(&gateway.client, CHAT, streamed("hi")).await;
    assert_eq!((asked(), last.counts().requests), (once.clone(), 2));
    // Another endpoint, another model and responses are not affected.
    post(&gateway.client, EMBEDDINGS, embed("hi")).await.ok();
    gateway.client.created(json!({"model": "sim", "input": "hi"})).await;
    assert_eq!((lacking[0].counts().requests, last.counts().requests), (1, 3));
    assert_eq!(gateway.account_state("a").await, "ready");
    let before = asked();
    clock.advance(Duration::from_secs(301));
    post(&gateway.client, CHAT, chat("hi")).await.ok();
    assert!(asked().iter().zip(&before).all(|(after, before)| after > before));
}

#[tokio::test]
async fn a_405_or_501_says_that_the_endpoint_is_missing() {
    let refused = r#"{"error":{"code":501,"message":"This server does not support embeddings.","type":"not_supported_error"}}"#;
    for (status, refusal) in [(405, r#"{"detail":"Method Not Allowed"}"#), (501, refused), (501, "")] {
        for (path, body) in requests() {
            let (one, two) = (simulator().await, simulator().await);
            let gateway = over(&[&one, &two], "").await;
            one.script(Script::http(status, refusal));
            for served in 1..3 {
                post(&gateway.client, path, &body).await;
                assert_eq!((one.counts().requests, two.counts().requests), (1, served), "{status} {refusal}");
            }
            two.script(Script::http(status, refusal));
            let reply = post(&gateway.client, path, &body).await;
            assert_eq!(reply.refusal(), (404, Some("endpoint_not_available".into()), None), "{refusal}");
            gateway.client.created(json!({"model": "sim", "input": "hi"})).await;
            assert_eq!(one.counts().requests, 2, "it has other endpoints");
        }
    }
}

#[tokio::test]
async fn if_no_account_has_the_endpoint_the_error_says_so() {
    let lacking = without_endpoints().await;
    let gateway = over(&[&lacking], "").await;
    for (path, body) in requests() {
        for _ in 0..2 {
            let reply = post(&gateway.client, path, &body).await;
            assert_eq!(reply.refusal(), (404, Some("endpoint_not_available".into()), None));
            let path = path.trim_start_matches("/v1");
            assert_eq!(
                reply.json()["error"]["message"],
                format!("No upstream account has '{path}' for the model 'sim'.")
            );
        }
    }
    // What the account that has it says tells the client more.
    let failing = simulator().await;
    failing.always(Script::refusal(500, "server_error", "broken"));
    let gateway = over(&[&failing, &lacking], "").await;
    assert_eq!(post(&gateway.client, CHAT, chat("hi")).await.refusal().1.as_deref(), Some("server_error"));
}

#[tokio::test]
async fn a_client_that_leaves_closes_the_upstream_at_once() {
    let (upstream, gateway) = gateway().await;
    upstream.script(Script::answer("a b c d").hang_after(2));
    let mut events = gateway.client.stream_from(CHAT, streamed("hi")).await;
    events.next().await.unwrap();
    drop(events);
    upstream.wait_until(|upstream| upstream.aborted() == 1).await;
    for (path, body) in [(CHAT, chat("hi")), (EMBEDDINGS, embed("hi"))] {
        let (script, _gate) = Script::answer("never").gated();
        upstream.script(script);
        let client = gateway.client.clone();
        let asking = tokio::spawn(async move { post(&client, path, &body).await });
        upstream.wait_until(|upstream| upstream.in_flight() == 1).await;
        asking.abort();
        upstream.wait_until(|upstream| upstream.in_flight() == 0).await;
    }
    assert_eq!(upstream.aborted(), 3);
    gateway.idle().await;
    let rows = gateway.logged(3).await;
    assert!(rows.iter().all(|row| row.outcome == "cancelled"), "{rows:#?}");
}

#[tokio::test]
async fn a_stream_that_breaks_off_ends_with_an_error_that_clients_of_the_api_read() {
    let (upstream, gateway) = gateway().await;
    for script in [Script::answer("a b c d").cut_after(2), Script::answer("a b c d").cut_inside(2)] {
        upstream.script(script);
        let mut events = gateway.client.stream_from(CHAT, streamed("hi")).await;
        let events = events.rest().await;
        let last = events.last().unwrap().json();
        assert_eq!((events.len(), &last["error"]["code"]), (3, &json!("server_error")), "{last}");
        assert_eq!(last["error"].as_object().unwrap().len(), 4);
    }
    // The upstream's own error is not followed by another.
    upstream.script(Script::answer("a b").error_event("server_error", "own").no_terminal());
    let events = gateway.client.stream_from(CHAT, streamed("hi")).await.rest().await;
    assert_eq!(events.last().unwrap().json()["error"]["message"], "own");
    assert_eq!(events.iter().filter(|event| event.json().get("error").is_some()).count(), 1);
    let rows = gateway.logged(3).await;
    assert!(rows.iter().all(|row| row.outcome == "failed"), "{rows:#?}");
}

#[tokio::test]
async fn a_stream_that_ends_with_an_error_passes_and_is_logged_as_failed() {
    let (upstream, gateway) = gateway().await;
    for error in ERRORS {
        let text = format!(
            "data: {{\"choices\":[{{\"delta\":{{\"content\":\"a\"}},\"error\":\"\"}}],\"error\":\"\"}}\n\n{error}"
        );
        upstream.script(Script::stream_bytes(text.clone()));
        let got = post(&gateway.client, CHAT, streamed("hi")).await;
        assert_eq!(String::from_utf8_lossy(&got.body), text);
        // So that the account's failures do not add up.
        post(&gateway.client, CHAT, streamed("hi")).await;
    }
    let rows = gateway.logged(2 * ERRORS.len()).await;
    let failed: Vec<_> = rows.iter().filter(|row| row.outcome == "failed").collect();
    assert_eq!(failed.len(), ERRORS.len(), "{rows:#?}");
    assert!(failed.iter().all(|row| row.code.as_deref() == Some("server_error")), "{failed:#?}");
}

#[tokio::test]
async fn a_stream_without_its_mark_is_complete_if_it_says_why_it_ends() {
    let (upstream, gateway) = gateway().await;
    let ended = r#"data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
    for text in [
        format!("{ended}\n\n"),
        "data: {\"a\":1}\n\ndata: [DONE]".to_owned(),
        format!("data: {{\"a\":1}}\r\n\r\n{ended}"),
        format!("{ended}\n\ndata: {{\"b\":2}}"),
    ] {
        upstream.script(Script::stream_bytes(text.clone()));
        let got = post(&gateway.client, CHAT, streamed("hi")).await;
        // The last event is complete for the client, too.
        assert_eq!(String::from_utf8_lossy(&got.body).trim_end(), text.trim_end());
    }
    assert!(gateway.logged(4).await.iter().all(|row| row.outcome == "completed"));
}

#[tokio::test]
async fn a_stream_whose_body_ends_before_its_answer_does_has_broken_off() {
    let (upstream, gateway) = gateway().await;
    let first =
        r#"data: {"choices":[{"index":0,"delta":{"content":"The answer is "},"finish_reason":null}]}"#;
    for rest in ["", "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"4"] {
        upstream.script(Script::stream_bytes(format!("{first}\n\n{rest}")));
        let events = gateway.client.stream_from(CHAT, streamed("hi")).await.rest().await;
        assert_eq!(events.len(), 2, "{rest}");
        assert_eq!(events[1].json()["error"]["code"], "server_error");
    }
    assert!(gateway.logged(2).await.iter().all(|row| row.outcome == "failed"));
}

#[tokio::test]
async fn events_wait_for_a_client_that_does_not_read() {
    let (upstream, gateway) = gateway().await;
    let event = format!("data: {{\"x\":\"{}\"}}\n\n", "y".repeat(60_000));
    upstream.script(Script::stream_bytes(event.repeat(400) + "data: [DONE]\n\n").writes_of(16_000));
    let mut events = gateway.client.stream_from(CHAT, streamed("hi")).await;
    events.next().await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(upstream.in_flight(), 1, "24 MB were read for a client that does not read");
    assert_eq!(events.rest().await.len(), 400);
    gateway.idle().await;
}

#[tokio::test]
async fn nothing_is_stored_and_no_store_is_needed() {
    let upstream = simulator().await;
    let faults = Faults::default();
    let gateway = Setup::over(&upstream).faults(&faults).start().await;
    faults.set(Fault::Down);
    for (path, body) in requests() {
        let mut body = body;
        if path == CHAT {
            body["store"] = true.into();
        }
        let reply = post(&gateway.client, path, &body).await;
        assert_eq!(reply.status, 200);
        assert_eq!(upstream.last_request().unwrap().json(), body);
    }
}

#[tokio::test]
async fn bodies_replies_and_waits_are_bounded() {
    let upstream = simulator().await;
    let config = "limits.max_body = \"100KiB\"\ntimeouts.first_byte = \"2s\"\ntimeouts.idle = \"2s\"";
    let gateway = over(&[&upstream], config).await;
    for path in [CHAT, EMBEDDINGS] {
        for (size, status) in [(90_000, 200), (200_000, 413)] {
            let text = "x".repeat(size);
            let body = if path == CHAT { chat(&text) } else { embed(&text) }.to_string();
            let compressed = zstd::encode_all(body.as_bytes(), 1).unwrap();
            let headers = [header("content-encoding", "zstd")];
            assert_eq!(gateway.client.request(Method::POST, path, &headers, compressed).await.status, status);
        }
    }
    for (path, body) in requests() {
        upstream.script(Script::answer("x").hang());
        assert_eq!(post(&gateway.client, path, &body).await.refusal().1.as_deref(), Some("upstream_timeout"));
        let large = format!("{{\"x\":\"{}\"}}", "y".repeat(200_000));
        upstream.script(match body["stream"] == true {
            true => Script::stream_bytes(format!("data: {large}\n\n")),
            false => Script::http(200, large),
        });
        let refusal = post(&gateway.client, path, &body).await.refusal();
        assert_eq!(refusal.1.as_deref(), Some("upstream_failed"));
    }
    upstream.script(Script::answer("a b c").hang_after(2));
    let events = gateway.client.stream_from(CHAT, streamed("hi")).await.rest().await;
    assert_eq!(events.last().unwrap().json()["error"]["code"], "server_error");
}
