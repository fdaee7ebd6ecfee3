//! The requests that reached the simulator, and how its replies ended.

use super::socket::{ReceivedSocket, SocketEnd};
use bytes::Bytes;
use http::{HeaderMap, Method};
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Older requests are dropped, to bound the memory of long runs.
const KEPT: usize = 1_000;

/// One request, or one turn of a socket, with its body as received.
#[derive(Clone, Debug)]
pub struct Received {
    pub method: Method,
    pub path: String,
    pub query: Option<String>,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// The number of the turn's socket, if it has one. The other fields are then from its handshake, and the body is the
    /// message.
    pub socket: Option<u64>,
}

impl Received {
    /// The body as JSON; `Null` if it is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The items of `input`; a string becomes the one user message that it stands for.
    pub fn input(&self) -> Vec<Value> {
        match self.json().get_mut("input").map(Value::take) {
            Some(Value::Array(items)) => items,
            Some(Value::String(text)) => vec![serde_json::json!({
                "type": "message", "role": "user", "content": [{"type": "input_text", "text": text}],
            })],
            _ => Vec::new(),
        }
    }

    /// A header as text; `None` if it is absent or not text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// Counts of turns (POST …/responses and the endpoints below it, and turns of sockets) and of sockets. A turn leaves
/// `in_flight` a moment after its client has received the last byte, so wait for that with
/// [`Simulator::wait_until`](super::Simulator::wait_until).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Turns whose request has been read.
    pub requests: u64,
    /// Running turns.
    pub in_flight: u64,
    /// Turns whose client disconnected before the end.
    pub aborted: u64,
    /// Turns whose reply was sent to its scripted end.
    pub finished: u64,
    /// Sockets whose handshake was accepted.
    pub sockets: u64,
    /// Sockets that are open now.
    pub open_sockets: u64,
}

#[derive(Debug)]
pub(super) struct Ledger {
    counts: watch::Sender<Counts>,
    turns: Mutex<VecDeque<Received>>,
    others: Mutex<VecDeque<Received>>,
    sockets: Mutex<VecDeque<ReceivedSocket>>,
    handshakes: AtomicU64,
}

impl Ledger {
    pub(super) fn new() -> Self {
        Self {
            counts: watch::Sender::new(Counts::default()),
            turns: Mutex::new(VecDeque::new()),
            others: Mutex::new(VecDeque::new()),
            sockets: Mutex::new(VecDeque::new()),
            handshakes: AtomicU64::new(0),
        }
    }

    pub(super) fn counts(&self) -> Counts {
        *self.counts.borrow()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Counts> {
        self.counts.subscribe()
    }

    pub(super) fn turns(&self) -> Vec<Received> {
        lock(&self.turns).iter().cloned().collect()
    }

    pub(super) fn others(&self) -> Vec<Received> {
        lock(&self.others).iter().cloned().collect()
    }

    pub(super) fn record_other(&self, received: Received) {
        keep(&self.others, received);
        self.counts.send_modify(|_| ());
    }

    pub(super) fn sockets(&self) -> Vec<ReceivedSocket> {
        lock(&self.sockets).iter().cloned().collect()
    }

    /// Numbers a new handshake.
    pub(super) fn record_handshake(&self, handshake: Option<Received>) -> u64 {
        let number = self.handshakes.fetch_add(1, Ordering::Relaxed);
        if let Some(handshake) = handshake {
            keep(&self.sockets, ReceivedSocket::new(number, handshake));
        }
        self.counts.send_modify(|_| ());
        number
    }

    /// Changes the record of a socket, if it is still kept.
    pub(super) fn change_socket(&self, number: u64, change: impl FnOnce(&mut ReceivedSocket)) {
        let mut sockets = lock(&self.sockets);
        if let Some(socket) = sockets.iter_mut().rev().find(|socket| socket.number == number) {
            change(socket);
            drop(sockets);
            self.counts.send_modify(|_| ());
        }
    }

    /// Counts a socket whose handshake was accepted, until the value is dropped.
    pub(super) fn open_socket(self: &Arc<Self>, number: u64) -> OpenSocket {
        self.change_socket(number, |socket| socket.status = Some(101));
        self.counts.send_modify(|counts| {
            counts.sockets += 1;
            counts.open_sockets += 1;
        });
        OpenSocket { ledger: Arc::clone(self), number }
    }

    /// Counts a turn whose request has been read, until the value is dropped.
    pub(super) fn enter(self: &Arc<Self>, received: Option<Received>) -> InFlight {
        if let Some(received) = received {
            keep(&self.turns, received);
        }
        self.counts.send_modify(|counts| {
            counts.requests += 1;
            counts.in_flight += 1;
        });
        InFlight { ledger: Arc::clone(self), finished: false }
    }
}

/// A running turn. If it is dropped unfinished, its client has gone.
#[derive(Debug)]
pub(super) struct InFlight {
    ledger: Arc<Ledger>,
    finished: bool,
}

impl InFlight {
    pub(super) fn finish(&mut self) {
        self.finished = true;
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.ledger.counts.send_modify(|counts| {
            counts.in_flight -= 1;
            if self.finished {
                counts.finished += 1;
            } else {
                counts.aborted += 1;
            }
        });
    }
}

/// An open socket.
#[derive(Debug)]
pub(super) struct OpenSocket {
    ledger: Arc<Ledger>,
    pub(super) number: u64,
}

impl OpenSocket {
    pub(super) fn change(&self, change: impl FnOnce(&mut ReceivedSocket)) {
        self.ledger.change_socket(self.number, change);
    }
}

impl Drop for OpenSocket {
    fn drop(&mut self) {
        self.change(|socket| {
            socket.end.get_or_insert(SocketEnd::Gone);
        });
        self.ledger.counts.send_modify(|counts| counts.open_sockets -= 1);
    }
}

fn keep<T>(list: &Mutex<VecDeque<T>>, received: T) {
    let mut list = lock(list);
    if list.len() == KEPT {
        list.pop_front();
    }
    list.push_back(received);
}

/// A panic elsewhere cannot leave a list half-changed.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
