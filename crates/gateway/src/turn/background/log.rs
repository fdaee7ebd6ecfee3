//! The event log of a running background turn: its events get their numbers here, and are written before anybody reads them.

use std::time::{Duration, Instant};

use antiphon_protocol::event::{Event, EventKind, sequence_number, write_sse};
use antiphon_protocol::include::HiddenParts;
use antiphon_protocol::json::{Set, set_members};
use antiphon_protocol::sse::{Decoder, Frame};
use antiphon_store::EventChunk;
use bytes::Bytes;

use crate::turn::hiding::hide_in_event;

/// A chunk is written once it holds so many events or bytes, or its first event is so old. Readers see events this late.
const CHUNK_EVENTS: usize = 64;
const CHUNK_BYTES: usize = 32 * 1024;
const CHUNK_AGE: Duration = Duration::from_millis(50);
/// How far an upstream's numbers may jump.
const MAX_GAP: u64 = 1_000_000;

/// Events that are not written yet.
#[derive(Debug, Default)]
pub struct UnwrittenEvents {
    /// The number of the last event, written or not.
    last: Option<u64>,
    first: u64,
    events: usize,
    bytes: Vec<u8>,
    since: Option<Instant>,
    /// Whether any event is more than the start of the response.
    has_content: bool,
    /// Whether the upstream is asked for events by the numbers in the log.
    follows_upstream: bool,
}

/// The frames of server-sent events that are whole.
pub fn frames(bytes: &Bytes) -> impl Iterator<Item = Frame> {
    let mut decoder = Decoder::new(usize::MAX);
    decoder.push(bytes.clone());
    std::iter::from_fn(move || decoder.next_frame().ok().flatten())
}

/// The events without these parts of items.
pub fn hide_in_events(events: &Bytes, hidden: HiddenParts) -> Bytes {
    let mut shown = Vec::with_capacity(events.len());
    for frame in frames(events) {
        match hide_in_event(&Event::Sse(frame.clone()), hidden) {
            Some(data) => write_sse(&mut shown, &name(&frame, &data), &data),
            None => shown.extend_from_slice(&frame.raw),
        }
    }
    shown.into()
}

/// Whether an event is more than the start of the response. Those that are not of the response are none of it.
pub fn is_content(frame: &Frame) -> bool {
    let event = Event::Sse(frame.clone());
    event.kind() != EventKind::Snapshot && !event.is_prelude()
}

// === impl UnwrittenEvents ===

impl UnwrittenEvents {
    /// Continues a log.
    pub fn after(last: Option<u64>, has_content: bool) -> Self {
        Self { last, has_content, ..Self::default() }
    }

    pub fn last(&self) -> Option<u64> {
        self.last
    }

    pub fn has_content(&self) -> bool {
        self.has_content
    }

    /// From now on the numbers are the upstream's: what has none, and is not of the response, takes none of them.
    pub fn follow_upstream(&mut self) {
        self.follows_upstream = true;
    }

    /// Adds whole events. Their numbers have no gap, unless they are the upstream's. Comments are left out, and so is the start
    /// of the response if the log has one, apart from a `response.queued` whose number is free.
    pub fn push(&mut self, bytes: &Bytes) {
        for frame in frames(bytes) {
            self.push_frame(&frame);
        }
    }

    fn push_frame(&mut self, frame: &Frame) {
        let Some(data) = frame.data().filter(|data| data.trim_ascii_start().starts_with(b"{")) else {
            return;
        };
        let own = sequence_number(&data);
        let is_repeated = match &name(frame, &data)[..] {
            b"response.created" => self.last.is_some(),
            // Without it the numbers of an upstream that sends it second would have a gap.
            b"response.queued" => self.last.is_some() && own <= self.last,
            _ => false,
        };
        if is_repeated || (self.follows_upstream && own.is_none() && Event::Sse(frame.clone()).is_prelude()) {
            return;
        }
        self.has_content = self.has_content || is_content(frame);
        let next = self.last.map_or(0, |last| last + 1);
        let own = own.filter(|own| *own == next || (self.follows_upstream && *own <= next + MAX_GAP));
        let number = own.unwrap_or(next).max(next);
        if self.events == 0 {
            self.first = number;
            self.since = Some(Instant::now());
        }
        if own == Some(number) {
            self.bytes.extend_from_slice(&frame.raw);
        } else {
            let value = number.to_string();
            let set = [Set { name: "sequence_number", value: value.as_bytes(), add: true }];
            let mut numbered = Vec::with_capacity(data.len() + 32);
            if set_members(&data, &set, &mut numbered).is_err() {
                return;
            }
            write_sse(&mut self.bytes, &name(frame, &data), &numbered);
        }
        self.last = Some(number);
        self.events += 1;
    }

    pub fn is_full(&self) -> bool {
        self.events >= CHUNK_EVENTS || self.bytes.len() >= CHUNK_BYTES
    }

    /// When the events are to be written; `None` if there are none.
    pub fn due_at(&self) -> Option<Instant> {
        self.since.map(|since| since + CHUNK_AGE)
    }

