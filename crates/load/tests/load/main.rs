//! Tests of the load generator against a scripted server, the simulator, and over sockets.

#![cfg(test)]

mod server;
mod simulator;
mod socket;

use antiphon_load::{Amount, LoadOptions, Mode, run, run_by_turn};
use server::{Reply, Server};
use std::time::Duration;

const COMPLETED: &str =
    "event: response.created\ndata: {}\n\nevent: response.completed\ndata: {\"response\":{}}\n\n";

fn options(server: &Server, mode: Mode, requests: u64) -> LoadOptions {
    LoadOptions {
        url: server.url.clone(),
        mode,
        concurrency: 1,
        amount: Amount::Requests(requests),
        ..LoadOptions::default()
    }
}

fn response(number: u64) -> Reply {
    Reply::ok(format!(r#"{{"object":"response","id":"resp_{number}","output":[]}}"#))
}

#[tokio::test]
async fn a_request_follows_the_options() {
    let server = Server::start(response).await;
    let load = LoadOptions {
        store: Some(true),
        input_chars: 7,
        model: String::from("a \"model\""),
        api_key: Some(String::from("sk-1")),
        ..options(&server, Mode::Json, 1)
    };
    assert_eq!(run(load).await.unwrap().failed(), 0);
    let seen = server.seen();
    assert_eq!(seen[0].path, "/v1/responses");
    assert_eq!(seen[0].headers["authorization"], "Bearer sk-1");
    assert_eq!(seen[0].body["model"], "a \"model\"");
    assert_eq!(seen[0].body["store"], true);
    assert_eq!(seen[0].body["stream"], false);
    assert_eq!(seen[0].body["input"].as_str().unwrap().len(), 7);
}

#[tokio::test]
async fn each_worker_keeps_one_connection() {
    let server = Server::start(response).await;
    let load = LoadOptions { concurrency: 3, warmup: 6, ..options(&server, Mode::Json, 30) };
    let report = run(load).await.unwrap();
    assert_eq!((report.requests, report.failed(), report.concurrency), (30, 0, 3));
    assert_eq!(server.seen().len(), 36);
    assert!(server.connections() <= 3, "{}", server.connections());
}

#[tokio::test]
async fn a_stream_is_read_to_its_end_and_timed_twice() {
    let server = Server::start(|_| Reply::ok(COMPLETED)).await;
    let report = run(options(&server, Mode::Sse, 5)).await.unwrap();
    assert_eq!((report.requests, report.failed()), (5, 0));
    assert_eq!(report.bytes, 5 * COMPLETED.len() as u64);
    assert!(report.first_event.unwrap().min_us <= report.latency.min_us);
    assert!(server.seen().iter().all(|seen| seen.body["stream"] == true));
}

#[tokio::test]
async fn a_terminal_event_may_be_the_first_line() {
    let server = Server::start(|_| Reply::ok("event: response.completed\ndata: {}\n\n")).await;
    assert_eq!(run(options(&server, Mode::Sse, 2)).await.unwrap().failed(), 0);
}

#[tokio::test]
async fn text_that_names_the_terminal_event_is_not_one() {
    let talk = |_| {
        Reply::ok("event: response.output_text.delta\ndata: {\"delta\":\"\\nevent: response.completed\"}\n\n")
    };
    let server = Server::start(talk).await;
    let report = run(options(&server, Mode::Sse, 2)).await.unwrap();
    assert_eq!(report.errors.get("no_terminal"), Some(&2), "{:?}", report.errors);
}

#[tokio::test]
async fn a_chain_continues_by_id_and_a_new_one_starts_after_its_turns() {
    let server = Server::start(response).await;
    let load = LoadOptions { turns: 3, ..options(&server, Mode::Json, 5) };
    assert_eq!(run(load).await.unwrap().failed(), 0);
    let parents: Vec<_> = server
        .seen()
        .iter()
        .map(|seen| seen.body["previous_response_id"].as_str().map(String::from))
        .collect();
    let parents: Vec<_> = parents.iter().map(Option::as_deref).collect();
    assert_eq!(parents, [None, Some("resp_1"), Some("resp_2"), None, Some("resp_4")]);
}

#[tokio::test]
async fn a_chain_without_an_id_cannot_continue() {
    let server = Server::start(|_| Reply::ok(r#"{"id":"msg_1"}"#)).await;
    let load = LoadOptions { turns: 3, ..options(&server, Mode::Json, 3) };
    let report = run_by_turn(load, &[1]).await.unwrap();
    assert_eq!(report.errors.get("no_id"), Some(&3));
    assert!(report.turns.is_empty());
    assert!(server.seen().iter().all(|seen| seen.body.get("previous_response_id").is_none()));
}

#[tokio::test]
async fn requested_turns_are_timed_separately() {
    let slow_second = |number| Reply {
        delay: Duration::from_millis(if number % 3 == 2 { 1_000 } else { 0 }),
        ..response(number)
    };
    let server = Server::start(slow_second).await;
    let load = LoadOptions { turns: 3, ..options(&server, Mode::Json, 6) };
    let report = run_by_turn(load, &[1, 2, 1000]).await.unwrap();
    assert_eq!(report.turns.keys().copied().collect::<Vec<_>>(), [1, 2]);
    assert!(report.turns[&2] >= 1_000_000.0, "{:?}", report.turns);
    assert!(report.turns[&1] < report.turns[&2], "{:?}", report.turns);
    assert!(report.to_string().contains("turn 2 "));
    assert!(serde_json::to_value(&report).unwrap()["turns"]["2"].is_number());
}

#[tokio::test]
async fn turns_are_reported_only_for_chains_and_only_on_request() {
    let server = Server::start(response).await;
    assert!(run_by_turn(options(&server, Mode::Json, 3), &[1]).await.unwrap().turns.is_empty());
    let chain = LoadOptions { turns: 3, ..options(&server, Mode::Json, 3) };
    assert!(run(chain).await.unwrap().turns.is_empty());
}

#[tokio::test]
async fn error_replies_are_counted_by_status_and_leave_the_connection_open() {
    let mixed = |number| Reply { status: [200, 429, 500][number as usize % 3], ..response(number) };
    let server = Server::start(mixed).await;
    let report = run(options(&server, Mode::Json, 9)).await.unwrap();
    assert_eq!(report.errors.get("http_429"), Some(&3));
    assert_eq!(report.errors.get("http_500"), Some(&3));
    assert_eq!((report.requests, report.failed()), (9, 6));
    assert_eq!(server.connections(), 1);
}
