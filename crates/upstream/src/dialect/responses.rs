//! The Responses API itself: requests and events pass unchanged.

use antiphon_protocol::event::Event;
use antiphon_protocol::json;
use antiphon_protocol::sse::{self, FrameTooLarge};
use bytes::Bytes;

use super::Piece;

/// Ends streams of some servers.
const DONE: &[u8] = b"[DONE]";

/// Decodes server-sent events from bytes. WebSocket messages are events already.
#[derive(Debug)]
pub struct Decoder {
    sse: sse::Decoder,
    message: Option<Event>,
}

// === impl Decoder ===

impl Decoder {
    pub fn new(max_event_bytes: usize) -> Self {
        Self { sse: sse::Decoder::new(max_event_bytes), message: None }
    }

    pub fn push(&mut self, piece: Piece) {
        match piece {
            Piece::Bytes(bytes) | Piece::Whole(bytes) => self.sse.push(bytes),
            Piece::Event(event) => self.message = Some(event),
        }
    }

    pub fn next_event(&mut self) -> Result<Option<Event>, FrameTooLarge> {
        match self.message.take() {
            Some(event) => Ok(Some(event)),
            None => Ok(self.sse.next_frame()?.map(Event::Sse)),
        }
    }

    pub fn held_bytes(&self) -> usize {
        self.sse.pending_bytes()
    }

    pub fn has_ids(&self) -> bool {
        self.sse.has_ids()
    }

    /// The bytes after the last blank line are an event if their data is valid JSON, or the mark at the end.
    pub fn finish(&mut self) -> Option<Event> {
        let frame = self.sse.finish()?;
        let is_whole = frame.data().is_some_and(|data| *data == *DONE || json::validate(&data).is_ok());
        is_whole.then_some(Event::Sse(frame))
    }

    pub fn bytes(&self) -> &Bytes {
        self.sse.chunk()
    }
}

#[cfg(test)]
mod tests {
    use antiphon_protocol::event::EventKind;

    use super::*;

    fn events(decoder: &mut Decoder) -> Vec<(EventKind, String)> {
        let next = || decoder.next_event().unwrap();
        let shown = |event: Event| {
            (event.kind(), String::from_utf8_lossy(&event.data().unwrap_or_default()).into_owned())
        };
        std::iter::from_fn(next).map(shown).collect()
    }

    #[test]
    fn bytes_and_messages_yield_the_same_events() {
        let mut decoder = Decoder::new(1 << 10);
        decoder.push(Piece::Bytes(Bytes::from_static(
            b": hello\n\nevent: response.completed\ndata: {\"a\":1}\n\ndata: {\"type\":\"error\"}\n\nevent: res",
        )));
        assert_eq!(
            events(&mut decoder),
            [
                (EventKind::Other, String::new()),
                (EventKind::Terminal, r#"{"a":1}"#.to_owned()),
                (EventKind::Error, r#"{"type":"error"}"#.to_owned()),
            ]
        );
        let data = Bytes::from_static(br#"{"type":"response.completed"}"#);
        decoder.push(Piece::Event(Event::of_message(data)));
        assert_eq!(
            events(&mut decoder),
            [(EventKind::Terminal, r#"{"type":"response.completed"}"#.to_owned())]
        );
    }

    #[test]
    fn the_last_event_may_lack_its_blank_line_but_no_part_of_its_data() {
        for (text, is_whole) in [
            ("data: {\"a\":1}", true),
            ("data: {\"a\":1}\n", true),
            ("data: [DONE]", true),
            ("data: {\"a\":", false),
        ] {
            let mut decoder = Decoder::new(1 << 10);
            decoder.push(Piece::Bytes(Bytes::copy_from_slice(text.as_bytes())));
            assert!(events(&mut decoder).is_empty());
            assert_eq!(decoder.finish().is_some(), is_whole, "{text}");
        }
    }

    #[test]
    fn an_event_over_the_limit_is_an_error() {
        let mut decoder = Decoder::new(16);
        decoder.push(Piece::Bytes(Bytes::from_static(b"data: 0123456789abcdef")));
        assert!(decoder.next_event().is_err());
    }
}
