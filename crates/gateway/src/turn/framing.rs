//! How events stand on the wire to the client: as server-sent events, or each as a text frame of a WebSocket.

use antiphon_protocol::event::write_sse;
use antiphon_protocol::socket::StreamId;
use antiphon_protocol::sse::Frame;
use bytes::Bytes;

/// Depends on the door.
#[derive(Debug, Clone)]
pub enum Framing {
    Sse,
    /// Each event carries the name of its lane, if that has one.
    Socket(Option<StreamId>),
}

impl Framing {
    /// An event of ours, or one that was rewritten.
    pub fn render(&self, name: &[u8], data: Bytes) -> Bytes {
        match self {
            Self::Sse => {
                let mut out = Vec::with_capacity(data.len() + 64);
                write_sse(&mut out, name, &data);
                out.into()
            }
            Self::Socket(None) => data,
            Self::Socket(Some(stream_id)) => stream_id.put_into(&data).into(),
        }
    }

    /// An event that is passed on untouched, by itself. On a socket there are no comments, and no `[DONE]`.
    pub fn pass(&self, frame: &Frame) -> Option<Bytes> {
        let Self::Socket(stream_id) = self else { return Some(frame.raw.clone()) };
        let data = frame.shared_data().filter(|data| data.trim_ascii_start().starts_with(b"{"))?;
        Some(match stream_id {
            None => data,
            Some(stream_id) => stream_id.put_into(&data).into(),
        })
    }
}
