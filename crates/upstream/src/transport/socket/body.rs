//! The events of one turn on a socket.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use antiphon_protocol::event::{Event, EventKind, sequence_number};
use antiphon_protocol::json;
use bytes::Bytes;
use futures_util::Stream;
use tokio_tungstenite::tungstenite::Message;

use super::{Idle, Socket, refusal};

/// Reads to the terminal event, and gives the socket back then. Dropped before, it closes the socket, which cancels the turn.
pub struct SocketBody {
    socket: Option<Socket>,
    /// The event that was waited for when the turn was sent.
    first: Option<Bytes>,
    /// The last sequence number may be needed.
    last: Bytes,
    account: String,
    idle: Arc<Idle>,
}

// === impl SocketBody ===

impl SocketBody {
    pub(super) fn new(socket: Socket, first: Bytes, account: String, idle: Arc<Idle>) -> Self {
        Self { socket: Some(socket), first: Some(first), last: Bytes::new(), account, idle }
    }

    /// The next event; the error is the transport's.
    pub fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Event, String>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(self.event(first))));
        }
        loop {
            let Some(socket) = &mut self.socket else { return Poll::Ready(None) };
            let why = match ready!(socket.wire().poll_next(cx)) {
                Some(Ok(Message::Text(text))) => return Poll::Ready(Some(Ok(self.event(text.into())))),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
                Some(Ok(Message::Binary(_))) => "the upstream sent a binary message".to_owned(),
                Some(Ok(Message::Close(Some(frame)))) => {
                    format!("the upstream closed the socket with {}", frame.code)
                }
                Some(Ok(Message::Close(None))) | None => "the upstream closed the socket".to_owned(),
                Some(Err(error)) => error.to_string(),
            };
            self.socket = None;
            return Poll::Ready(Some(Err(why)));
        }
    }

    fn event(&mut self, data: Bytes) -> Event {
        let mut event = Event::of_message(data.clone());
        match event.kind() {
            EventKind::Error => {
                self.socket = None;
                let data = flat_error(&data, sequence_number(&self.last)).into();
                event = Event::Message { kind: EventKind::Error, data };
            }
            EventKind::Terminal => self.give_back(&data),
            EventKind::Snapshot | EventKind::ItemDone | EventKind::Other => {}
        }
        self.last = data;
        event
    }

    /// A response that has failed can't be continued on the socket.
    fn give_back(&mut self, terminal: &[u8]) {
        let Some(socket) = self.socket.take() else { return };
        let response = json::member(terminal, "response").unwrap_or_default();
        let status = json::string_member(response, "status");
        if let (Some("completed" | "incomplete"), Some(id)) =
            (status.as_deref(), json::string_member(response, "id"))
        {
            self.idle.put(socket, std::mem::take(&mut self.account), id.into_owned());
        }
    }
}

/// An error as a stream has it, where a socket has the object of an HTTP reply.
fn flat_error(event: &[u8], last: Option<u64>) -> Vec<u8> {
    let (_, error) = refusal(event);
    let member = |name| json::member(&error, name).unwrap_or(b"null");
    let sequence = last.map_or(0, |last| last + 1).to_string();
    [
        br#"{"type":"error","sequence_number":"#,
        sequence.as_bytes(),
        br#","code":"#,
        member("code"),
        br#","message":"#,
        member("message"),
        br#","param":"#,
        member("param"),
        b"}",
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_in_the_middle_of_a_turn_is_made_flat() {
        let event = br#"{"type":"error","status":500,"error":{"type":"server_error","code":"c","message":"m","param":null}}"#;
        let flat = br#"{"type":"error","sequence_number":8,"code":"c","message":"m","param":null}"#;
        assert_eq!(flat_error(event, Some(7)), flat);
    }
}
