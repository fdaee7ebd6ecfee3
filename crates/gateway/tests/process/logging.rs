//! The log of the real binary when nobody reads it.

use antiphon_simulator::upstream::{Options, Simulator};
use antiphon_testkit::{Client, Process, Setup};
use serde_json::json;

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
