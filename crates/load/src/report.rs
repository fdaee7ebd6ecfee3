//! The results of a run, as text and as JSON.

use crate::outcome::{Tally, TurnTime};
use crate::{LoadOptions, Mode};
use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// The results of a run. Times are those of successful turns.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub mode: &'static str,
    pub concurrency: usize,
    /// All turns, including failed ones.
    pub requests: u64,
    /// Failed turns by kind.
    pub errors: BTreeMap<String, u64>,
    pub seconds: f64,
    /// Successful turns per second.
    pub requests_per_second: f64,
    pub latency: Latency,
    /// Time to the first bytes of a stream, or to a socket's first event.
    pub first_event: Option<Latency>,
    /// How long deltas took from the upstream to here.
    pub delta_delay: Option<Latency>,
    /// Bytes of reply bodies, or of a socket's events.
    pub bytes: u64,
    /// Mean microseconds of the requested turns, by their number in the chain; turns that were not reached are missing.
    pub turns: BTreeMap<usize, f64>,
}

/// Latencies in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    pub min_us: f64,
    pub mean_us: f64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub max_us: f64,
}

impl Report {
    pub(crate) fn sum(options: &LoadOptions, tallies: Vec<Tally>) -> Self {
        let mut tallies = tallies.into_iter();
        let mut sum = tallies.next().unwrap_or_else(Tally::new);
        for tally in tallies {
            sum.add(&tally);
        }
        let errors: BTreeMap<String, u64> =
            sum.failures.iter().map(|(kind, count)| (kind.name(), *count)).collect();
        let succeeded = sum.latency.len();
        let seconds = sum.ended.duration_since(sum.started).as_secs_f64();
        Self {
            mode: match options.mode {
                Mode::Json => "json",
                Mode::Sse => "sse",
                Mode::Ws => "ws",
            },
            concurrency: options.concurrency.max(1),
            requests: succeeded + errors.values().sum::<u64>(),
            errors,
            seconds,
            requests_per_second: if seconds > 0.0 { succeeded as f64 / seconds } else { 0.0 },
            latency: Latency::from_histogram(&sum.latency),
            first_event: Latency::of(&sum.first_event),
            delta_delay: Latency::of(&sum.delta_delay),
            bytes: sum.bytes,
            turns: sum.turns.iter().map(|(turn, time)| (*turn, mean_us(*time))).collect(),
        }
    }

    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }
}

impl Latency {
    fn of(nanoseconds: &Histogram<u64>) -> Option<Self> {
        (!nanoseconds.is_empty()).then(|| Self::from_histogram(nanoseconds))
    }

    fn from_histogram(nanoseconds: &Histogram<u64>) -> Self {
        let quantile = |quantile| micros(nanoseconds.value_at_quantile(quantile) as f64);
        Self {
            min_us: micros(nanoseconds.min() as f64),
            mean_us: micros(nanoseconds.mean()),
            p50_us: quantile(0.5),
            p90_us: quantile(0.9),
            p99_us: quantile(0.99),
            max_us: micros(nanoseconds.max() as f64),
        }
    }
}

fn mean_us(time: TurnTime) -> f64 {
    micros(time.total.as_nanos() as f64 / f64::from(time.count))
}

/// Microseconds, rounded to one decimal.
fn micros(nanoseconds: f64) -> f64 {
    (nanoseconds / 100.0).round() / 10.0
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "mode         {:>12}   concurrency {}", self.mode, self.concurrency)?;
        writeln!(out, "requests     {:>12}   in {:.2} s", self.requests, self.seconds)?;
        writeln!(out, "per second   {:>12.0}", self.requests_per_second)?;
        writeln!(out, "bytes        {:>12}", self.bytes)?;
        writeln!(out, "errors       {:>12}", self.failed())?;
        for (kind, count) in &self.errors {
            writeln!(out, "  {kind:<11}{count:>12}")?;
        }
        writeln!(
            out,
            "\nus           {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}",
            "min", "mean", "p50", "p90", "p99", "max"
        )?;
        line(out, "latency", &self.latency)?;
        if let Some(first_event) = &self.first_event {
            line(out, "first event", first_event)?;
        }
        if let Some(delta_delay) = &self.delta_delay {
            line(out, "delta delay", delta_delay)?;
        }
        for (turn, mean_us) in &self.turns {
            writeln!(out, "{:<12} {:>10} {mean_us:>10.1}", format!("turn {turn}"), "")?;
        }
        Ok(())
    }
}

fn line(out: &mut fmt::Formatter<'_>, name: &str, latency: &Latency) -> fmt::Result {
    let Latency { min_us, mean_us, p50_us, p90_us, p99_us, max_us } = latency;
    writeln!(
        out,
        "{name:<12} {min_us:>10.1} {mean_us:>10.1} {p50_us:>10.1} {p90_us:>10.1} {p99_us:>10.1} {max_us:>10.1}"
    )
}
