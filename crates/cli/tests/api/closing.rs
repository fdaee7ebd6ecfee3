//! Upstreams that close connections while a turn is sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use antiphon_testkit::{Gateway, Setup};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

const REPLY: &str = r#"{"id":"resp_1","object":"response","status":"completed","output":[],"model":"sim"}"#;

/// What an upstream does with the request that it has read.
#[derive(Clone, Copy, PartialEq)]
enum Act {
    Answer,
    AnswerAndClose,
    Close,
}

/// An upstream that closes connections without announcing it.
struct Upstream {
    gateway: Gateway,
    turns: Arc<AtomicUsize>,
    closed: mpsc::UnboundedReceiver<()>,
}

impl Upstream {
    /// `acts` are what it does with each turn; the last one applies to all further turns.
    async fn start(acts: &'static [Act]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let (turns, (tell_closed, closed)) = (Arc::<AtomicUsize>::default(), mpsc::unbounded_channel());
        let count = Arc::clone(&turns);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (count, tell_closed) = (Arc::clone(&count), tell_closed.clone());
                tokio::spawn(async move {
                    serve(stream, acts, &count).await;
                    tell_closed.send(()).ok();
                });
            }
        });
        Self { gateway: Setup::with_accounts([("one", url.as_str())]).start().await, turns, closed }
    }

    /// The status of the gateway's reply, and how many turns the upstream has read by then.
    async fn turn(&self) -> (u16, usize) {
        let reply = self.gateway.client.create(json!({"model": "sim", "input": "x"})).await;
        (reply.status.as_u16(), self.turns.load(Ordering::SeqCst))
    }
}

/// Returns when the connection is closed.
async fn serve(mut stream: TcpStream, acts: &[Act], turns: &AtomicUsize) {
    let mut act = Act::Answer;
    while act == Act::Answer {
        let Some(head) = read_request(&mut stream).await else { return };
        if !head.starts_with("POST /v1/responses ") {
            stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            continue;
        }
        let turn = turns.fetch_add(1, Ordering::SeqCst);
        act = acts[turn.min(acts.len() - 1)];
        if act != Act::Close {
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json";
            let reply = format!("{head}\r\ncontent-length: {}\r\n\r\n{REPLY}", REPLY.len());
            stream.write_all(reply.as_bytes()).await.unwrap();
        }
    }
}

/// The head of the next request, with its body read as well.
async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
    stream.read_exact(&mut vec![0; length.parse().unwrap()]).await.ok()?;
    Some(head)
}

#[tokio::test]
async fn an_idle_connection_that_the_upstream_closed_is_replaced_silently() {
    let mut upstream = Upstream::start(&[Act::AnswerAndClose]).await;
    for turns in 1..=10 {
        assert_eq!(upstream.turn().await, (200, turns));
        upstream.closed.recv().await.unwrap();
    }
}

#[tokio::test]
async fn a_turn_that_was_written_is_not_sent_again_over_another_connection() {
    let upstream = Upstream::start(&[Act::Answer, Act::Answer, Act::Close]).await;
    assert_eq!(upstream.turn().await, (200, 1));
    assert_eq!(upstream.turn().await, (200, 2));
    // Over a connection that was idle, then over a new one.
    assert_eq!(upstream.turn().await, (502, 3));
    assert_eq!(upstream.turn().await, (502, 4));
}
