//! Prepared replies for benchmarks: rendered once, with only the ids replaced.

use super::body::Step;
use super::event::{self, Framing};
use super::item::Item;
use super::mint::Mint;
use super::options::Options;
use super::reply::Reply;
use super::request::{Endpoint, TurnRequest};
use super::script::{Ending, Output};
use super::stamp;
use bytes::Bytes;
use memchr::memmem::{self, Finder, find_iter};
use std::collections::VecDeque;
use std::time::Duration;

/// The part of an id that is written anew in every reply.
const SLOT: usize = 16;
/// The number of writes per stream: enough that a relay has to wait in between, few enough to be cheap.
const WRITES: usize = 3;

#[derive(Debug)]
pub(super) struct Prepared {
    stream_field: Finder<'static>,
    collected: Template,
    stream: Template,
    /// The messages of the unnamed lane of a socket.
    messages: Template,
    between_events: Duration,
    event_by_event: bool,
}

/// Bytes that only differ in their slots.
#[derive(Debug)]
struct Template {
    bytes: Vec<u8>,
    slots: Vec<usize>,
    /// The end of each part.
    ends: Vec<usize>,
}

impl Prepared {
    pub(super) fn new(options: &Options, created_at: u64) -> Self {
        let mint = Mint::new();
        let family = mint.family(created_at);
        let request = TurnRequest::parse(Endpoint::Create, br#"{"model":"sim","input":"","store":false}"#)
            .expect("the request written here is valid");
        let output = Output::Message { text: options.answer.clone() };
        let reply = Reply {
            request: &request,
            id: family.id("resp"),
            created_at,
            items: vec![Item::new(&output, &family, None)],
            ending: Ending::Completed,
            usage: None,
        };
        let slot = reply.id["resp_".len()..][..SLOT].to_owned();
        let render = |framing| {
            let events = event::render(&reply, None, options.text_deltas, framing);
            events.into_iter().map(with_stamp).collect::<Vec<_>>()
        };
        Self {
            stream_field: Finder::new("\"stream\""),
            collected: Template::new(&[reply.collected().into()], &slot),
            stream: Template::new(&render(Framing::Sse), &slot),
            messages: Template::new(&render(Framing::Text { lane: None }), &slot),
            between_events: options.between_events,
            event_by_event: options.event_by_event,
        }
    }

    /// Whether a body requests a stream, found without parsing the JSON.
    pub(super) fn wants_stream(&self, body: &[u8]) -> bool {
        self.stream_field.find_iter(body).any(|at| {
            let mut rest = body[at + "\"stream\"".len()..].iter().filter(|byte| !byte.is_ascii_whitespace());
            rest.next() == Some(&b':') && rest.next() == Some(&b't')
        })
    }

    pub(super) fn collected(&self, drawn: u64) -> Bytes {
        self.collected.fill(drawn)
    }

    pub(super) fn stream(&self, drawn: u64) -> VecDeque<Step> {
        let bytes = self.stream.fill(drawn);
        let mut start = 0;
        let mut steps = VecDeque::with_capacity(2 * WRITES);
        for ends in self.stream.ends.chunks(self.parts_per_write(&self.stream)) {
            let end = ends.last().copied().unwrap_or(start);
            if start > 0 {
                steps.push_back(Step::Flush);
            }
            if start > 0 && !self.between_events.is_zero() {
                steps.push_back(Step::Pause(self.between_events));
            }
            let data = bytes.slice(start..end);
            steps.push_back(if self.event_by_event { Step::Stamped(data) } else { Step::Data(data) });
            start = end;
        }
        steps
    }

    /// The messages of a turn, grouped by write.
    pub(super) fn messages(&self, drawn: u64) -> Vec<Vec<Bytes>> {
        let bytes = self.messages.fill(drawn);
        let mut start = 0;
        let writes = self.messages.ends.chunks(self.parts_per_write(&self.messages));
        writes
            .map(|ends| {
                let messages = ends.iter().map(|&end| bytes.slice(std::mem::replace(&mut start, end)..end));
                messages.collect()
            })
            .collect()
    }

    fn parts_per_write(&self, template: &Template) -> usize {
        if self.event_by_event || !self.between_events.is_zero() {
            1
        } else {
            template.ends.len().div_ceil(WRITES)
        }
    }
}

/// A delta with the padding of real ones.
fn with_stamp(event: Bytes) -> Bytes {
    const END: &str = "\"logprobs\":[]}";
    match memmem::rfind(&event, END.as_bytes()) {
        Some(at) if memmem::find(&event, b"\"delta\"").is_some() => {
            let (head, tail) = event.split_at(at + END.len() - 1);
            [head, b",", stamp::empty().as_bytes(), tail].concat().into()
        }
        _ => event,
    }
}

impl Template {
    fn new(parts: &[Bytes], slot: &str) -> Self {
        let bytes = parts.concat();
        let slots = find_iter(&bytes, slot).collect();
        let mut end = 0;
        let ends = parts.iter().map(|part| {
            end += part.len();
            end
        });
        Self { slots, ends: ends.collect(), bytes }
    }

    fn fill(&self, drawn: u64) -> Bytes {
        let mut bytes = self.bytes.clone();
        let digits = format!("{drawn:016x}");
        for &slot in &self.slots {
            bytes[slot..slot + SLOT].copy_from_slice(digits.as_bytes());
        }
        bytes.into()
    }
}
