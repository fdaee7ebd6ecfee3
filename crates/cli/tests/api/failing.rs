//! "When something breaks": what the client sees, and what the store keeps.

use std::time::Duration;

use antiphon_simulator::upstream::Script;
use antiphon_testkit::{Event, Fault, Faults, Gateway, Setup, eventually};
use serde_json::{Value, json};

use crate::background::queue;
use crate::{gateway, simulator};

/// The events of a stream that is cut off, and the stored response, if there is one.
async fn broken(gateway: &Gateway, input: &str) -> (Vec<Event>, Option<Value>) {
    let mut events = gateway.client.stream(json!({"model": "sim", "input": input, "stream": true})).await;
    assert_eq!(events.status, 200);
    let events = events.rest().await;
    let id = events[0].json()["response"]["id"].as_str().unwrap().to_owned();
    let stored = gateway.client.get(&format!("/v1/responses/{id}")).await;
    (events, (stored.status == 200).then(|| stored.json()))
}

fn assert_ends_in_error(events: &[Event], code: &str) {
    let [.., error, failed] = events else { panic!("too few events") };
    let (error, failed) = (error.json(), failed.json());
    assert_eq!((error["type"].as_str(), error["code"].as_str()), (Some("error"), Some(code)));
    assert!(error.get("param").is_some() && error["message"].is_string());
    assert_eq!(failed["type"], "response.failed");
    assert_eq!(failed["response"]["status"], "failed");
    assert_eq!(failed["response"]["error"]["code"], code);
    for (n, event) in events.iter().enumerate() {
        assert_eq!(event.json()["sequence_number"], n, "{}", event.name);
    }
}

#[tokio::test]
async fn a_cut_off_stream_ends_with_an_error_and_is_stored_as_failed() {
    let scripts = |n| {
        [
            Script::answer("a b c d").cut_after(n),
            Script::answer("a b c d").cut_inside(n),
            Script::answer("a b c d").end_after(n),
        ]
    };
    for n in 1..8 {
        for script in scripts(n) {
            let (upstream, gateway) = gateway().await;
            upstream.script(script.clone());
            let (events, stored) = broken(&gateway, "question").await;
            assert_ends_in_error(&events, "server_error");
            let stored = stored.unwrap_or_else(|| panic!("{script:?} was not stored"));
            assert_eq!(stored["status"], "failed");
            assert_eq!(stored, events.last().unwrap().json()["response"]);
            gateway.idle().await;
        }
    }
}

#[tokio::test]
async fn finished_items_of_a_cut_off_stream_are_stored_and_can_be_continued() {
    let (upstream, gateway) = gateway().await;
    upstream.script(Script::new().reasoning("Thinking.").text("a b c d").cut_after(12));
    let (events, stored) = broken(&gateway, "question").await;
    let done: Vec<_> = events
        .iter()
        .filter(|event| event.name == "response.output_item.done")
        .map(|event| event.json()["item"].clone())
        .collect();
    assert_eq!(done.len(), 1, "the script should end between the two items");
    let stored = stored.unwrap();
    assert_eq!(stored["output"], json!(done));
    gateway
        .client
        .created(json!({"model": "sim", "input": "on", "previous_response_id": stored["id"]}))
        .await;
    let input = upstream.last_request().unwrap().json()["input"].clone();
    assert_eq!(
        (&input[0]["content"][0]["text"], &input[1]["type"]),
        (&json!("question"), &json!("reasoning"))
    );
}

#[tokio::test]
async fn an_upstream_error_event_is_relayed_and_followed_by_response_failed() {
    let (upstream, gateway) = gateway().await;
    upstream.script(Script::answer("a b").error_event("rate_limit_exceeded", "Slow down."));
    let (events, stored) = broken(&gateway, "question").await;
    let errors = events.iter().filter(|event| event.name == "error").count();
    assert_eq!((errors, events.last().unwrap().name.as_str()), (1, "response.failed"));
    assert_eq!(stored.unwrap()["error"]["code"], "rate_limit_exceeded");
}

#[tokio::test]
async fn a_silent_upstream_times_out() {
    let upstream = simulator().await;
    let limits = "timeouts.idle = \"3s\"\ntimeouts.first_byte = \"3s\"";
    let gateway = Setup::over(&upstream).config(limits).start().await;
    upstream.script(Script::answer("a b c").hang_after(4));
    let (events, stored) = broken(&gateway, "question").await;
    assert_ends_in_error(&events, "server_error");
    assert_eq!(stored.unwrap()["status"], "failed");

    for stream in [false, true] {
        upstream.script(Script::answer("late").delay_headers(Duration::from_secs(300)));
        let reply = gateway.client.create(json!({"model": "sim", "input": "x", "stream": stream})).await;
        assert_eq!((reply.refusal().0, reply.refusal().1.as_deref()), (504, Some("upstream_timeout")));
    }
    upstream.script(Script::answer("late").delay_first_event(Duration::from_secs(300)));
    let reply = gateway.client.create(json!({"model": "sim", "input": "x", "stream": true})).await;
    assert_eq!(reply.refusal().1.as_deref(), Some("upstream_timeout"));
    gateway.idle().await;
}

