//! HTTP/1.1, as raw as hostile replies need it.

use bytes::Bytes;
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpStream;

/// A request, as far as it matters.
pub struct Request {
    pub is_turn: bool,
    pub body: Bytes,
}

pub async fn read_request(stream: &mut BufReader<TcpStream>) -> Option<Request> {
    let (mut is_turn, mut length, mut line) = (false, 0, String::new());
    loop {
        line.clear();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let lower = line.trim().to_ascii_lowercase();
        if lower.is_empty() {
            break;
        }
        is_turn |= lower.starts_with("post ");
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(Request { is_turn, body: body.into() })
}

pub fn collected(status: u16, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    let length = body.len();
    format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}")
        .into_bytes()
}

pub fn head_of_stream() -> Vec<u8> {
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n".to_vec()
}

pub fn event_chunk(event: &Value) -> Vec<u8> {
    let name = event["type"].as_str().unwrap_or_default();
    chunk(format!("event: {name}\ndata: {event}\n\n").as_bytes())
}

pub fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

/// Random bytes.
pub fn garbage(rng: &mut StdRng, length: usize) -> Vec<u8> {
    (0..length).map(|_| rng.random()).collect()
}
