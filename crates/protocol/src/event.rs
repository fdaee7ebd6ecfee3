//! Stream events: which of them carry a response object, and which end the stream.

use std::borrow::Cow;

use bytes::Bytes;
use memchr::{memchr, memchr2, memchr2_iter, memmem};

use crate::json;
use crate::sse::Frame;

/// One event of a stream, in the framing of its upstream.
#[derive(Debug, Clone)]
pub enum Event {
    /// A server-sent event, or a comment.
    Sse(Frame),
    /// The data of an event in a WebSocket message.
    Message { kind: EventKind, data: Bytes },
}

/// How many events may come before those of the response.
pub const MAX_PRELUDE: usize = 16;
const MAX_PRELUDE_EVENT_BYTES: usize = 16 * 1024;

/// The last event of a stream that has a number. It is read when it is asked for; until then events are only searched for the
/// member's name.
#[derive(Debug, Default)]
pub struct LastNumbered {
    event: Option<Event>,
    /// The number of the first event of its type since the type has changed.
    first_of_type: Option<u64>,
}

/// The kinds of events that the gateway distinguishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// Carries the response so far: `response.created`, `.queued`, `.in_progress`.
    Snapshot,
    /// Carries the finished response: `response.completed`, `.incomplete`, `.failed`.
    Terminal,
    /// Carries an output item that begins: `response.output_item.added`.
    ItemAdded,
    /// Carries a finished output item: `response.output_item.done`.
    ItemDone,
    /// Ends the stream without a response.
    Error,
    /// Everything else, including unknown types.
    Other,
}

impl EventKind {
    pub fn of(name: &[u8]) -> Self {
        match name {
            b"response.created" | b"response.queued" | b"response.in_progress" => Self::Snapshot,
            b"response.completed" | b"response.incomplete" | b"response.failed" => Self::Terminal,
            b"response.output_item.added" => Self::ItemAdded,
            b"response.output_item.done" => Self::ItemDone,
            b"error" => Self::Error,
            _ => Self::Other,
        }
    }

    /// The kind by the event's name if it has one, else by the `type` in its data. An event of the default name `message` has
    /// none.
    pub fn of_event(name: Option<&[u8]>, data: &[u8]) -> Self {
        match name.filter(|name| *name != b"message") {
            Some(name) => Self::of(name),
            None => json::string_member(data, "type").map_or(Self::Other, |kind| Self::of(kind.as_bytes())),
        }
    }
}

// === impl Event ===

impl Event {
    /// The event with this data: one JSON object, whose `type` is the event's name.
    pub fn of_message(data: Bytes) -> Self {
        Self::Message { kind: EventKind::of_event(None, &data), data }
    }

    pub fn kind(&self) -> EventKind {
        match self {
            Self::Sse(frame) => EventKind::of_event(frame.event(), &frame.data().unwrap_or_default()),
            Self::Message { kind, .. } => *kind,
        }
    }

    /// The name in its server-sent event; `None` for a message, which has its name in its data.
    pub fn name(&self) -> Option<&[u8]> {
        match self {
            Self::Sse(frame) => frame.event(),
            Self::Message { .. } => None,
        }
    }

    /// `None` for a comment.
    pub fn data(&self) -> Option<Cow<'_, [u8]>> {
        match self {
            Self::Sse(frame) => frame.data(),
            Self::Message { data, .. } => Some(Cow::Borrowed(data)),
        }
    }

    /// Its number in its stream.
    pub fn number(&self) -> Option<u64> {
        sequence_number(&self.data()?)
    }

    /// Whether it is about the account, as `codex.rate_limits` is, or nothing at all: an error may still follow in place of the
    /// response.
    pub fn is_prelude(&self) -> bool {
        let Some(data) = self.data() else { return true };
        if self.kind() != EventKind::Other || data.len() > MAX_PRELUDE_EVENT_BYTES {
            return false;
        }
        match self.own_name() {
            Some(name) => !name.starts_with(b"response."),
            None => json::string_member(&data, "type").is_none_or(|kind| !kind.starts_with("response.")),
        }
    }

    /// The name, unless it is the default one.
    fn own_name(&self) -> Option<&[u8]> {
        self.name().filter(|name| *name != b"message")
    }

    /// Whether both have the same type, as far as a glance can tell.
    fn is_like(&self, other: &Self) -> bool {
        match (self.own_name(), other.own_name()) {
            (Some(name), Some(other)) => name == other,
            (None, None) => match (self.data(), other.data()) {
                (Some(data), Some(other)) => {
                    leading_type(&data).is_some_and(|kind| leading_type(&other) == Some(kind))
                }
                _ => false,
            },
            _ => false,
        }
    }

    /// The data as its own value. It shares memory with the received bytes unless it was split over several lines.
    pub fn shared_data(&self) -> Option<Bytes> {
        match self {
            Self::Sse(frame) => frame.shared_data(),
            Self::Message { data, .. } => Some(data.clone()),
        }
    }
}

// === impl LastNumbered ===

impl LastNumbered {
    pub fn note(&mut self, event: Event) {
        if self.event.as_ref().is_some_and(|last| last.is_like(&event)) {
            if event.data().is_none_or(|data| memmem::find(&data, b"sequence_number").is_none()) {
                return;
            }
        } else {
            let Some(number) = event.number() else { return };
            self.first_of_type = Some(number);
        }
        self.event = Some(event);
    }

