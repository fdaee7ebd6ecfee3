//! How events are written to the client: as server-sent events, or as text frames of a WebSocket.

use antiphon_protocol::event::{Event, write_sse};
use antiphon_protocol::json;
use antiphon_protocol::socket::{StreamId, without_lane};
use bytes::Bytes;

/// The framing of a door.
#[derive(Debug, Clone)]
pub enum Framing {
    Sse,
    /// Each event carries the name of its lane, if that has one.
    Socket(Option<StreamId>),
}

impl Framing {
    /// Writes an event that the gateway has created or rewritten.
    pub fn render(&self, name: &[u8], data: Bytes) -> Bytes {
        match self {
            Self::Sse => {
                let mut out = Vec::with_capacity(data.len() + 64);
                write_sse(&mut out, name, &data);
                out.into()
            }
            Self::Socket(None) => without_lane(data),
            Self::Socket(Some(stream_id)) => stream_id.put_into(&without_lane(data)).into(),
        }
    }

    /// Writes an unchanged event. A WebSocket gets no comments and no `[DONE]`.
    pub fn pass(&self, event: &Event) -> Option<Bytes> {
        match (self, event) {
            (Self::Sse, Event::Sse(frame)) => Some(frame.raw.clone()),
            (Self::Sse, Event::Message { data, .. }) => {
                let name = json::string_member(data, "type").unwrap_or_default();
                Some(self.render(name.as_bytes(), data.clone()))
            }
            (Self::Socket(_), event) => {
                let data = event.shared_data().filter(|data| data.trim_ascii_start().starts_with(b"{"))?;
                Some(self.render(b"", data))
            }
        }
    }
}
