//! The overview: figures with those of the window before, series for charts, and what needs attention.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use antiphon_runtime::rfc3339;
use antiphon_store::{Latency, LatencySum, OutcomeSum, OverviewQuery, StoreError, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::attention::Attention;
use super::time_range::{Frame, TimeRange, Window};
use super::{OperationError, Operations};

/// How long an overview is shown again: however many operators look, the store is asked this often.
const MAX_AGE: Duration = Duration::from_secs(2);
/// How many overviews are kept for that long.
const MAX_CACHED: usize = 8;
/// How many models have a series of their own.
const MAX_MODELS: usize = 8;
const OTHER_MODELS: &str = "other";
/// Turns with these outcomes count as errors.
const ERRORS: [&str; 3] = ["failed", "refused", "lost"];

#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct OverviewParameters {
    /// Default: `24h`.
    #[param(inline)]
    pub window: Option<Window>,
    /// Instead of a window: where the time begins, such as `2026-11-22T10:00`, in UTC or with a zone. At most 366 days before its end.
    pub from: Option<String>,
    /// Where it ends. Default: now.
    pub to: Option<String>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Overview {
    /// `null` for a range.
    #[schema(inline)]
    pub window: Option<Window>,
    /// The time in RFC 3339. It begins with a whole interval.
    pub from: String,
    pub to: String,
    pub current: Figures,
    /// Figures of the window before, which is as long.
    pub previous: Figures,
    pub running: Running,
    pub series: Series,
    pub attention: Vec<Attention>,
}

/// Sums over the turns of a window.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub struct Figures {
    pub turns: u64,
    /// Turns that failed, were refused or were lost.
    pub failed_turns: u64,
    /// `failed_turns` among `turns`, from 0 to 1; `null` without turns.
    pub error_rate: Option<f64>,
    pub input_tokens: u64,
    /// Included in `input_tokens`.
    pub cached_tokens: u64,
    pub output_tokens: u64,
    /// In US dollars.
    pub cost_usd: f64,
    /// Turns without a known price; their cost is not included.
    pub unpriced_turns: u64,
    pub first_event_ms: Percentiles,
    pub duration_ms: Percentiles,
}

/// Of turns that an upstream served; `null` without such turns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, ToSchema)]
pub struct Percentiles {
    pub p50: Option<f64>,
    pub p95: Option<f64>,
}

/// What runs at this gateway now.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Running {
    pub turns: i64,
    /// Turns that wait for an account.
    pub queued_turns: u64,
    /// Open client WebSockets.
    pub sockets: i64,
    /// Background turns that run.
    pub background: i64,
}

/// Values by interval; all lists have the same length.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub struct Series {
    pub interval_seconds: i64,
    /// When the intervals begin, in RFC 3339. The last one is not over.
    pub starts: Vec<String>,
    /// The number of turns, by outcome.
    pub turns: BTreeMap<String, Vec<u64>>,
    pub input_tokens: Vec<u64>,
    pub cached_tokens: Vec<u64>,
    pub output_tokens: Vec<u64>,
    pub first_event_ms: PercentileSeries,
    pub duration_ms: PercentileSeries,
    /// Cost in US dollars by model: the most expensive models, the most expensive first, and `other`.
    pub cost_usd: Vec<ModelSeries>,
}

#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub struct PercentileSeries {
    pub p50: Vec<Option<f64>>,
    pub p95: Vec<Option<f64>>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ModelSeries {
    pub model: String,
    pub values: Vec<f64>,
}

pub(super) type CachedOverview = (TimeRange, Instant, Arc<Overview>);

/// Turns by how long they took: upper bounds in microseconds, and how many.
#[derive(Debug, Clone, Default)]
struct Histogram(BTreeMap<u64, u64>);

// === impl Operations ===

