//! Every feature of a script.

use crate::support::{Reply, ask, ask_stream, open, post, read, scripted, simulator, soon};
use antiphon_simulator::upstream::{Options, Script};
use serde_json::json;
use std::time::{Duration, Instant};

async fn streamed(script: Script) -> Reply {
    post(&scripted(script).await, &ask_stream("hello")).await
}

async fn collected(script: Script) -> Reply {
    post(&scripted(script).await, &ask("hello")).await
}

#[tokio::test]
async fn queued_scripts_are_used_in_order_before_the_default() {
    let simulator = simulator(Options { answer: String::from("none"), ..Options::default() }).await;
    simulator.script(Script::answer("one")).script(Script::answer("two"));
    let mut texts = Vec::new();
    for _ in 0..3 {
        texts.push(post(&simulator, &ask("hello")).await.output_text());
    }
    simulator.always(Script::answer("always"));
    texts.push(post(&simulator, &ask("hello")).await.output_text());
    assert_eq!(texts, ["one", "two", "none", "always"]);
}

#[tokio::test]
async fn a_text_is_split_into_the_scripted_number_of_deltas() {
    let reply = streamed(Script::answer("abcdefghij").deltas(5)).await;
    let deltas = reply.events().into_iter().filter(|(kind, _)| kind == "response.output_text.delta");
    let texts: Vec<String> = deltas.map(|(_, data)| data["delta"].as_str().unwrap().to_owned()).collect();
    assert_eq!(texts, ["ab", "cd", "ef", "gh", "ij"]);
}

#[tokio::test]
async fn raw_items_keep_every_byte() {
    let raw =
        r#"{"type":"odd", "n":12345678901234567890.1234567890123, "s":"\u00e9\ud83d\ude00", "id":"odd_1"}"#;
    let script = Script::answer("x").item(raw);
    assert!(collected(script.clone()).await.text().contains(raw));
    let stream = streamed(script).await;
    assert_eq!(stream.text().matches(raw).count(), 3);
    assert_eq!(stream.last_event()["response"]["output"][1]["id"], "odd_1");
}

#[tokio::test]
async fn calls_can_have_chosen_ids() {
    let reply = collected(Script::new().tool_call_as("call_a", "f", "{}").tool_call("g", "{}")).await.json();
    assert_eq!(reply["output"][0]["call_id"], "call_a");
    assert_eq!(reply["output"][1]["name"], "g");
}

#[tokio::test]
async fn injected_bytes_are_sent_at_their_position() {
    let script =
        Script::answer("x").inject(0, ": hello\n\n").inject(2, "event: odd\r\ndata: {\"a\":1}\r\n\r\n");
    let reply = streamed(script.inject(99, "data: [DONE]\n\n")).await;
    assert!(reply.text().starts_with(": hello\n\n"));
    assert!(reply.text().ends_with("data: [DONE]\n\n"));
    assert_eq!(reply.kinds()[..3], ["response.created", "response.in_progress", "odd"]);
}

#[tokio::test]
async fn line_ends_can_be_cr_lf() {
    let reply = streamed(Script::answer("x").crlf()).await;
    assert!(reply.text().replace("\r\n", "").lines().count() == 1);
    assert_eq!(reply.kinds().last().unwrap(), "response.completed");
}

#[tokio::test]
async fn a_stream_can_be_any_bytes() {
    let reply = streamed(Script::stream_bytes("data: broken").content_type("text/plain")).await;
    assert_eq!(reply.text(), "data: broken");
    assert_eq!(reply.headers["content-type"], "text/plain");
}

#[tokio::test]
async fn errors_come_with_their_status_body_and_headers() {
    let reply =
        collected(Script::refusal(429, "rate_limit_exceeded", "Slow down.").header("retry-after", "3")).await;
    reply.assert_refused(429, Some("rate_limit_exceeded"), None, "Slow down.");
    assert_eq!(reply.headers["retry-after"], "3");
    let reply = collected(Script::http(502, "<html>bad gateway</html>").content_type("text/html")).await;
    assert_eq!((reply.status.as_u16(), reply.text().as_str()), (502, "<html>bad gateway</html>"));
    assert_eq!(reply.headers["content-type"], "text/html");
}

#[tokio::test]
async fn headers_can_repeat() {
    let reply = collected(Script::answer("x").header("set-cookie", "a=1").header("set-cookie", "b=2")).await;
    assert_eq!(reply.headers.get_all("set-cookie").iter().count(), 2);
}

#[tokio::test]
async fn a_response_can_fail_or_be_incomplete() {
    let failed = streamed(Script::answer("x").failed("server_error", "Broken.")).await;
    assert_eq!(failed.kinds().last().unwrap(), "response.failed");
    let response = &failed.last_event()["response"];
    assert_eq!(response["status"], "failed");
    assert_eq!(response["error"], json!({"code": "server_error", "message": "Broken."}));
    let incomplete = streamed(Script::answer("x").incomplete("max_output_tokens")).await;
    let response = &incomplete.last_event()["response"];
    assert_eq!(incomplete.kinds().last().unwrap(), "response.incomplete");
    assert_eq!(response["incomplete_details"], json!({"reason": "max_output_tokens"}));
    assert_eq!(response["output"][0]["status"], "incomplete");
    let collected = collected(Script::answer("x").incomplete("max_output_tokens")).await.json();
    assert_eq!((&collected["status"], &collected["completed_at"]), (&json!("incomplete"), &json!(null)));
}