    pub fn number(&self) -> Option<u64> {
        self.event.as_ref().and_then(Event::number).or(self.first_of_type)
    }
}

/// The type in the data of an event, if it comes first.
fn leading_type(data: &[u8]) -> Option<&[u8]> {
    let kind = data.strip_prefix(br#"{"type":""#)?;
    Some(&kind[..memchr(b'"', kind)?])
}

/// The event's number in its stream.
pub fn sequence_number(data: &[u8]) -> Option<u64> {
    number(data, "sequence_number")
}

/// The position in the output that an event is about.
pub fn output_index(data: &[u8]) -> Option<u64> {
    number(data, "output_index")
}

fn number(data: &[u8], name: &str) -> Option<u64> {
    std::str::from_utf8(json::member(data, name)?).ok()?.parse().ok()
}

/// Writes a server-sent event. A line end in the data, which in JSON is whitespace, begins another `data` line. An empty name
/// is left out, and one with a line end, as it would be several lines; the data holds it as its `type`.
pub fn write_sse(out: &mut Vec<u8>, name: &[u8], data: &[u8]) {
    if !name.is_empty() && memchr2(b'\n', b'\r', name).is_none() {
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(name);
        out.push(b'\n');
    }
    let mut begin = 0;
    for end in memchr2_iter(b'\n', b'\r', data).chain([data.len()]) {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(&data[begin..end]);
        out.push(b'\n');
        begin = end + 1;
    }
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sse::Decoder;

    #[test]
    fn an_event_without_a_name_is_recognised_by_its_type() {
        assert_eq!(EventKind::of_event(None, br#"{"type":"response.completed"}"#), EventKind::Terminal);
        assert_eq!(EventKind::of_event(Some(b"response.queued"), b"{}"), EventKind::Snapshot);
        assert_eq!(EventKind::of_event(None, b"[DONE]"), EventKind::Other);
        assert_eq!(EventKind::of_event(Some(b"response.new_thing"), b"{}"), EventKind::Other);
    }

    #[test]
    fn the_sequence_number_is_read_from_the_data() {
        assert_eq!(sequence_number(br#"{"a":{"sequence_number":1},"sequence_number":12}"#), Some(12));
        assert_eq!(sequence_number(b"{}"), None);
    }

    fn message(data: &'static str) -> Event {
        Event::of_message(Bytes::from_static(data.as_bytes()))
    }

    fn frame(text: &'static str) -> Event {
        let mut decoder = Decoder::new(1 << 10);
        decoder.push(Bytes::from_static(text.as_bytes()));
        Event::Sse(decoder.next_frame().unwrap().unwrap())
    }

    #[test]
    fn events_without_a_number_do_not_hide_the_last_one() {
        let mut last = LastNumbered::default();
        assert_eq!(last.number(), None);
        for (event, number) in [
            (message(r#"{"type":"response.a","sequence_number":3}"#), 3),
            (message(r#"{"type":"response.a","sequence_number":4}"#), 4),
            (message(r#"{"type":"response.metadata","x":1}"#), 4),
            (message(r#"{ "type":"response.a","sequence_number":5}"#), 5),
            (message(r#"{"type":"codex.rate_limits"}"#), 5),
            (frame("event: response.a\ndata: {\"sequence_number\":6}\n\n"), 6),
            (frame("event: response.a\ndata: {\"sequence_number\":7}\n\n"), 7),
            (frame("event: response.a\ndata: {}\n\n"), 7),
            (frame("event: response.metadata\ndata: {}\n\n"), 7),
            (frame("event: message\ndata: {\"sequence_number\":8}\n\n"), 8),
            (frame("event: message\ndata: {}\n\n"), 8),
            (frame(": comment\n\n"), 8),
            (frame("data: [DONE]\n\n"), 8),
        ] {
            last.note(event.clone());
            assert_eq!(last.number(), Some(number), "after {event:?}");
        }
    }

    #[test]
    fn what_is_not_of_a_response_comes_before_it() {
        for event in [
            message(r#"{"type":"codex.rate_limits"}"#),
            frame("event: ping\ndata: {\"type\":\"ping\"}\n\n"),
            frame("data:\n\n"),
            frame("data: [DONE]\n\n"),
            frame(": comment\n\n"),
        ] {
            assert!(event.is_prelude(), "{event:?}");
        }
        for event in [
            message(r#"{"type":"response.new_thing"}"#),
            message(r#"{"type":"error"}"#),
            frame("event: response.created\ndata: {}\n\n"),
            frame("event: message\ndata: {\"type\":\"response.new_thing\"}\n\n"),
        ] {
            assert!(!event.is_prelude(), "{event:?}");
        }
    }

    #[test]
    fn a_written_event_is_one_event_whatever_line_ends_are_in_it() {
        let written = |name: &[u8], data: &[u8]| {
            let mut out = Vec::new();
            write_sse(&mut out, name, data);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(written(b"a", b"{\r\r\n\n}"), "event: a\ndata: {\ndata: \ndata: \ndata: \ndata: }\n\n");
        assert_eq!(written(b"a\n\ndata: x", b"{}"), "data: {}\n\n");
        assert_eq!(written(b"a\rdata: x", b"{}"), "data: {}\n\n");
        assert_eq!(written(b"", b"{}"), "data: {}\n\n");
    }
}
