//! The upstream: it replies to a history with what follows from it, on a thread of its own that can be frozen.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Handle};

use crate::history::{self, History};
use crate::hostility::{Hostility, Reply};
use crate::violations::{Promise, Violations};
use crate::wire::{chunk, collected, event_chunk, head_of_stream, read_request};

/// Pieces of a stream that are written at once.
const EVENTS_PER_WRITE: usize = 3;
/// Between two pieces of a reply without an end.
const BETWEEN_PIECES: Duration = Duration::from_millis(1);
const GIANT_PIECE_BYTES: usize = 64 << 10;

/// What every turn takes.
pub const TOKENS: u64 = 15;

/// A running upstream; it ends with the process.
pub struct Upstream {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    thread: Handle,
}

struct Shared {
    hostility: Hostility,
    violations: Violations,
}

impl Upstream {
    pub fn start(violations: &Violations, rng: StdRng) -> std::io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let thread = runtime.handle().clone();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { hostility: Hostility::new(rng), violations: violations.clone() });
        let serving = serve(listener, Arc::clone(&shared));
        std::thread::spawn(move || runtime.block_on(serving));
        Ok(Self { address, shared, thread })
    }

    /// From now on most turns are not served as they should be, or all are again.
    pub fn set_hostile(&self, is_hostile: bool) {
        self.shared.hostility.set(is_hostile);
    }

    /// Nothing is accepted, read or written for this time, as with SIGSTOP.
    pub fn freeze(&self, time: Duration) {
        self.thread.spawn(async move { std::thread::sleep(time) });
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            let shared = Arc::clone(&shared);
            tokio::spawn(async move { shared.converse(stream).await });
        }
    }
}

impl Shared {
    /// Serves the requests of a connection until it ends; `None` is its end.
    async fn converse(&self, stream: TcpStream) -> Option<()> {
        stream.set_nodelay(true).ok()?;
        let mut stream = BufReader::new(stream);
        loop {
            let request = read_request(&mut stream).await?;
            if !request.is_turn {
                let models = json!({"object": "list", "data": [{"id": "sim", "object": "model"}]});
                stream.write_all(&collected(200, &models)).await.ok()?;
                continue;
            }
            let wire = self.reply(&request.body);
            if let Some(hostile) = self.hostility.next() {
                hostile.send(&wire.concat(), &mut stream).await?;
                continue;
            }
            for piece in wire.chunks(EVENTS_PER_WRITE) {
                stream.write_all(&piece.concat()).await.ok()?;
            }
        }
    }

    /// The bytes of the reply to a turn, event by event.
    fn reply(&self, body: &[u8]) -> Vec<Vec<u8>> {
        let request: Value = serde_json::from_slice(body).unwrap_or_default();
        match check(&request) {
            Ok(history) if request["stream"] == true => stream(history),
            Ok(history) => vec![collected(200, &response(history, "completed"))],
            Err(problem) => {
                self.violations
                    .add(Promise::History, format!("the upstream was sent a wrong request: {problem}"));
                let error = json!({"error": {"message": problem, "type": "invalid_request_error", "param": null, "code": "wrong"}});
                vec![collected(400, &error)]
            }
        }
    }
}

/// What a real upstream would reject, and what only ours can know.
fn check(request: &Value) -> Result<History, String> {
    if request["store"] != false {
        return Err("store is not false".to_owned());
    }
    if !request["previous_response_id"].is_null() {
        return Err("previous_response_id was passed on".to_owned());
    }
    history::verify(&request["input"])
}

fn response(history: History, status: &str) -> Value {
    let is_over = status == "completed";
    let output = if is_over { history.output() } else { Vec::new() };
    let usage = json!({
        "input_tokens": TOKENS - 5, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": TOKENS,
    });
    json!({
        "id": format!("up_{}", history.hex()), "object": "response", "created_at": 1_790_000_000, "status": status,
        "model": "sim", "output": output, "usage": if is_over { usage } else { Value::Null }, "error": null,
        "incomplete_details": null, "instructions": null, "metadata": {}, "tools": [], "tool_choice": "auto",
        "parallel_tool_calls": true, "temperature": 1.0, "top_p": 1.0, "store": false, "previous_response_id": null,
    })
}

/// The head, then each event as a chunk of its own.
fn stream(history: History) -> Vec<Vec<u8>> {
    let mut events = vec![
        json!({"type": "response.created", "response": response(history, "in_progress")}),
        json!({"type": "response.in_progress", "response": response(history, "in_progress")}),
    ];
    for (index, item) in history.output().into_iter().enumerate() {
        events.push(json!({"type": "response.output_item.added", "output_index": index, "item": item}));
        if let Some(text) = item["content"][0]["text"].as_str() {
            let delta = |delta: &str| {
                json!({"type": "response.output_text.delta", "item_id": item["id"], "output_index": index,
                       "content_index": 0, "delta": delta})
            };
            let (first, rest) = text.split_at(text.len() / 2);
            events.extend([delta(first), delta(rest)]);
        }
        events.push(json!({"type": "response.output_item.done", "output_index": index, "item": item}));
    }
    events.push(json!({"type": "response.completed", "response": response(history, "completed")}));
    let mut wire = vec![head_of_stream()];
    for (number, mut event) in events.into_iter().enumerate() {
        event["sequence_number"] = json!(number);
        wire.push(event_chunk(&event));
    }
    wire.push(b"0\r\n\r\n".to_vec());
    wire
}

/// How a hostile reply goes out; `None` ends the connection.
impl Reply {
    async fn send(self, wire: &[u8], stream: &mut BufReader<TcpStream>) -> Option<()> {
        match self {
            Self::Cut(share) => {
                let end = (wire.len() as f64 * share) as usize;
                stream.write_all(&wire[..end]).await.ok()?;
                None
            }
            Self::Bytes(bytes) => {
                stream.write_all(&bytes).await.ok()?;
                None
            }
            Self::Refusal(status) => {
                let error = json!({"message": "No.", "type": "invalid_request_error", "param": null, "code": "hostile"});
                stream.write_all(&collected(status, &json!({"error": error}))).await.ok()
            }
            Self::EndlessEvents => {
                stream.write_all(&head_of_stream()).await.ok()?;
                for number in 0_u64.. {
                    let delta = json!({"type": "response.output_text.delta", "item_id": "msg_endless", "output_index": 0,
                                       "content_index": 0, "delta": "and so on ", "sequence_number": number});
                    stream.write_all(&event_chunk(&delta)).await.ok()?;
                    tokio::time::sleep(BETWEEN_PIECES).await;
                }
                None
            }
            Self::EndlessItem => {
                stream.write_all(&head_of_stream()).await.ok()?;
                let begun = "event: response.output_item.done\ndata: {\"type\":\"response.output_item.done\",\"item\":\"";
                stream.write_all(&chunk(begun.as_bytes())).await.ok()?;
                let piece = chunk(&vec![b'x'; GIANT_PIECE_BYTES]);
                loop {
                    stream.write_all(&piece).await.ok()?;
                    tokio::time::sleep(BETWEEN_PIECES).await;
                }
            }
            Self::Silence(share) => {
                let end = (wire.len() as f64 * share) as usize;
                stream.write_all(&wire[..end]).await.ok()?;
                // Until the other side gives up.
                let mut rest = [0; 64];
                while stream.read(&mut rest).await.ok()? > 0 {}
                None
            }
        }
    }
}
