//! Traces of turns, for an OpenTelemetry collector.
//!
//! A turn notes times and outcomes for its log line and its metrics anyway. When it has ended, its spans are made of those, and
//! wait in a queue for the [`Exporter`]. A turn that is not traced costs nothing, so there are no spans under way, and no context
//! that follows a task.

mod context;
mod export;
mod metrics;
mod span;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use antiphon_config::TracesConfig;
use antiphon_upstream::transport::Upstream;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use prometheus_client::registry::Registry;
use rand::RngExt;
use tokio::sync::mpsc;
use uuid::Uuid;

pub use self::context::{Parent, SpanId, TRACEPARENT, TRACESTATE, TraceId, header};
pub use self::export::Exporter;
pub use self::span::{Attributes, Span, SpanKind, SpanWriter, fail, link, set_remote_parent};

use self::export::Collector;
use self::metrics::{Lost, TraceMetrics};

/// How many turns may wait to be exported; about 10 MiB of spans.
const MAX_QUEUED_TURNS: usize = 2048;

/// Decides which turns are traced, and takes their spans.
#[derive(Debug)]
pub struct Traces {
    sample_ratio: f64,
    trusts_parents: bool,
    queue: mpsc::Sender<Vec<Span>>,
    metrics: TraceMetrics,
    /// Whether spans were dropped since the queue was last empty.
    is_overflowing: Arc<AtomicBool>,
}

// === impl Traces ===

impl Traces {
    /// Sends nothing until the exporter runs. `instance` tells this process from others of the service.
    pub fn new(config: &TracesConfig, upstream: Upstream, instance: Uuid) -> (Arc<Self>, Exporter) {
        let (sender, queue) = mpsc::channel(MAX_QUEUED_TURNS);
        let metrics = TraceMetrics::default();
        let mut attributes = Attributes::default();
        attributes.text("service.name", &config.service_name);
        attributes.text("service.version", env!("CARGO_PKG_VERSION"));
        attributes.text("service.instance.id", &instance.to_string());
        let collector = Collector {
            upstream,
            uri: config.uri(),
            headers: config.headers(),
            route: config.route.clone(),
            resource: Resource { attributes: attributes.into_vec(), ..Resource::default() },
            scope: InstrumentationScope {
                name: "antiphon".to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                ..InstrumentationScope::default()
            },
        };
        let traces = Self {
            sample_ratio: config.sample_ratio,
            trusts_parents: config.trust_parent,
            queue: sender,
            metrics: metrics.clone(),
            is_overflowing: Arc::default(),
        };
        let is_overflowing = Arc::clone(&traces.is_overflowing);
        (Arc::new(traces), Exporter { queue, collector, metrics, is_overflowing, is_losing: false })
    }

    /// Whether a turn is traced. A parent has a say only if clients are trusted: they could have all of their turns traced.
    /// Nor does the id of its trace, which the client chooses, decide.
    pub fn samples(&self, parent: Option<&Parent>) -> bool {
        match parent.filter(|_| self.trusts_parents) {
            Some(parent) => parent.is_sampled,
            None => self.sample_ratio >= 1.0 || rand::rng().random::<f64>() < self.sample_ratio,
        }
    }

    /// Takes the spans of a turn; drops them if too many turns wait.
    pub fn send(&self, spans: Vec<Span>) {
        let Err(refused) = self.queue.try_send(spans) else { return };
        self.metrics.lost(Lost::QueueFull, refused.into_inner().len() as u64);
        if !self.is_overflowing.swap(true, Ordering::Relaxed) {
            tracing::warn!("traces are dropped: turns end faster than their traces can be exported");
        }
    }

    pub fn register_metrics(&self, registry: &mut Registry) {
        self.metrics.register(registry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_that_find_no_room_are_dropped_and_counted() {
        let (sender, mut queue) = mpsc::channel(1);
        let metrics = TraceMetrics::default();
        let traces = Traces {
            sample_ratio: 1.0,
            trusts_parents: false,
            queue: sender,
            metrics: metrics.clone(),
            is_overflowing: Arc::default(),
        };
        let spans = |count| vec![Span::default(); count];
        traces.send(spans(1));
        assert!(!traces.is_overflowing.load(Ordering::Relaxed));
        traces.send(spans(2));
        traces.send(spans(3));
        assert!(traces.is_overflowing.load(Ordering::Relaxed));
        assert_eq!(queue.try_recv().unwrap().len(), 1);
        assert!(queue.try_recv().is_err());
        let mut registry = Registry::default();
        traces.register_metrics(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(text.contains("trace_spans_dropped_total{reason=\"queue_full\"} 5"), "{text}");
    }

    #[test]
    fn about_the_configured_share_of_turns_is_traced_whatever_clients_say() {
        let (queue, _receiver) = mpsc::channel(1);
        let metrics = TraceMetrics::default();
        let traces = Traces {
            sample_ratio: 0.2,
            trusts_parents: false,
            queue,
            metrics,
            is_overflowing: Arc::default(),
        };
        let parent = Parent::parse("00-00000000000000000000000000000001-0000000000000001-01", "");
        let traced = (0..10_000).filter(|_| traces.samples(parent.as_ref())).count();
        // Six standard deviations, which are 40 turns.
        assert!((1_760..=2_240).contains(&traced), "{traced}");
    }
}