#[tokio::test]
async fn an_error_event_ends_the_stream_unless_a_failure_follows() {
    let reply = streamed(Script::answer("x").error_event("server_error", "Broken.")).await;
    let event = reply.last_event();
    assert_eq!(event["type"], "error");
    assert_eq!((&event["code"], &event["message"]), (&json!("server_error"), &json!("Broken.")));
    assert!(event["sequence_number"].is_number() && event["param"].is_null());
    let script = Script::answer("x").error_event("server_error", "Broken.").failed("server_error", "Broken.");
    let kinds = streamed(script).await.kinds();
    assert_eq!(kinds[kinds.len() - 2..], ["error", "response.failed"]);
}

#[tokio::test]
async fn a_stream_can_end_without_a_terminal_event() {
    let reply = streamed(Script::answer("x").no_terminal()).await;
    assert_eq!(reply.kinds().last().unwrap(), "response.output_item.done");
    assert!(reply.whole);
    let reply = streamed(Script::answer("x").end_after(3)).await;
    assert_eq!((reply.events().len(), reply.whole), (3, true));
}

#[tokio::test]
async fn a_stream_is_cut_after_or_inside_an_event() {
    let after = streamed(Script::answer("x").cut_after(2)).await;
    assert_eq!((after.events().len(), after.whole), (2, false));
    assert!(after.text().ends_with("\n\n"));
    let inside = streamed(Script::answer("x").cut_inside(2)).await;
    assert_eq!((inside.events().len(), inside.whole), (2, false));
    assert!(!inside.text().ends_with("\n\n"));
}

#[tokio::test]
async fn a_collected_reply_is_cut_in_its_middle() {
    let reply = collected(Script::answer("x").cut_after(0)).await;
    assert!(!reply.whole);
    assert!(reply.text().starts_with("{\"id\":\"resp_"));
}

#[tokio::test]
async fn the_connection_can_close_without_an_answer() {
    let simulator = scripted(Script::new().drop_connection()).await;
    assert!(open(&simulator.url(), ask("hello").to_string()).await.is_none());
    assert_eq!(simulator.requests().len(), 1);
    assert_eq!(simulator.aborted(), 0);
}

#[tokio::test]
async fn delays_come_before_headers_and_events() {
    let pause = Duration::from_millis(30);
    let started = Instant::now();
    let script =
        Script::answer("x").deltas(1).delay_headers(pause).delay_first_event(pause).delay_events(pause);
    let simulator = scripted(script).await;
    let response = open(&simulator.url(), ask_stream("hello").to_string()).await.unwrap();
    assert!(started.elapsed() >= pause);
    let reply = read(response).await;
    assert_eq!(reply.events().len(), 9);
    assert!(started.elapsed() >= pause * 10);
}

#[tokio::test]
async fn a_gate_holds_the_headers() {
    let (script, gate) = Script::answer("x").gated();
    let simulator = scripted(script).await;
    let url = simulator.url();
    let asking = tokio::spawn(async move { open(&url, ask("hello").to_string()).await.unwrap() });
    soon(gate.arrived(1)).await;
    assert_eq!(simulator.in_flight(), 1);
    assert!(!asking.is_finished());
    gate.open();
    assert_eq!(read(asking.await.unwrap()).await.output_text(), "x");
    soon(simulator.wait_until(|simulator| simulator.in_flight() == 0)).await;
    assert_eq!(simulator.counts().finished, 1);
}

#[tokio::test]
async fn a_gate_holds_a_stream_in_its_middle() {
    let (script, gate) = Script::answer("x").gated_after(3);
    let simulator = scripted(script).await;
    let response = open(&simulator.url(), ask_stream("hello").to_string()).await.unwrap();
    let reading = tokio::spawn(read(response));
    soon(gate.arrived(1)).await;
    assert!(!reading.is_finished());
    gate.open();
    assert_eq!(reading.await.unwrap().kinds().last().unwrap(), "response.completed");
}

#[tokio::test]
async fn writes_can_be_small_or_one() {
    let small = streamed(Script::answer("x").writes_of(7)).await;
    let one = streamed(Script::answer("x").one_write()).await;
    assert_eq!(small.kinds(), one.kinds());
    assert_eq!(one.pieces.len(), 1);
    assert!(small.pieces.len() > 20);
}

#[tokio::test]
async fn a_hanging_reply_is_aborted_when_its_client_leaves() {
    for script in [Script::new().hang(), Script::answer("x").hang_after(3)] {
        let simulator = scripted(script).await;
        let url = simulator.url();
        let asking =
            tokio::spawn(
                async move { read(open(&url, ask_stream("hello").to_string()).await?).await.into() },
            );
        soon(simulator.wait_until(|simulator| simulator.in_flight() == 1)).await;
        asking.abort();
        let _: Option<Option<Reply>> = asking.await.ok();
        soon(simulator.wait_until(|simulator| simulator.aborted() == 1)).await;
        assert_eq!(simulator.in_flight(), 0);
    }
}

#[tokio::test]
async fn usage_is_estimated_or_scripted() {
    let estimated = collected(Script::answer("x".repeat(400))).await.json()["usage"].clone();
    assert_eq!(estimated["output_tokens"], 101);
    let total = estimated["input_tokens"].as_u64().unwrap() + estimated["output_tokens"].as_u64().unwrap();
    assert_eq!(estimated["total_tokens"], total);
    let scripted = collected(Script::answer("x").usage(5, 7)).await.json()["usage"].clone();
    assert_eq!((&scripted["input_tokens"], &scripted["total_tokens"]), (&json!(5), &json!(12)));
}
