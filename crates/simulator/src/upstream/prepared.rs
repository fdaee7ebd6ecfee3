//! Replies rendered once, of which only the ids differ: the upstream of benchmarks.

use super::body::Step;
use super::event::{self, Framing};
use super::item::Item;
use super::mint::Mint;
use super::options::Options;
use super::reply::Reply;
use super::request::{Endpoint, TurnRequest};
use super::script::{Ending, Output};
use bytes::Bytes;
use memchr::memmem::{Finder, find_iter};
use std::collections::VecDeque;
use std::time::Duration;

/// The part of an id that is written anew in every reply.
const SLOT: usize = 16;
/// A stream goes out in so many writes: enough that a relay has to wait in between, few enough to be cheap.
const WRITES: usize = 3;

#[derive(Debug)]
pub(super) struct Prepared {
    stream_field: Finder<'static>,
    collected: Template,
    stream: Template,
    /// Where each event of the stream ends.
    event_ends: Vec<usize>,
    between_events: Duration,
}

#[derive(Debug)]
struct Template {
    bytes: Vec<u8>,
    slots: Vec<usize>,
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
        let events = event::render(&reply, None, options.text_deltas, Framing::Sse);
        let mut event_ends = Vec::with_capacity(events.len());
        let mut stream = Vec::new();
        for event in events {
            stream.extend_from_slice(&event);
            event_ends.push(stream.len());
        }
        Self {
            stream_field: Finder::new("\"stream\""),
            collected: Template::new(reply.collected().into_bytes(), &slot),
            stream: Template::new(stream, &slot),
            event_ends,
            between_events: options.between_events,
        }
    }

    /// Whether a body asks for a stream, without reading it as JSON.
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
        let mut steps = VecDeque::with_capacity(2 * WRITES);
        let paced = !self.between_events.is_zero();
        let events_per_write = if paced { 1 } else { self.event_ends.len().div_ceil(WRITES) };
        let mut start = 0;
        for ends in self.event_ends.chunks(events_per_write) {
            let end = ends.last().copied().unwrap_or(start);
            if start > 0 {
                steps.push_back(Step::Flush);
            }
            if start > 0 && paced {
                steps.push_back(Step::Pause(self.between_events));
            }
            steps.push_back(Step::Data(bytes.slice(start..end)));
            start = end;
        }
        steps
    }
}

impl Template {
    fn new(bytes: Vec<u8>, slot: &str) -> Self {
        let slots = find_iter(&bytes, slot).collect();
        Self { bytes, slots }
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
