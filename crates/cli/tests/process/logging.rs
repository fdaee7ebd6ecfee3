//! The log of the real binary: its formats, and what happens when nobody reads it.

use antiphon_simulator::upstream::{Options, Script, Simulator};
use antiphon_testkit::{Client, Collector, Process, Setup};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::binary;

const TURNS_A_ROUND: u64 = 800;
/// Far more lines than the pipe and the gateway's own buffers hold.
const MAX_ROUNDS: u64 = 30;

#[tokio::test]
async fn turns_continue_when_nobody_reads_the_log() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let setup = Setup::over(&upstream).config("log.format = \"json\"");
    let gateway = Process::start_unread(binary(), &setup).await;
    let mut rounds = 0;
    while dropped_lines(&gateway.client).await == 0 {
        assert!(rounds < MAX_ROUNDS, "no line was dropped and counted");
        round(&gateway.client).await;
        rounds += 1;
    }
    let before = dropped_lines(&gateway.client).await;
    round(&gateway.client).await;
    assert!(dropped_lines(&gateway.client).await > before + TURNS_A_ROUND / 2);
    let (lines, success) = gateway.terminate().await;
    assert!(success, "it has to end although its log was not read");
    let turns = lines.iter().filter(|line| line.contains("antiphon::turn")).count() as u64;
    assert!(lines.iter().all(|line| line.ends_with('}') || !line.starts_with('{')), "a line was cut");
    assert!(turns > 1000 && turns <= rounds * TURNS_A_ROUND, "{turns} lines in {rounds} rounds");
}

#[tokio::test]
async fn every_line_of_a_json_log_is_json_from_the_start_on() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let setup = Setup::over(&upstream).config("log.format = \"json\"");
    // That it has started is read from a line in JSON, too.
    let gateway = Process::start(binary(), &setup).await;
    gateway.client.created(json!({"model": "sim", "input": "x"})).await;
    let (lines, _) = gateway.terminate().await;
    let parsed: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let hint = "there is no admin token; run `antiphon admin token` to create one";
    assert!(parsed.iter().any(|line| line["message"] == hint), "{lines:?}");
    assert!(lines.iter().all(|line| !line.contains("apn-admin-")), "a token for whoever keeps the log");
    let turn = parsed.iter().find(|line| line["target"] == "antiphon::turn").unwrap();
    for name in ["duration_ms", "first_event_ms"] {
        let number = turn[name].to_string();
        let decimals = number.split_once('.').unwrap().1;
        assert!(decimals.len() <= 3, "{name} = {number}");
    }
    assert!(turn.get("trace.id").is_none());
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_logged_with_its_reason() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let setup = Setup::over(&upstream).config("log.format = \"json\"");
    let gateway = Process::start(binary(), &setup).await;
    let answer = || Script::answer("a b");
    for script in [answer().cut_after(4), answer().end_after(4)] {
        upstream.script(script);
        let mut events = gateway.client.stream(json!({"model": "sim", "input": "x", "stream": true})).await;
        assert_eq!(events.rest().await.last().unwrap().name, "response.failed");
    }
    let (lines, _) = gateway.terminate().await;
    let parsed = lines.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let broken: Vec<Value> =
        parsed.filter(|line| line["message"] == "the upstream's stream broke off").collect();
    let reasons: Vec<_> = broken.iter().map(|line| line["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons, ["the connection was lost", "it ended without a terminal event"], "{broken:?}");
    assert!(broken.iter().all(|line| line["level"] == "WARN" && line["account.id"] == "one"), "{broken:?}");
    assert!(broken[0]["error"].is_string() && broken[1].get("error").is_none(), "{broken:?}");
}

#[tokio::test]
async fn the_line_of_a_turn_names_its_trace() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let collector = Collector::start().await;
    let setup = Setup::over(&upstream).config("log.format = \"json\"").config(&collector.config());
    let gateway = Process::start(binary(), &setup).await;
    gateway.client.created(json!({"model": "sim", "input": "x"})).await;
    let trace = collector.turns(1).await[0].trace.clone();
    let (lines, _) = gateway.terminate().await;
    let parsed: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let turn = parsed.iter().find(|line| line["target"] == "antiphon::turn").unwrap();
    assert_eq!(turn["trace.id"], trace);
}

#[tokio::test]
async fn an_error_that_ends_the_start_is_in_the_format_of_the_log() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = listener.local_addr().unwrap();
    let setup = Setup::over(&upstream).config(&format!("admin_listen = \"{taken}\""));
    for format in ["json", "text"] {
        let setup = setup.clone().config(&format!("log.format = \"{format}\""));
        let Err(lines) = Process::try_start(binary(), &setup).await else { panic!("the address is taken") };
        let [line] = &lines[..] else { panic!("{lines:?}") };
        assert!(line.contains(&format!("cannot listen on {taken}")), "{line}");
        assert_eq!(serde_json::from_str::<Value>(line).is_ok(), format == "json", "{line}");
    }
}

#[tokio::test]
async fn what_clients_write_forges_no_line_and_no_field_of_a_text_log() {
    let upstream = Simulator::bind(Options::default()).await.unwrap();
    let gateway = Process::start(binary(), &Setup::over(&upstream)).await;
    let models = [
        "x http.status=200",
        "x\n2026-11-22T00:00:00Z  INFO antiphon::turn: turn",
        "\u{1b}[2J\u{9b}31m\u{202e}",
        "\"x\" http.status=\"200\"",
    ];
    for model in models {
        gateway.client.create(json!({"model": model, "input": "x"})).await;
    }
    let (lines, _) = gateway.terminate().await;
    let turns: Vec<_> = lines.iter().filter(|line| line.contains("antiphon::turn: turn ")).collect();
    assert_eq!(turns.len(), models.len(), "{lines:#?}");
    for line in lines.iter().filter(|line| line.contains("antiphon::turn")) {
        assert!(!line.contains(|c: char| c.is_control() || c == '\u{202e}'), "{line:?}");
        let outside_quotes: String = line.replace("\\\"", "").split('"').step_by(2).collect();
        assert!(!outside_quotes.contains("http.status=200"), "{line}");
    }
}

/// Eight concurrent clients, each with its share of the turns.
async fn round(client: &Client) {
    let workers: Vec<_> = (0..8)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                for _ in 0..TURNS_A_ROUND / 8 {
                    client.created(json!({"model": "sim", "input": "x", "store": false})).await;
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
}

async fn dropped_lines(client: &Client) -> u64 {
    client.metric("antiphon_log_lines_dropped_total").await
}