impl Operations {
    /// The overview of a time. It is at most two seconds old.
    pub async fn overview(&self, range: TimeRange) -> Result<Arc<Overview>, OperationError> {
        // Concurrent callers wait for this read, and share its result.
        let mut cached = self.process.overviews.lock().await;
        cached.retain(|(_, at, _)| at.elapsed() < MAX_AGE);
        if let Some((_, _, overview)) = cached.iter().find(|(of, _, _)| *of == range) {
            return Ok(Arc::clone(overview));
        }
        let overview = Arc::new(self.read_overview(range).await?);
        if cached.len() >= MAX_CACHED {
            cached.remove(0);
        }
        cached.push((range, Instant::now(), Arc::clone(&overview)));
        Ok(overview)
    }

    async fn read_overview(&self, range: TimeRange) -> Result<Overview, OperationError> {
        let frame = range.frame(self.clock.now());
        let query = OverviewQuery {
            from: Timestamp::from_unix_ms(frame.before),
            to: Timestamp::from_unix_ms(frame.to),
            interval_ms: frame.interval,
        };
        let permit = self.report_permit().await?;
        let outcomes = self.store.list_outcomes(query).await?;
        let latencies = self.store.list_latencies(query).await?;
        drop(permit);
        let (is_current, is_previous) =
            (|at: Timestamp| at.unix_ms() >= frame.from, |at: Timestamp| at.unix_ms() < frame.from);
        Ok(Overview {
            window: range.window(),
            from: rfc3339(Timestamp::from_unix_ms(frame.from)),
            to: rfc3339(self.clock.now().min(Timestamp::from_unix_ms(frame.to))),
            current: Figures::new(&outcomes, &latencies, is_current),
            previous: Figures::new(&outcomes, &latencies, is_previous),
            running: self.running(),
            series: Series::new(frame, &outcomes, &latencies),
            attention: self.attention().await?,
        })
    }

    pub(super) fn running(&self) -> Running {
        Running {
            turns: self.process.turns.get(),
            queued_turns: self.pool.queued() as u64,
            sockets: self.process.sockets.get(),
            background: self.process.background.get(),
        }
    }

    /// Held while a report reads much.
    pub(super) async fn report_permit(&self) -> Result<tokio::sync::OwnedSemaphorePermit, OperationError> {
        let closed = |_| StoreError::Unavailable("the gateway is stopping".to_owned());
        Ok(Arc::clone(&self.process.reports).acquire_owned().await.map_err(closed)?)
    }
}

// === impl Figures ===

impl Figures {
    fn new(
        outcomes: &[OutcomeSum],
        latencies: &[LatencySum],
        is_counted: impl Fn(Timestamp) -> bool,
    ) -> Self {
        let mut figures = Self::default();
        let mut cost_nano_usd = 0;
        for sum in outcomes.iter().filter(|sum| is_counted(sum.starts_at)) {
            figures.turns += sum.turns;
            figures.failed_turns += if ERRORS.contains(&&*sum.outcome) { sum.turns } else { 0 };
            figures.input_tokens += sum.input_tokens;
            figures.cached_tokens += sum.cached_tokens;
            figures.output_tokens += sum.output_tokens;
            figures.unpriced_turns += sum.unpriced_turns;
            cost_nano_usd += sum.cost_nano_usd;
        }
        figures.cost_usd = usd(cost_nano_usd);
        figures.error_rate = (figures.turns > 0).then(|| figures.failed_turns as f64 / figures.turns as f64);
        let percentiles = |latency| {
            let counted = latencies.iter().filter(|sum| is_counted(sum.starts_at) && sum.latency == latency);
            Histogram::new(counted).percentiles()
        };
        (figures.first_event_ms, figures.duration_ms) =
            (percentiles(Latency::FirstEvent), percentiles(Latency::Duration));
        figures
    }
}

// === impl Series ===

