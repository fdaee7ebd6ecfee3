//! The events of one turn on a socket.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use antiphon_protocol::event::{Event, EventKind, LastNumbered};
use antiphon_protocol::json;
use bytes::Bytes;
use futures_util::Stream;
use tokio_tungstenite::tungstenite::Message;

use super::{IdleSockets, Served, Socket, error_of_event, response_id};

/// Reads up to the terminal event, and returns the socket to the idle ones then. Dropping it earlier closes the socket, which
/// cancels the turn.
pub struct SocketBody {
    socket: Option<Socket>,
    /// The first events, which have been read already.
    begun: VecDeque<Bytes>,
    last: LastNumbered,
    served: Option<Served>,
    /// The upstream's id of the response, once an event has carried it.
    response: Option<String>,
    idle: Arc<IdleSockets>,
}

// === impl SocketBody ===

impl SocketBody {
    pub(super) fn new(
        socket: Socket,
        begun: VecDeque<Bytes>,
        served: Served,
        idle: Arc<IdleSockets>,
    ) -> Self {
        Self {
            socket: Some(socket),
            begun,
            last: LastNumbered::default(),
            served: Some(served),
            response: None,
            idle,
        }
    }

    /// The next event. An error is the transport's text.
    pub fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Event, String>>> {
        loop {
            if let Some(data) = self.begun.pop_front() {
                return Poll::Ready(Some(self.event(data)));
            }
            let Some(socket) = &mut self.socket else { return Poll::Ready(None) };
            let why = match ready!(socket.wire().poll_next(cx)) {
                Some(Ok(Message::Text(text))) => return Poll::Ready(Some(self.event(text.into()))),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
                Some(Ok(Message::Binary(_))) => "the upstream sent a binary message".to_owned(),
                Some(Ok(Message::Close(Some(frame)))) => {
                    format!("the upstream closed the WebSocket with code {}", frame.code)
                }
                Some(Ok(Message::Close(None))) | None => "the upstream closed the WebSocket".to_owned(),
                Some(Err(error)) => error.to_string(),
            };
            self.socket = None;
            return Poll::Ready(Some(Err(why)));
        }
    }

    fn event(&mut self, data: Bytes) -> Result<Event, String> {
        let mut event = Event::of_message(data.clone());
        let id = response_id(event.kind(), &data);
        if self.is_foreign(id.as_deref()) {
            self.socket = None;
            return Err("the upstream sent an event of another response".to_owned());
        }
        self.response = self.response.take().or(id);
        match event.kind() {
            EventKind::Error => {
                self.socket = None;
                let data = flat_error(&data, self.last.number()).into();
                event = Event::Message { kind: EventKind::Error, data };
            }
            EventKind::Terminal => self.return_to_idle(&data),
            EventKind::Snapshot | EventKind::ItemAdded | EventKind::ItemDone | EventKind::Other => {}
        }
        self.last.note(Event::Message { kind: event.kind(), data });
        Ok(event)
    }

    /// Whether an event carries another response: what came before it on the socket may be of that one, too.
    fn is_foreign(&self, id: Option<&str>) -> bool {
        let Some(id) = id else { return false };
        match &self.response {
            Some(own) => own != id,
            None => self.socket.as_ref().is_some_and(|socket| socket.latest.as_deref() == Some(id)),
        }
    }

    /// A socket whose response has failed is closed, because nothing can be continued on it, and one that cannot be written to.
    fn return_to_idle(&mut self, terminal: &[u8]) {
        let Some(mut socket) = self.socket.take() else { return };
        let stream = socket.wire.get_mut();
        if stream.has_lost_writes() {
            return;
        }
        stream.set_reading(false);
        let response = json::member(terminal, "response").unwrap_or_default();
        let status = json::string_member(response, "status");
        let id = json::string_member(response, "id");
        if let (Some("completed" | "incomplete"), Some(id), Some(served)) =
            (status.as_deref(), id, self.served.take())
        {
            let latest = Some(id.into_owned());
            self.idle.insert(Socket { latest, ..socket.shrunk() }, served);
        }
    }
}

/// The error event as a stream has it. On a socket it contains the error object of an HTTP reply instead.
fn flat_error(event: &[u8], last: Option<u64>) -> Vec<u8> {
    let (_, error) = error_of_event(event);
    let member = |name| json::member(&error, name).unwrap_or(b"null");
    // The type is not in the event of a stream. It says whose fault an error without a code is.
    let code = match (member("code"), member("type")) {
        (b"null", kind @ br#""invalid_request_error""#) => kind,
        (code, _) => code,
    };
    let sequence = last.map_or(0, |last| last + 1).to_string();
    [
        br#"{"type":"error","sequence_number":"#,
        sequence.as_bytes(),
        br#","code":"#,
        code,
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
    fn an_error_event_during_a_turn_is_flattened() {
        let event = br#"{"type":"error","status":500,"error":{"type":"server_error","code":"c","message":"m","param":null}}"#;
        let flat = br#"{"type":"error","sequence_number":8,"code":"c","message":"m","param":null}"#;
        assert_eq!(flat_error(event, Some(7)), flat);
        let event = br#"{"type":"error","error":{"type":"invalid_request_error","code":null,"message":"m"}}"#;
        let flat =
            br#"{"type":"error","sequence_number":0,"code":"invalid_request_error","message":"m","param":null}"#;
        assert_eq!(flat_error(event, None), flat);
    }
}
