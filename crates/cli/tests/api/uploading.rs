//! Bodies and messages on their way in: what they hold of the memory, how slow they may be, and what others notice.

use std::time::Duration;

use antiphon_simulator::upstream::{Gate, Script, Simulator};
use antiphon_testkit::{Came, Client, Gateway, Reply, Setup, Socket, eventually, header};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::administering::Operator;
use crate::simulator;

const LIMITS: &str = "limits.max_body = \"2MiB\"\nlimits.body_memory = \"8MiB\"\n";
const LARGE: usize = 1_500_000;
const HEAD: &str = "POST /v1/responses HTTP/1.1\r\nhost: localhost\r\n";

async fn over(config: &str) -> (Simulator, Gateway) {
    let upstream = simulator().await;
    let gateway = Setup::over(&upstream).config(config).start().await;
    (upstream, gateway)
}

fn large() -> Value {
    json!({"model": "sim", "input": "x".repeat(LARGE), "store": false})
}

/// A connection that has sent these bytes.
async fn sent(gateway: &Gateway, bytes: impl AsRef<[u8]>) -> TcpStream {
    let mut stream = TcpStream::connect(gateway.address()).await.unwrap();
    stream.write_all(bytes.as_ref()).await.unwrap();
    stream
}

/// What comes back until the connection is closed.
async fn answer(stream: &mut TcpStream) -> String {
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).await.ok();
    String::from_utf8(reply).unwrap()
}

async fn used_bytes(gateway: &Gateway) -> u64 {
    gateway.client.metric("antiphon_body_memory_bytes").await
}

async fn timeouts(gateway: &Gateway) -> u64 {
    gateway.client.metric("antiphon_failures_total{fault=\"client\",code=\"request_timeout\"}").await
}

async fn all_memory_is_free(gateway: &Gateway) {
    eventually("the memory is free", async || used_bytes(gateway).await == 0).await;
}

/// Two projects with a key each.
async fn two_projects(gateway: &Gateway) -> [(Client, String); 2] {
    let operator = Operator::of(gateway).await;
    let mut clients = Vec::new();
    for name in ["one", "two"] {
        let secret = operator.key(json!({"name": name, "project": name})).await;
        clients.push((gateway.client.with_secret(&secret), secret));
    }
    clients.try_into().unwrap_or_else(|_| unreachable!())
}

/// A turn that holds the memory of its large body until the gate is opened.
async fn large_turn(upstream: &Simulator, client: &Client) -> (Gate, JoinHandle<Reply>) {
    let (script, gate) = Script::answer("done").gated();
    upstream.script(script);
    let before = upstream.counts().requests;
    let client = client.clone();
    let running = tokio::spawn(async move { client.create(large()).await });
    upstream.wait_until(|upstream| upstream.counts().requests > before).await;
    (gate, running)
}

#[tokio::test]
async fn what_is_announced_holds_no_memory() {
    let (_upstream, gateway) = over(LIMITS).await;
    let mut slow = Vec::new();
    for rest in [
        "content-length: 2000000\r\n\r\n{",
        "content-length: 2000000\r\ncontent-encoding: gzip\r\n\r\n\u{1f}",
        "transfer-encoding: chunked\r\n\r\n1e8480\r\n{",
        "content-length: 2000000\r\nexpect: 100-continue\r\n\r\n",
    ] {
        for _ in 0..4 {
            slow.push(sent(&gateway, format!("{HEAD}{rest}")).await);
        }
    }
    let mut sockets = Vec::new();
    for header in [&[0x81, 0xff, 0, 0, 0, 0, 0, 0x1e, 0x84, 0x80, 1, 2, 3, 4][..], &[0x01, 0xfe, 0xff, 0xff]]
    {
        for _ in 0..4 {
            let mut socket = gateway.socket().await;
            socket.send_bytes(header).await;
            sockets.push(socket);
        }
    }
    // A byte of each body that brought one, and the first step of each message whose frame has begun.
    let held = 12 + 4 * 4096;
    eventually("the bytes have arrived", async || used_bytes(&gateway).await == held).await;
    gateway.client.created(large()).await;
    gateway.socket().await.created(large()).await;
    eventually("the turns have ended", async || used_bytes(&gateway).await == held).await;
    drop((slow, sockets));
    all_memory_is_free(&gateway).await;
}

