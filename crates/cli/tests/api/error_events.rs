//! Failures that an upstream tells in a stream or in a response, instead of with a status.

use antiphon_simulator::upstream::Script;
use antiphon_testkit::Setup;
use serde_json::json;

use crate::failover::{error_event, plain, pool};
use crate::simulator;

#[tokio::test]
async fn a_stream_that_begins_with_a_failure_moves_however_its_bytes_arrive() {
    let error = error_event("rate_limit_exceeded");
    let response = json!({"id": "resp_1", "object": "response", "status": "failed", "output": [],
        "error": {"code": "rate_limit_exceeded", "message": "m"}});
    let failed = json!({"type": "response.failed", "sequence_number": 1, "response": response});
    let failed = format!("event: response.failed\ndata: {failed}\n\n");
    let limits = "event: codex.rate_limits\ndata: {\"type\":\"codex.rate_limits\"}\n\n";
    for stream in [
        format!("{error}{failed}"),
        format!("{error}data: [DONE]\n\n"),
        format!("{limits}{error}"),
        format!(": hi\n\n{limits}{failed}data: [DONE]\n\n"),
    ] {
        for size_bytes in [7, stream.len()] {
            let pool = pool(2).await;
            pool.upstreams[0].script(Script::stream_bytes(stream.clone()).writes_of(size_bytes));
            let mut events =
                pool.gateway.client.stream(json!({"model": "sim", "input": "x", "stream": true})).await;
            assert_eq!(events.next().await.unwrap().name, "response.created", "{stream}");
            events.until("response.completed").await;
            assert_eq!((pool.counts(), pool.state(0).await), (vec![1, 1], "cooling"), "{stream}");
        }
    }
}

#[tokio::test]
async fn events_before_those_of_the_response_reach_the_client_with_them() {
    let pool = pool(1).await;
    let limits = "event: codex.rate_limits\ndata: {\"type\":\"codex.rate_limits\"}\n\n";
    pool.upstreams[0].script(Script::answer("a").inject(0, limits.repeat(20)));
    let mut events = pool.gateway.client.stream(json!({"model": "sim", "input": "x", "stream": true})).await;
    let events = events.rest().await;
    assert!(events[..20].iter().all(|event| event.name == "codex.rate_limits"));
    assert_eq!(
        (&*events[20].name, &*events.last().unwrap().name),
        ("response.created", "response.completed")
    );
}

#[tokio::test]
async fn a_failed_response_is_the_clients_if_no_other_account_is_left() {
    let pool = pool(2).await;
    for upstream in &pool.upstreams {
        upstream.script(Script::answer("a b").failed("server_error", "m"));
    }
    let response = pool.gateway.client.created(plain()).await;
    let told = (&response["status"], &response["error"]["code"]);
    assert_eq!(told, (&json!("failed"), &json!("server_error")));
    assert_eq!(pool.counts(), [1, 1]);
    let path = format!("/v1/responses/{}", response["id"].as_str().unwrap());
    assert_eq!(pool.gateway.client.get(&path).await.ok(), response);
}

#[tokio::test]
async fn a_response_that_fails_everywhere_counts_against_the_first_account_only() {
    let pool = pool(2).await;
    for upstream in &pool.upstreams {
        upstream.always(Script::answer("a b").failed("server_error", "m"));
    }
    for _ in 0..3 {
        pool.ask().await.ok();
    }
    assert_eq!((pool.counts(), pool.state(0).await, pool.state(1).await), (vec![3, 3], "cooling", "ready"));
}

#[tokio::test]
async fn a_limit_that_a_collected_response_tells_is_an_error_reply_if_no_account_is_left() {
    for (code, kind) in
        [("rate_limit_exceeded", "rate_limit_error"), ("insufficient_quota", "insufficient_quota")]
    {
        let pool = pool(2).await;
        for upstream in &pool.upstreams {
            upstream.script(Script::answer("a b").failed(code, "m"));
        }
        let reply = pool.ask().await;
        let error = &reply.json()["error"];
        assert_eq!(
            (reply.status.as_u16(), &error["code"], &error["type"]),
            (429, &json!(code), &json!(kind))
        );
        assert!(reply.headers.contains_key("retry-after"));
        assert_eq!(pool.counts(), [1, 1]);
    }
}

#[tokio::test]
async fn a_short_rate_limit_that_a_stream_tells_is_waited_for() {
    for transport in ["http", "websocket"] {
        for script in [
            Script::answer("a b").failed("rate_limit_exceeded", "m"),
            Script::answer("").error_event("rate_limit_exceeded", "m").failed("", ""),
        ] {
            let upstream = simulator().await;
            let settings = format!("transport = \"{transport}\"\nstream_only = true");
            let gateway = Setup::over(&upstream).account(0, &settings).start().await;
            upstream.script(script);
            let response = gateway.client.created(plain()).await;
            assert_eq!((&response["status"], upstream.counts().requests), (&json!("completed"), 2));
        }
    }
}

#[tokio::test]
async fn an_error_event_in_a_stream_counts_as_its_code_says() {
    for (code, state) in
        [("invalid_prompt", "ready"), ("server_error", "cooling"), ("rate_limit_exceeded", "cooling")]
    {
        let pool = pool(2).await;
        pool.upstreams[0].always(Script::new().text("a b").error_event(code, "m"));
        for _ in 0..3 {
            let body = json!({"model": "sim", "input": "x", "stream": true});
            let last = pool.gateway.client.stream(body).await.rest().await.pop().unwrap();
            if last.name == "response.failed" {
                assert_eq!(last.json()["response"]["error"]["code"], code);
            }
        }
        assert_eq!((pool.state(0).await, pool.state(1).await), (state, "ready"), "{code}");
    }
}
