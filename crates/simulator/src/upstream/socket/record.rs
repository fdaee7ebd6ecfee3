//! The record of a socket, for tests.

use crate::upstream::received::Received;
use crate::upstream::script::Close;
use bytes::Bytes;
use serde_json::Value;

/// Older messages of a socket are dropped, to bound the memory of long runs.
const KEPT: usize = 1_000;

/// A handshake and the socket that it opened, if any.
#[derive(Clone, Debug)]
pub struct ReceivedSocket {
    /// Handshakes are numbered from 0, including refused ones.
    pub number: u64,
    pub handshake: Received,
    /// The status of the reply, 101 for an accepted handshake; `None` before the reply.
    pub status: Option<u16>,
    /// The newest 1,000 text messages of any kind, oldest first.
    pub messages: Vec<Bytes>,
    /// Turns requested so far.
    pub turns: usize,
    /// Pings received.
    pub pings: usize,
    /// How the socket ended; `None` while it is open.
    pub end: Option<SocketEnd>,
}

/// Who ended a socket, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketEnd {
    /// The client sent a close frame, with or without a code.
    Closed(Option<u16>),
    /// The client disconnected without a close frame.
    Gone,
    /// The simulator closed it, as scripted or told by the test.
    Here(Close),
}

impl ReceivedSocket {
    pub(in crate::upstream) fn new(number: u64, handshake: Received) -> Self {
        Self { number, handshake, status: None, messages: Vec::new(), turns: 0, pings: 0, end: None }
    }

    pub(super) fn keep(&mut self, message: Bytes) {
        if self.messages.len() == KEPT {
            self.messages.remove(0);
        }
        self.messages.push(message);
    }

    /// The messages as JSON; `Null` for messages that are not JSON.
    pub fn json(&self) -> Vec<Value> {
        self.messages.iter().map(|message| serde_json::from_slice(message).unwrap_or(Value::Null)).collect()
    }

    /// A header of the handshake as text; `None` if it is absent or not text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.handshake.header(name)
    }

    pub fn is_open(&self) -> bool {
        self.status == Some(101) && self.end.is_none()
    }
}