impl Series {
    fn new(frame: Frame, outcomes: &[OutcomeSum], latencies: &[LatencySum]) -> Self {
        let len = frame.len();
        let mut series = Self {
            interval_seconds: frame.interval / 1000,
            starts: frame.starts().map(rfc3339).collect(),
            input_tokens: vec![0; len],
            cached_tokens: vec![0; len],
            output_tokens: vec![0; len],
            ..Self::default()
        };
        let mut costs: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for sum in outcomes {
            let Some(index) = frame.index(sum.starts_at) else { continue };
            series.turns.entry(sum.outcome.clone()).or_insert_with(|| vec![0; len])[index] += sum.turns;
            series.input_tokens[index] += sum.input_tokens;
            series.cached_tokens[index] += sum.cached_tokens;
            series.output_tokens[index] += sum.output_tokens;
            if sum.cost_nano_usd > 0 {
                costs.entry(&sum.model).or_insert_with(|| vec![0; len])[index] += sum.cost_nano_usd;
            }
        }
        series.cost_usd = most_expensive(costs);
        series.first_event_ms = PercentileSeries::new(frame, latencies, Latency::FirstEvent);
        series.duration_ms = PercentileSeries::new(frame, latencies, Latency::Duration);
        series
    }
}

fn most_expensive(costs: BTreeMap<&str, Vec<u64>>) -> Vec<ModelSeries> {
    let mut costs: Vec<(&str, Vec<u64>)> = costs.into_iter().collect();
    costs.sort_by_key(|(_, values)| std::cmp::Reverse(values.iter().sum::<u64>()));
    if costs.len() > MAX_MODELS {
        let rest = costs.split_off(MAX_MODELS);
        let len = rest[0].1.len();
        let sums = (0..len).map(|n| rest.iter().map(|(_, values)| values[n]).sum()).collect();
        costs.push((OTHER_MODELS, sums));
    }
    let series = |(model, values): (&str, Vec<u64>)| ModelSeries {
        model: model.to_owned(),
        values: values.into_iter().map(usd).collect(),
    };
    costs.into_iter().map(series).collect()
}

fn usd(nano: u64) -> f64 {
    nano as f64 / 1e9
}

// === impl PercentileSeries ===

impl PercentileSeries {
    fn new(frame: Frame, latencies: &[LatencySum], latency: Latency) -> Self {
        let mut sums: Vec<Vec<&LatencySum>> = vec![Vec::new(); frame.len()];
        for sum in latencies.iter().filter(|sum| sum.latency == latency) {
            if let Some(index) = frame.index(sum.starts_at) {
                sums[index].push(sum);
            }
        }
        let all: Vec<Percentiles> =
            sums.into_iter().map(|sums| Histogram::new(sums.into_iter()).percentiles()).collect();
        Self {
            p50: all.iter().map(|percentiles| percentiles.p50).collect(),
            p95: all.iter().map(|percentiles| percentiles.p95).collect(),
        }
    }
}

// === impl Histogram ===

impl Histogram {
    fn new<'a>(sums: impl Iterator<Item = &'a LatencySum>) -> Self {
        let mut turns = BTreeMap::new();
        for sum in sums {
            *turns.entry(sum.up_to_us).or_insert(0) += sum.turns;
        }
        Self(turns)
    }

    fn percentiles(&self) -> Percentiles {
        Percentiles { p50: self.percentile_ms(0.5), p95: self.percentile_ms(0.95) }
    }

    /// Buckets are narrow, so what is in one counts as evenly spread over the upper third of what is below its bound.
    fn percentile_ms(&self, share: f64) -> Option<f64> {
        let total: u64 = self.0.values().sum();
        let mut rank = share * total as f64;
        for (up_to_us, turns) in &self.0 {
            let turns = *turns as f64;
            if rank <= turns && turns > 0.0 {
                let (upper, lower) = (*up_to_us as f64, *up_to_us as f64 * 2.0 / 3.0);
                return Some((lower + (upper - lower) * rank / turns).round() / 1000.0);
            }
            rank -= turns;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_lie_within_their_buckets() {
        let sum = |up_to_us, turns| LatencySum {
            starts_at: Timestamp::from_unix_ms(0),
            latency: Latency::Duration,
            up_to_us,
            turns,
        };
        let sums = [sum(1_000, 90), sum(100_000, 10)];
        let Percentiles { p50, p95 } = Histogram::new(sums.iter()).percentiles();
        assert!((0.6..=1.0).contains(&p50.unwrap()) && (60.0..=100.0).contains(&p95.unwrap()));
        assert_eq!(Histogram::default().percentiles(), Percentiles::default());
    }
}
