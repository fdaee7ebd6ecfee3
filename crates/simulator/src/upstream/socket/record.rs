//! What a test can see of a socket.

use crate::upstream::received::Received;
use crate::upstream::script::Close;
use bytes::Bytes;
use serde_json::Value;

/// Older messages of a socket are forgotten, so that a long run stays small.
const KEPT: usize = 1_000;

/// A handshake and what came of it.
#[derive(Clone, Debug)]
pub struct ReceivedSocket {
    /// Handshakes are numbered from 0, refused ones too.
    pub number: u64,
    pub handshake: Received,
    /// The status of the answer, 101 for an open socket; `None` while there is none.
    pub status: Option<u16>,
    /// The newest 1,000 text messages, whatever they were, oldest first.
    pub messages: Vec<Bytes>,
    /// Turns asked for so far.
    pub turns: usize,
    /// Pings that came.
    pub pings: usize,
    /// How the socket ended; `None` while it is open.
    pub end: Option<SocketEnd>,
}

/// Who ended a socket, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketEnd {
    /// The client sent a close frame, with or without a code.
    Closed(Option<u16>),
    /// The client went away without a close frame.
    Gone,
    /// The simulator was told to.
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

    /// The messages as JSON; `Null` where one is none.
    pub fn json(&self) -> Vec<Value> {
        self.messages.iter().map(|message| serde_json::from_slice(message).unwrap_or(Value::Null)).collect()
    }

    /// A header of the handshake as text; `None` when it is absent or not text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.handshake.header(name)
    }

    pub fn is_open(&self) -> bool {
        self.status == Some(101) && self.end.is_none()
    }
}