    /// Takes the events as a chunk.
    pub fn take(&mut self) -> Option<EventChunk> {
        self.since = None;
        self.events = 0;
        let last = self.last?;
        let bytes = std::mem::take(&mut self.bytes);
        (!bytes.is_empty()).then(|| EventChunk { first: self.first, last, bytes: bytes.into() })
    }
}

fn name(frame: &Frame, data: &[u8]) -> Vec<u8> {
    let kind = || antiphon_protocol::json::string_member(data, "type").unwrap_or_default().into_owned();
    frame.event().map_or_else(|| kind().into_bytes(), <[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, number: Option<u64>) -> Bytes {
        let number = number.map_or_else(String::new, |number| format!(r#","sequence_number":{number}"#));
        format!("event: {name}\ndata: {{\"type\":\"{name}\"{number}}}\n\n").into()
    }

    fn numbers(log: &mut UnwrittenEvents) -> Vec<u64> {
        let chunk = log.take().unwrap();
        let numbers: Vec<_> =
            frames(&chunk.bytes).map(|frame| sequence_number(&frame.data().unwrap()).unwrap()).collect();
        assert_eq!((Some(&chunk.first), Some(&chunk.last)), (numbers.first(), numbers.last()));
        numbers
    }

    #[test]
    fn numbers_have_no_gap_and_those_of_an_upstream_that_is_followed_stay_if_they_grow() {
        for (follows_upstream, kept) in [(false, [0, 1, 2, 3, 4, 5, 6]), (true, [0, 1, 4, 5, 6, 7, 9])] {
            let mut log = UnwrittenEvents { follows_upstream, ..UnwrittenEvents::default() };
            for number in [Some(0), Some(1), Some(4), Some(2), None, Some(u64::MAX), Some(9)] {
                log.push(&event("response.output_text.delta", number));
            }
            assert_eq!(numbers(&mut log), kept);
            assert!(log.take().is_none());
            log.push(&event("x", Some(3)));
            assert_eq!(numbers(&mut log), [kept[6] + 1]);
        }
    }

    #[test]
    fn events_of_an_upstream_that_is_followed_take_no_number_of_those_of_the_response() {
        let mut log = UnwrittenEvents::default();
        log.follow_upstream();
        for (name, number) in
            [("response.created", Some(0)), ("keepalive", None), ("keepalive", Some(1)), ("response.x", None)]
        {
            log.push(&event(name, number));
        }
        assert_eq!(numbers(&mut log), [0, 1, 2]);
        assert!(log.has_content());
    }

    #[test]
    fn an_event_that_keeps_its_number_keeps_its_bytes() {
        let mut log = UnwrittenEvents::default();
        let odd = Bytes::from_static(b"event:x\r\ndata:{ \"sequence_number\":0, \"n\":1.50 }\r\n\r\n");
        log.push(&odd);
        assert_eq!(log.take().unwrap().bytes, odd);
    }

    #[test]
    fn only_events_with_hidden_parts_are_rewritten() {
        const SEALED: &str = r#"{"type":"reasoning","encrypted_content":"x","summary":[]}"#;
        const SHOWN: &str = r#"{"type":"reasoning","summary":[]}"#;
        let events = |item: &str| {
            let odd = "event:odd\r\ndata:{ \"encrypted_content\":\"x\", \"n\":1.50 }\r\n\r\n";
            let nameless = format!("data: {{\"type\":\"response.output_item.done\",\"item\":{item}}}\n\n");
            let end = format!("{{\"type\":\"response.completed\",\"response\":{{\"output\":[{item}]}}}}");
            (format!("{odd}{nameless}"), format!("event: response.completed\ndata: {end}\n\n{odd}"))
        };
        let ((first, second), (shown, shown_second)) = (events(SEALED), events(SHOWN));
        let whole = Bytes::from(first + &second);
        let named = shown.replace("data: {\"type", "event: response.output_item.done\ndata: {\"type");
        assert_eq!(hide_in_events(&whole, HiddenParts::ENCRYPTED_REASONING), named + &shown_second);
        assert_eq!(hide_in_events(&whole, HiddenParts::NOTHING), whole);
    }

    #[test]
    fn the_response_starts_once_and_comments_are_left_out() {
        let mut log = UnwrittenEvents::default();
        log.push(&event("response.created", Some(0)));
        assert_eq!(log.take().unwrap().last, 0);
        log.push(&Bytes::from_static(b": keep-alive\n\ndata: [DONE]\n\n"));
        log.push(&event("response.created", Some(0)));
        log.push(&event("response.queued", Some(0)));
        log.push(&event("response.queued", None));
        assert!(log.take().is_none() && !log.has_content());
        log.push(&event("response.queued", Some(1)));
        assert!(!log.has_content());
        log.push(&event("response.in_progress", Some(2)));
        assert!(!log.has_content());
        log.push(&event("response.output_item.added", Some(3)));
        assert!(log.has_content());
        log.push(&event("response.queued", Some(1)));
        assert_eq!(numbers(&mut log), [1, 2, 3]);
    }
}
