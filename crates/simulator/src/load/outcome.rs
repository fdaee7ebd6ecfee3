//! How single turns went, and their sum.

use super::reply::Parent;
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Failure {
    Connect,
    Status(u16),
    /// The connection ended before the reply did.
    Cut,
    /// The stream ended in good order, but without a terminal event.
    NoTerminal,
    /// A terminal event other than `response.completed`, or an `error` event.
    NotCompleted,
    /// A reply without a response id, so the chain cannot go on.
    NoId,
    /// A reply without a call, where a tool has to answer one.
    NoCall,
    Timeout,
}

impl Failure {
    /// Whether the connection cannot be used any more.
    pub(super) fn loses_connection(self) -> bool {
        matches!(self, Self::Connect | Self::Cut | Self::Timeout)
    }

    pub(super) fn name(self) -> String {
        match self {
            Self::Connect => String::from("connect"),
            Self::Status(status) => format!("http_{status}"),
            Self::Cut => String::from("cut"),
            Self::NoTerminal => String::from("no_terminal"),
            Self::NotCompleted => String::from("not_completed"),
            Self::NoId => String::from("no_id"),
            Self::NoCall => String::from("no_call"),
            Self::Timeout => String::from("timeout"),
        }
    }
}

/// A turn that went well.
#[derive(Debug, Default)]
pub(super) struct Success {
    pub(super) bytes: u64,
    pub(super) first_event: Option<Duration>,
    /// For the next turn of a chain.
    pub(super) parent: Option<Parent>,
}

/// What the turns with one number in their chains took together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TurnTime {
    pub(super) count: u32,
    pub(super) total: Duration,
}

impl TurnTime {
    pub(super) fn add(&mut self, other: Self) {
        self.count += other.count;
        self.total += other.total;
    }
}

/// The turns of one worker.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) started: Instant,
    pub(super) ended: Instant,
    pub(super) latency: Histogram<u64>,
    pub(super) first_event: Histogram<u64>,
    pub(super) bytes: u64,
    pub(super) failures: BTreeMap<Failure, u64>,
    /// By number in the chain; only those that are reported.
    pub(super) turns: BTreeMap<usize, TurnTime>,
}

impl Tally {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            started: now,
            ended: now,
            latency: nanoseconds(),
            first_event: nanoseconds(),
            bytes: 0,
            failures: BTreeMap::new(),
            turns: BTreeMap::new(),
        }
    }

    pub(super) fn count(&mut self, took: Duration, outcome: Result<&Success, Failure>) {
        match outcome {
            Ok(success) => {
                record(&mut self.latency, took);
                if let Some(first_event) = success.first_event {
                    record(&mut self.first_event, first_event);
                }
                self.bytes += success.bytes;
            }
            Err(failure) => *self.failures.entry(failure).or_default() += 1,
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.started = self.started.min(other.started);
        self.ended = self.ended.max(other.ended);
        self.latency.add(&other.latency).expect("histograms that resize can always be added");
        self.first_event.add(&other.first_event).expect("histograms that resize can always be added");
        self.bytes += other.bytes;
        for (failure, count) in &other.failures {
            *self.failures.entry(*failure).or_default() += count;
        }
        for (turn, time) in &other.turns {
            self.turns.entry(*turn).or_default().add(*time);
        }
    }
}

fn nanoseconds() -> Histogram<u64> {
    Histogram::new(3).expect("three significant digits are allowed")
}

fn record(histogram: &mut Histogram<u64>, took: Duration) {
    let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
    histogram.record(nanoseconds).expect("the histogram grows with what it records");
}