#[tokio::test]
async fn an_upstream_with_invalid_replies_yields_502() {
    let (upstream, gateway) = gateway().await;
    let scripts = [
        (Script::http(200, "<html>").content_type("text/html"), false),
        (Script::http(200, "[1]"), false),
        (Script::http(200, "{\"id\":"), false),
        (Script::http(200, r#"{"error":{"message":"no","code":"server_error"}}"#), false),
        (Script::http(200, "{}"), true),
        (Script::http(502, "<html>bad gateway</html>"), false),
        (Script::answer("x").end_after(0), true),
        (Script::answer("x").cut_after(0), true),
    ];
    for (script, stream) in scripts {
        upstream.script(script.clone());
        let reply = gateway.client.create(json!({"model": "sim", "input": "x", "stream": stream})).await;
        assert_eq!(
            (reply.refusal().0, reply.refusal().1.as_deref()),
            (502, Some("upstream_failed")),
            "{script:?}"
        );
    }
    upstream.always(Script::answer("x").drop_connection());
    let reply = gateway.client.create(json!({"model": "sim", "input": "x"})).await;
    assert_eq!(reply.refusal().1.as_deref(), Some("upstream_failed"));
    upstream.shutdown().await;
    let reply = gateway.client.create(json!({"model": "sim", "input": "x"})).await;
    let (status, code, _) = reply.refusal();
    assert_eq!((status, code.as_deref()), (502, Some("upstream_unreachable")));
    assert!(!reply.json().to_string().contains("127.0.0.1"), "an address leaked: {}", reply.json());
}

#[tokio::test]
async fn without_the_store_turns_that_need_it_are_rejected_before_the_upstream() {
    let upstream = simulator().await;
    let faults = Faults::default();
    let gateway = Setup::over(&upstream).faults(&faults).start().await;
    let first = gateway.client.created(json!({"model": "sim", "input": "one"})).await;
    faults.set(Fault::Down);
    let before = upstream.counts().requests;
    for stream in [false, true] {
        let reply = gateway.client.create(json!({"model": "sim", "input": "x", "stream": stream})).await;
        assert_eq!((reply.refusal().0, reply.refusal().1.as_deref()), (503, Some("store_unavailable")));
        assert!(reply.header("retry-after").is_some());
    }
    assert_eq!(upstream.counts().requests, before);
    let path = format!("/v1/responses/{}", first["id"].as_str().unwrap());
    assert_eq!(gateway.client.get(&path).await.refusal().1.as_deref(), Some("store_unavailable"));
    assert_eq!(gateway.client.get("/readyz").await.status, 503);
    gateway.client.created(json!({"model": "sim", "input": "x", "store": false})).await;
    faults.set(Fault::None);
    assert_eq!(gateway.client.get("/readyz").await.status, 200);
    gateway.client.created(json!({"model": "sim", "input": "x", "previous_response_id": first["id"]})).await;
}

#[tokio::test]
async fn a_commit_that_fails_is_never_acknowledged() {
    let upstream = simulator().await;
    let faults = Faults::default();
    let gateway = Setup::over(&upstream).faults(&faults).start().await;
    faults.set(Fault::WritesFail);
    let reply = gateway.client.create(json!({"model": "sim", "input": "x"})).await;
    assert_eq!((reply.refusal().0, reply.refusal().1.as_deref()), (503, Some("store_unavailable")));
    let (events, stored) = broken(&gateway, "x").await;
    assert_ends_in_error(&events, "store_unavailable");
    assert!(events.iter().all(|event| event.name != "response.completed") && stored.is_none());
    gateway.idle().await;
}

#[tokio::test]
async fn a_rate_limit_or_an_empty_quota_of_an_account_is_the_fault_of_the_upstream() {
    for (status, code, fault) in [
        (429, "rate_limit_exceeded", "upstream"),
        (429, "insufficient_quota", "upstream"),
        (402, "insufficient_balance", "upstream"),
        (400, "invalid_value", "client"),
    ] {
        let (upstream, gateway) = gateway().await;
        upstream.script(Script::refusal(status, code, "No.").header("retry-after", "60"));
        assert_eq!(gateway.client.create(json!({"model": "sim", "input": "x"})).await.status, status);
        let is_failure = |line: &&str| line.starts_with("antiphon_failures_total{");
        let failures = async || {
            let metrics = gateway.client.metrics().await;
            metrics.lines().filter(is_failure).map(str::to_owned).collect::<Vec<_>>()
        };
        eventually("the failure is counted", async || !failures().await.is_empty()).await;
        let counted = failures().await;
        let label = format!("{{fault=\"{fault}\",");
        assert!(counted.len() == 1 && counted[0].contains(&label), "{status} {code}: {counted:?}");
    }
}

#[tokio::test]
async fn a_response_that_the_upstream_fails_has_its_code_and_fault_in_the_request_log_and_the_metrics() {
    // The metrics know few codes by name.
    let cases = [("server_error", "upstream", "server_error"), ("invalid_prompt", "client", "other")];
    for (code, fault, label) in cases {
        for door in ["json", "sse", "socket", "background"] {
            let (upstream, gateway) = gateway().await;
            upstream.script(Script::answer("a b").failed(code, "No."));
            let body = json!({"model": "sim", "input": "x"});
            match door {
                "json" => drop(gateway.client.created(body).await),
                "sse" => {
                    let streamed = json!({"model": "sim", "input": "x", "stream": true});
                    gateway.client.stream(streamed).await.until("response.failed").await;
                }
                "socket" => gateway.socket().await.create(body).await,
                _ => drop(queue(&gateway, &json!({"model": "sim", "input": "x", "background": true})).await),
            }
            let rows = gateway.logged(1).await;
            let logged = (&*rows[0].outcome, rows[0].http_status, rows[0].code.as_deref());
            assert_eq!(logged, ("failed", 200, Some(code)), "{door}");
            let metric = format!("antiphon_failures_total{{fault=\"{fault}\",code=\"{label}\"");
            let counted = async || gateway.client.metrics().await.contains(&metric);
            eventually("the failure is counted", counted).await;
        }
    }
}