#[tokio::test]
async fn a_body_that_comes_too_slowly_is_rejected_with_the_reason() {
    let (upstream, gateway) = over("timeouts.body_read = \"300ms\"").await;
    for (framing, piece) in [("content-length: 100000", "x"), ("transfer-encoding: chunked", "1\r\nx\r\n")] {
        let mut stream = sent(&gateway, format!("{HEAD}{framing}\r\n\r\n")).await;
        // Never silent for as long as the limit.
        while stream.write_all(piece.as_bytes()).await.is_ok() {
            let mut reply = [0; 1];
            let ready = tokio::time::timeout(Duration::from_millis(50), stream.peek(&mut reply)).await;
            if ready.is_ok() {
                break;
            }
        }
        let reply = answer(&mut stream).await;
        assert!(reply.starts_with("HTTP/1.1 408 "), "{reply}");
        let body: Value = serde_json::from_str(reply.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert_eq!(body["error"]["code"], "request_timeout");
        let message = body["error"]["message"].as_str().unwrap();
        assert!(message.contains("bytes arrived in") && message.contains("16 KiB"), "{message}");
    }
    eventually("both are counted", async || timeouts(&gateway).await == 2).await;
    assert_eq!(upstream.counts().requests, 0);
    all_memory_is_free(&gateway).await;
}

#[tokio::test]
async fn a_message_that_comes_too_slowly_closes_its_socket_with_the_reason() {
    let (_upstream, gateway) = over("timeouts.body_read = \"300ms\"").await;
    let mut socket = gateway.socket().await;
    socket.send_bytes(&[0x81, 0xfe, 0xff, 0xff, 0, 0, 0, 0]).await;
    let frame = loop {
        socket.try_send_bytes(b" ").await;
        if let Ok(came) = tokio::time::timeout(Duration::from_millis(50), socket.next()).await {
            break came;
        }
    };
    let Came::Frame(frame) = frame else { panic!("{frame:?}") };
    let frame: Value = serde_json::from_slice(&frame).unwrap();
    assert_eq!((&frame["status"], &frame["error"]["code"]), (&json!(408), &json!("request_timeout")));
    assert!(matches!(socket.next().await, Came::Closed(1008, _)));
    eventually("it is counted", async || timeouts(&gateway).await == 1).await;
    all_memory_is_free(&gateway).await;
}

#[tokio::test]
async fn a_project_at_its_share_waits_and_is_refused_while_others_are_served() {
    let (upstream, gateway) = over(&format!("{LIMITS}timeouts.body_read = \"60s\"")).await;
    let [(one, secret), (two, _)] = two_projects(&gateway).await;
    let (gate, running) = large_turn(&upstream, &one).await;
    let refused = one.create(large()).await;
    assert_eq!(refused.refusal(), (503, Some("server_is_overloaded".to_owned()), None));
    assert!(refused.header("retry-after").is_some());
    let message = refused.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(
        message.starts_with("The gateway has no memory left for request and reply bodies of this project"),
        "{message}"
    );
    let bearer = format!("Bearer {secret}");
    let headers = [header("authorization", &bearer)];
    let mut socket = Socket::connect(gateway.address(), "/v1/responses", &headers).await.unwrap();
    socket.create(large()).await;
    assert_eq!(socket.refusal().await.1, "server_is_overloaded");
    assert!(matches!(socket.next().await, Came::Closed(1013, _)));
    two.created(large()).await;
    gate.open();
    running.await.unwrap().ok();
    one.created(large()).await;
    all_memory_is_free(&gateway).await;
}

#[tokio::test]
async fn a_body_at_the_share_of_its_project_continues_when_memory_is_free_again() {
    let (upstream, gateway) = over(LIMITS).await;
    let (gate, running) = large_turn(&upstream, &gateway.client).await;
    let before = used_bytes(&gateway).await;
    let client = gateway.client.clone();
    let waiting = tokio::spawn(async move { client.create(large()).await });
    eventually("a part of it has arrived", async || used_bytes(&gateway).await > before).await;
    assert!(!waiting.is_finished() && used_bytes(&gateway).await <= 2 << 20);
    gate.open();
    running.await.unwrap().ok();
    waiting.await.unwrap().ok();
    all_memory_is_free(&gateway).await;
}

#[tokio::test]
async fn bodies_that_wait_for_each_other_are_refused_in_time() {
    let (_upstream, gateway) =
        over("limits.max_body = \"2MiB\"\nlimits.body_memory = \"2MiB\"\ntimeouts.body_read = \"4s\"").await;
    let body = large().to_string();
    let head = format!("{HEAD}connection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    let mut streams = Vec::new();
    for sent_bytes in [900_000, 900_000] {
        streams.push(sent(&gateway, format!("{head}{}", &body[..sent_bytes])).await);
    }
    eventually("both have arrived", async || used_bytes(&gateway).await >= 1_800_000).await;
    let rest = &body[900_000..];
    let [one, two] = &mut streams[..] else { unreachable!() };
    let finish = async |stream: &mut TcpStream| {
        stream.write_all(rest.as_bytes()).await.ok();
        answer(stream).await
    };
    let replies = tokio::join!(finish(one), finish(two));
    for reply in [&replies.0, &replies.1] {
        let is_refused = reply.starts_with("HTTP/1.1 503 ")
            && reply.contains("retry-after: 1")
            && reply.contains("server_is_overloaded");
        assert!(is_refused || reply.starts_with("HTTP/1.1 200 "), "{reply}");
    }
    all_memory_is_free(&gateway).await;
    gateway.client.created(large()).await;
}

#[tokio::test]
async fn a_client_without_a_key_is_refused_before_its_body_is_read() {
    let (_upstream, gateway) = over(LIMITS).await;
    let [_, _] = two_projects(&gateway).await;
    for framing in ["content-length: 2000000", "content-length: 2000000\r\nexpect: 100-continue"] {
        let mut stream = sent(&gateway, format!("{HEAD}{framing}\r\n\r\n")).await;
        let mut reply = [0; 12];
        stream.read_exact(&mut reply).await.unwrap();
        assert_eq!(&reply, b"HTTP/1.1 401");
    }
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_releases_its_memory() {
    let (_upstream, gateway) = over(LIMITS).await;
    let body = large().to_string();
    let head = format!("{HEAD}content-length: {}\r\n\r\n", body.len());
    let stream = sent(&gateway, format!("{head}{}", &body[..600_000])).await;
    let mut socket = gateway.socket().await;
    socket.send_unfinished(&[b'x'; 100_000], 2).await;
    eventually("they have arrived", async || used_bytes(&gateway).await >= 800_000).await;
    drop((stream, socket));
    all_memory_is_free(&gateway).await;
}

#[tokio::test]
async fn empty_bodies_and_messages_are_invalid_and_hold_nothing() {
    let (_upstream, gateway) = over(LIMITS).await;
    assert_eq!(gateway.client.create("").await.refusal().1.as_deref(), Some("invalid_json"));
    let mut socket = gateway.socket().await;
    socket.send("").await;
    assert_eq!(socket.refusal().await.1, "invalid_json");
    // Begun and ended by empty frames.
    socket.send_bytes(&[0x01, 0x80, 0, 0, 0, 0, 0x80, 0x80, 0, 0, 0, 0]).await;
    assert_eq!(socket.refusal().await.1, "invalid_json");
    assert_eq!(used_bytes(&gateway).await, 0);
}

#[tokio::test]
async fn a_control_frame_that_announces_much_closes_its_socket() {
    let (_upstream, gateway) = over(LIMITS).await;
    for header in [&[0x89, 0xfe, 0, 126][..], &[0x88, 0xff, 0, 0, 0, 0, 0, 0x10, 0, 0]] {
        let mut socket = gateway.socket().await;
        socket.send_bytes(&[header, &[0; 4]].concat()).await;
        assert!(matches!(socket.next().await, Came::Closed(1002, _)), "{header:?}");
    }
}

#[tokio::test]
async fn forms_of_those_who_are_not_signed_in_are_small_and_take_nothing_of_what_operators_have() {
    let (_upstream, gateway) = over("limits.max_body = \"16KiB\"\nlimits.body_memory = \"64KiB\"").await;
    let operator = Operator::of(&gateway).await;
    let form = |bytes: usize| {
        format!(
            "POST /login HTTP/1.1\r\nhost: localhost\r\nsec-fetch-site: same-origin\r\ncontent-length: {bytes}\r\n\r\n"
        )
    };
    let mut large = sent(&gateway, format!("{}{}", form(8193), "x".repeat(8193))).await;
    let mut status = [0; 12];
    large.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 413");
    let mut unfinished = Vec::new();
    for _ in 0..4 {
        unfinished.push(sent(&gateway, format!("{}{}", form(8192), "x".repeat(8000))).await);
    }
    eventually("the forms have arrived", async || used_bytes(&gateway).await >= 16_000).await;
    let key = format!("{}{}", json!({"name": "one"}), " ".repeat(8_000));
    let reply = operator.send(http::Method::POST, "/api/keys", key).await;
    assert_eq!(reply.status, 201);
    drop(unfinished);
    all_memory_is_free(&gateway).await;
}
