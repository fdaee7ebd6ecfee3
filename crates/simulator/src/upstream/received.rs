//! What reached the simulator, and how its replies ended.

use bytes::Bytes;
use http::{HeaderMap, Method};
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Older requests are forgotten, so that a long run stays small.
const KEPT: usize = 1_000;

/// One request, with its body as it came.
#[derive(Clone, Debug)]
pub struct Received {
    pub method: Method,
    pub path: String,
    pub query: Option<String>,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Received {
    /// The body as JSON; `Null` when it is none.
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

    /// A header as text; `None` when it is absent or not text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// Turns (POST …/responses and what lies below it) so far. A turn leaves `in_flight` a moment after its client has the last byte, so wait for
/// it with [`Simulator::wait_until`](super::Simulator::wait_until).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Turns whose request has been read.
    pub requests: u64,
    /// Turns that are not over yet.
    pub in_flight: u64,
    /// Turns whose client went away before the end.
    pub aborted: u64,
    /// Turns whose reply was handed over to its scripted end.
    pub finished: u64,
}

#[derive(Debug)]
pub(super) struct Ledger {
    counts: watch::Sender<Counts>,
    turns: Mutex<VecDeque<Received>>,
    others: Mutex<VecDeque<Received>>,
}

impl Ledger {
    pub(super) fn new() -> Self {
        Self {
            counts: watch::Sender::new(Counts::default()),
            turns: Mutex::new(VecDeque::new()),
            others: Mutex::new(VecDeque::new()),
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

    /// Counts a turn whose request has been read; the value says when the turn is over.
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

/// A turn that is not over. Dropped unfinished, its client has gone.
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

fn keep(list: &Mutex<VecDeque<Received>>, received: Received) {
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
