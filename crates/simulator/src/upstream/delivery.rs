//! Delivery: turns rendered events, or a rendered body, into the steps that send them.

use super::body::{Cut, Step};
use super::script::{Delivery, GateAt, Stop, Writes};
use bytes::Bytes;
use std::collections::VecDeque;
use std::future::pending;
use std::time::Duration;

/// Waits before the reply, as scripted. Fails if the script sends no reply.
pub(super) async fn before_headers(delivery: &Delivery) -> Result<(), Cut> {
    if !delivery.before_headers.is_zero() {
        tokio::time::sleep(delivery.before_headers).await;
    }
    if let Some((GateAt::Headers, gate)) = &delivery.gate {
        gate.clone().pass().await;
    }
    match delivery.stop {
        Some(Stop::DropBeforeHeaders) => Err(Cut),
        Some(Stop::HangBeforeHeaders) => pending().await,
        _ => Ok(()),
    }
}

/// The steps of a stream. `injected` bytes go before the event with their number.
pub(super) fn stream(
    events: Vec<Bytes>,
    injected: &[(usize, Bytes)],
    delivery: &Delivery,
    between_events: Duration,
) -> VecDeque<Step> {
    let between = delivery.between_events.unwrap_or(between_events);
    let mut steps = Steps::new(delivery.writes);
    steps.pause(delivery.before_first_event);
    let last = events.len();
    for (number, event) in events.into_iter().enumerate() {
        if number > 0 {
            steps.pause(between);
        }
        if steps.stops(delivery, number, &event) {
            return steps.finish();
        }
        for (_, bytes) in injected.iter().filter(|(at, _)| *at == number) {
            steps.data(bytes.clone());
        }
        steps.data(event);
    }
    if !steps.stops(delivery, last, &Bytes::new()) {
        for (_, bytes) in injected.iter().filter(|(at, _)| *at >= last) {
            steps.data(bytes.clone());
        }
    }
    steps.finish()
}

/// The steps of a collected body; any stop is in its middle.
pub(super) fn collected(body: &Bytes, delivery: &Delivery) -> VecDeque<Step> {
    let mut steps = Steps::new(delivery.writes);
    let stop = match delivery.stop {
        Some(Stop::Cut { .. } | Stop::Close { .. }) => Some(Step::Cut),
        Some(Stop::Hang { .. }) => Some(Step::Hang),
        _ => None,
    };
    match stop {
        Some(stop) => {
            steps.data(body.slice(..body.len() / 2));
            steps.push_flushed(stop);
        }
        None => steps.data(body.clone()),
    }
    steps.finish()
}

struct Steps {
    list: VecDeque<Step>,
    writes: Writes,
    /// Bytes of the next write.
    held: Vec<u8>,
}

impl Steps {
    fn new(writes: Writes) -> Self {
        Self { list: VecDeque::new(), writes, held: Vec::new() }
    }

    fn data(&mut self, mut bytes: Bytes) {
        match self.writes {
            Writes::PerEvent => self.write(bytes),
            Writes::OfSize(size) => {
                while !bytes.is_empty() {
                    let missing = size - self.held.len();
                    let piece = bytes.split_to(missing.min(bytes.len()));
                    if piece.len() == size {
                        self.write(piece);
                        continue;
                    }
                    self.held.extend_from_slice(&piece);
                    if self.held.len() == size {
                        self.flush();
                    }
                }
            }
            Writes::One => self.held.extend_from_slice(&bytes),
        }
    }

    fn write(&mut self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        if !self.list.is_empty() {
            self.list.push_back(Step::Flush);
        }
        self.list.push_back(Step::Data(bytes));
    }

    fn pause(&mut self, time: Duration) {
        if !time.is_zero() {
            self.push_flushed(Step::Pause(time));
        }
    }

    /// Adds a step after a flush, so that earlier bytes do not wait for it.
    fn push_flushed(&mut self, step: Step) {
        self.flush();
        self.list.push_back(Step::Flush);
        self.list.push_back(step);
    }

    fn flush(&mut self) {
        let held = std::mem::take(&mut self.held);
        self.write(held.into());
    }

    /// Adds the gate or the stop after `number` events, if there is one. `true` if nothing may follow.
    fn stops(&mut self, delivery: &Delivery, number: usize, next: &Bytes) -> bool {
        if let Some((GateAt::Event(at), gate)) = &delivery.gate
            && *at == number
        {
            self.push_flushed(Step::Gate(gate.clone()));
        }
        match delivery.stop {
            Some(Stop::Cut { events, inside }) if events == number => {
                if inside {
                    self.data(next.slice(..next.len() / 2));
                }
                self.push_flushed(Step::Cut);
                true
            }
            Some(Stop::Close { events, .. }) if events == number => {
                self.push_flushed(Step::Cut);
                true
            }
            Some(Stop::Hang { events }) if events == number => {
                self.push_flushed(Step::Hang);
                true
            }
            Some(Stop::End { events }) => events == number,
            _ => false,
        }
    }

    fn finish(mut self) -> VecDeque<Step> {
        self.flush();
        self.list
    }
}
