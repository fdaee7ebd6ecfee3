//! Connections: their number, their timeouts, and slow, silent or idle clients.

use std::time::{Duration, Instant};

use antiphon_simulator::upstream::Script;
use antiphon_testkit::{Gateway, Setup, eventually, header};
use http::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{gateway, simulator};

/// Longer than any step takes, unless the gateway waits where it should not.
const PATIENCE: Duration = Duration::from_secs(60);

async fn connect(gateway: &Gateway) -> TcpStream {
    TcpStream::connect(gateway.address()).await.unwrap()
}

/// Requests `/healthz` and leaves the connection open.
async fn ask(stream: &mut TcpStream) -> String {
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut reply = Vec::new();
    while !reply.ends_with(b"}") {
        let read = stream.read_buf(&mut reply).await.unwrap();
        assert!(read > 0, "the gateway closed the connection");
    }
    String::from_utf8(reply).unwrap()
}

/// Waits for the gateway to close the connection; returns what it sent before.
async fn closed(stream: &mut TcpStream) -> String {
    let mut rest = Vec::new();
    let end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    end.expect("the gateway keeps the connection open").ok();
    String::from_utf8(rest).unwrap()
}

#[tokio::test]
async fn a_connection_without_request_headers_is_closed_after_the_timeout() {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).config("timeouts.header_read = \"200ms\"").start().await;
    for head in ["", "P", "PRI * HTTP/2.0\r\n", "POST /v1/responses HTTP/1.1\r\nhost: x\r\nx-slow: "] {
        let mut stream = connect(&gateway).await;
        stream.write_all(head.as_bytes()).await.unwrap();
        closed(&mut stream).await;
    }
    assert_eq!(upstream.counts().requests, 0);
}

#[tokio::test]
async fn the_head_of_a_request_may_take_32_kib() {
    let (_upstream, gateway) = gateway().await;
    for (header_bytes, status) in [(31 * 1024, "HTTP/1.1 200 "), (33 * 1024, "HTTP/1.1 431 ")] {
        let head = format!(
            "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-long: {}\r\n\r\n",
            "a".repeat(header_bytes)
        );
        let mut stream = connect(&gateway).await;
        stream.write_all(head.as_bytes()).await.unwrap();
        let reply = closed(&mut stream).await;
        assert!(reply.starts_with(status), "{reply}");
    }
}

#[tokio::test]
async fn an_idle_connection_is_kept_for_the_configured_time_and_then_closed() {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).config("timeouts.header_read = \"5s\"").start().await;
    let mut stream = connect(&gateway).await;
    let mut last_asked = Instant::now();
    for _ in 0..3 {
        last_asked = Instant::now();
        assert!(ask(&mut stream).await.starts_with("HTTP/1.1 200 "));
    }
    assert_eq!(closed(&mut stream).await, "");
    assert!(last_asked.elapsed() > Duration::from_secs(2), "closed after {:?}", last_asked.elapsed());
}

#[tokio::test]
async fn a_connection_over_the_limit_waits_until_another_one_is_closed() {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).config("limits.max_connections = 2").start().await;
    let (mut one, mut two) = (connect(&gateway).await, connect(&gateway).await);
    ask(&mut one).await;
    ask(&mut two).await;
    let mut three = connect(&gateway).await;
    let third = tokio::spawn(async move { ask(&mut three).await });
    ask(&mut one).await;
    ask(&mut two).await;
    assert!(!third.is_finished());
    drop(one);
    assert!(third.await.unwrap().starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_body_waits_for_memory_and_is_rejected_when_none_is_freed() {
    let upstream = simulator().await;
    let limits = "limits.max_body = \"2MiB\"\nlimits.body_memory = \"2MiB\"";
    let large = json!({"model": "sim", "input": "x".repeat(1_500_000), "store": false}).to_string();
    // The compressed body is small and has to wait as well.
    let compressed = zstd::encode_all(large.as_bytes(), 1).unwrap();
    let bodies = [("identity", large.into_bytes()), ("zstd", compressed)];
    for (patience, status, second) in [("60s", 200, 0), ("4s", 503, 0), ("60s", 200, 1), ("4s", 503, 1)] {
        let limits = format!("{limits}\ntimeouts.body_read = \"{patience}\"");
        let gateway = Setup::over(&upstream).config(&limits).start().await;
        let (script, gate) = Script::answer("slow").gated();
        upstream.script(script);
        let before = upstream.counts().requests;
        let ask = |(encoding, body): (&'static str, Vec<u8>)| {
            let client = gateway.client.clone();
            let headers = [header("content-encoding", encoding)];
            tokio::spawn(async move { client.request(Method::POST, "/v1/responses", &headers, body).await })
        };
        let first = ask(bodies[0].clone());
        upstream.wait_until(|upstream| upstream.counts().requests == before + 1).await;
        let second = ask(bodies[second].clone());
        if status == 503 {
            let reply = second.await.unwrap();
            assert_eq!(
                (reply.refusal().0, reply.refusal().1.as_deref()),
                (503, Some("server_is_overloaded"))
            );
            assert!(reply.header("retry-after").is_some());
            gate.open();
        } else {
            gateway.client.get("/healthz").await.ok();
            assert!(!second.is_finished() && upstream.counts().requests == before + 1);
            gate.open();
            assert_eq!(second.await.unwrap().status, status);
        }
        assert_eq!(first.await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn an_idle_connection_does_not_hold_up_the_shutdown() {
    let (_upstream, gateway) = gateway().await;
    let (mut idle, mut silent) = (connect(&gateway).await, connect(&gateway).await);
    ask(&mut idle).await;
    tokio::time::timeout(PATIENCE, gateway.stop()).await.expect("it waits for idle connections");
    assert_eq!(closed(&mut idle).await, "");
    assert_eq!(closed(&mut silent).await, "");
}

#[tokio::test]
async fn a_shutdown_finishes_streams_and_rejects_new_connections() {
    let (upstream, gateway) = gateway().await;
    let (script, gate) = Script::answer("to the end").gated_after(1);
    upstream.script(script);
    let mut idle = connect(&gateway).await;
    ask(&mut idle).await;
    let address = gateway.address();
    let mut events = gateway.client.stream(json!({"model": "sim", "input": "x", "stream": true})).await;
    events.next().await.unwrap();
    let stopping = tokio::spawn(gateway.stop());
    assert_eq!(closed(&mut idle).await, "", "an idle connection is closed at once");
    eventually("it does not listen", async || TcpStream::connect(address).await.is_err()).await;
    assert!(!stopping.is_finished());
    gate.open();
    assert_eq!(events.rest().await.last().unwrap().name, "response.completed");
    stopping.await.unwrap();
}
