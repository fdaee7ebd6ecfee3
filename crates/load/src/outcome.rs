//! Results of single turns, and their sums.

use crate::reply::Parent;
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Failure {
    Connect,
    Status(u16),
    /// The connection ended before the reply did.
    Cut,
    /// The stream ended cleanly, but without a terminal event.
    NoTerminal,
    /// A terminal event other than `response.completed`, or an `error` event.
    NotCompleted,
    /// A reply without a response id, so that the chain cannot continue.
    NoId,
    /// A reply without a call, whose output the next turn would send.
    NoCall,
    Timeout,
}

impl Failure {
    /// Whether the connection cannot be used any more.
    pub(crate) fn loses_connection(self) -> bool {
        matches!(self, Self::Connect | Self::Cut | Self::Timeout)
    }

    pub(crate) fn name(self) -> String {
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

/// A successful turn.
#[derive(Debug, Default)]
pub(crate) struct Success {
    pub(crate) bytes: u64,
    pub(crate) first_event: Option<Duration>,
    /// Of each delta, in nanoseconds.
    pub(crate) delays: Vec<u64>,
    /// For the next turn of a chain.
    pub(crate) parent: Option<Parent>,
}

/// The total time of all turns with the same number in their chain.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TurnTime {
    pub(crate) count: u32,
    pub(crate) total: Duration,
}

impl TurnTime {
    pub(crate) fn add(&mut self, other: Self) {
        self.count += other.count;
        self.total += other.total;
    }
}

/// The results of one worker.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) started: Instant,
    pub(crate) ended: Instant,
    pub(crate) latency: Histogram<u64>,
    pub(crate) first_event: Histogram<u64>,
    pub(crate) delta_delay: Histogram<u64>,
    pub(crate) bytes: u64,
    pub(crate) failures: BTreeMap<Failure, u64>,
    /// By number in the chain; only those that are reported.
    pub(crate) turns: BTreeMap<usize, TurnTime>,
}

impl Tally {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self {
            started: now,
            ended: now,
            latency: nanoseconds(),
            first_event: nanoseconds(),
            delta_delay: nanoseconds(),
            bytes: 0,
            failures: BTreeMap::new(),
            turns: BTreeMap::new(),
        }
    }

    pub(crate) fn count(&mut self, took: Duration, outcome: Result<&Success, Failure>) {
        match outcome {
            Ok(success) => {
                record(&mut self.latency, took);
                if let Some(first_event) = success.first_event {
                    record(&mut self.first_event, first_event);
                }
                for delay in &success.delays {
                    record(&mut self.delta_delay, Duration::from_nanos(*delay));
                }
                self.bytes += success.bytes;
            }
            Err(failure) => *self.failures.entry(failure).or_default() += 1,
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.started = self.started.min(other.started);
        self.ended = self.ended.max(other.ended);
        self.latency.add(&other.latency).expect("histograms that resize can always be added");
        self.first_event.add(&other.first_event).expect("histograms that resize can always be added");
        self.delta_delay.add(&other.delta_delay).expect("histograms that resize can always be added");
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
