//! HTTP/2: streams whose client takes no data, and connections without any.

use std::time::Duration;

use antiphon_simulator::upstream::{Script, Simulator};
use antiphon_testkit::{Gateway, Setup, eventually, flood};
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::simulator;

/// Longer than any step takes, unless the gateway waits where it should not.
const PATIENCE: Duration = Duration::from_secs(60);
const WINDOW: u32 = 8 * 1024;

struct Client {
    requests: SendRequest<Full<Bytes>>,
    connection: JoinHandle<hyper::Result<()>>,
}

// === impl Client ===

impl Client {
    /// Answers pings, and takes so much of a reply that it does not read.
    async fn connect(gateway: &Gateway) -> Self {
        let stream = TcpStream::connect(gateway.address()).await.unwrap();
        let mut builder = Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).initial_stream_window_size(WINDOW);
        builder.initial_connection_window_size(64 * WINDOW);
        let (requests, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
        Self { requests, connection: tokio::spawn(connection) }
    }

    async fn send(&mut self, method: Method, path: &str, body: &Value) -> Response<Incoming> {
        let request = Request::builder().method(method).uri(format!("http://localhost{path}"));
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let request = request.header("content-type", "application/json").body(Full::new(body)).unwrap();
        self.requests.send_request(request).await.unwrap()
    }

    async fn create(&mut self, body: &Value) -> Response<Incoming> {
        let reply = self.send(Method::POST, "/v1/responses", body).await;
        assert_eq!(reply.status(), 200);
        reply
    }

    async fn is_healthy(&mut self) -> bool {
        let reply = self.send(Method::GET, "/healthz", &Value::Null).await;
        reply.status() == 200 && reply.into_body().collect().await.is_ok()
    }
}

async fn over(config: &str) -> (Simulator, Gateway) {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).config(config).start().await;
    (upstream, gateway)
}

#[tokio::test]
async fn a_stream_whose_client_takes_no_data_is_reset_and_others_go_on() {
    let (upstream, gateway) = over("timeouts.write_stall = \"1s\"").await;
    upstream.script(flood());
    let mut client = Client::connect(&gateway).await;
    let unread = client.create(&json!({"model": "sim", "input": "x", "stream": true, "store": false})).await;
    upstream.wait_until(|upstream| upstream.in_flight() == 0).await;
    assert_eq!(upstream.aborted(), 1);
    gateway.idle().await;
    assert!(client.is_healthy().await, "only the stream is closed");
    assert!(unread.into_body().collect().await.is_err(), "the client takes it for a whole reply");
}

#[tokio::test]
async fn a_long_reply_that_its_client_does_not_take_is_reset() {
    let (upstream, gateway) = over("timeouts.write_stall = \"1s\"").await;
    let mut client = Client::connect(&gateway).await;
    let stored = client.create(&json!({"model": "sim", "input": "x".repeat(1 << 20)})).await;
    let stored: Value =
        serde_json::from_slice(&stored.into_body().collect().await.unwrap().to_bytes()).unwrap();
    let path = format!("/v1/responses/{}/input_items", stored["id"].as_str().unwrap());
    let whole = client.send(Method::GET, &path, &Value::Null).await.into_body().collect().await.unwrap();
    assert!(whole.to_bytes().len() > 1 << 20, "a client that reads gets all of it");
    let unread = client.send(Method::GET, &path, &Value::Null).await.into_body();
    // When a later stream is reset, the reply has been as well.
    upstream.script(flood());
    let _later = client.create(&json!({"model": "sim", "input": "x", "stream": true, "store": false})).await;
    upstream.wait_until(|upstream| upstream.aborted() == 1).await;
    assert!(unread.collect().await.is_err(), "the reply was sent to its end");
}

#[tokio::test]
async fn a_connection_without_streams_is_closed_after_the_timeout() {
    let (_upstream, gateway) = over("timeouts.header_read = \"3s\"").await;
    let mut client = Client::connect(&gateway).await;
    assert!(client.is_healthy().await);
    tokio::time::timeout(PATIENCE, client.connection).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_connection_with_a_stream_is_kept() {
    let (upstream, gateway) = over("timeouts.header_read = \"3s\"").await;
    let (script, gate) = Script::answer("after a while").gated();
    upstream.script(script);
    let mut slow = Client::connect(&gateway).await;
    let body = json!({"model": "sim", "input": "x"});
    let (reply, ()) = tokio::join!(slow.create(&body), async {
        upstream.wait_until(|upstream| upstream.in_flight() == 1).await;
        let mut idle = Client::connect(&gateway).await;
        assert!(idle.is_healthy().await);
        tokio::time::timeout(PATIENCE, idle.connection).await.unwrap().unwrap().unwrap();
        gate.open();
    });
    assert!(reply.into_body().collect().await.is_ok());
}

#[tokio::test]
async fn metrics_that_nobody_reads_take_only_so_much_memory() {
    let (_upstream, gateway) = over("").await;
    let mut unread = Vec::new();
    let mut is_refused = false;
    while !is_refused {
        assert!(unread.len() < 20, "any number of replies is held");
        let mut client = Client::connect(&gateway).await;
        let mut replies = Vec::new();
        for _ in 0..90 {
            replies.push(client.send(Method::GET, "/metrics", &Value::Null).await);
        }
        is_refused = replies.iter().any(|reply| reply.status() == 503);
        unread.push((client, replies));
    }
    assert!(unread.len() > 1, "a few are no reason");
    drop(unread);
    eventually("metrics are shown again", async || gateway.client.get("/metrics").await.status == 200).await;
}
