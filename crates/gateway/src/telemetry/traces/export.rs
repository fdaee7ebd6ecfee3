//! Sends finished spans to the collector, off the path of turns.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use antiphon_upstream::route::Route;
use antiphon_upstream::transport::Upstream;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, Uri, header};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::metrics::{Lost, TraceMetrics};

/// Spans of one request, beside those of the last turn in it.
const MAX_BATCH_SPANS: usize = 512;
/// How long spans gather before they are sent.
const BATCH_DELAY: Duration = Duration::from_secs(1);
/// For one request to the collector.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_TRIES: u32 = 3;
/// Before a request is sent again, unless the collector says when.
const RETRY_DELAY: Duration = Duration::from_secs(1);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(30);
/// How long the end of the process waits for the last spans to be sent.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Takes the spans of turns from their queue and sends them.
pub struct Exporter {
    pub queue: mpsc::Receiver<Vec<Span>>,
    pub collector: Collector,
    pub metrics: TraceMetrics,
    /// Set when spans are dropped because the queue is full, and reset when it is empty.
    pub is_overflowing: Arc<AtomicBool>,
    /// Whether spans were lost since the last request that succeeded.
    pub is_losing: bool,
}

/// Where spans are sent, and what is said of all of them.
pub struct Collector {
    pub upstream: Upstream,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub route: Route,
    pub resource: Resource,
    pub scope: InstrumentationScope,
}

/// Why a request failed.
struct SendFailure {
    reason: String,
    /// When to send it again, if that may help.
    retry: Option<Duration>,
}

// === impl Exporter ===

impl Exporter {
    /// Sends spans until `stop`, and then those that are left, within [`FLUSH_TIMEOUT`].
    pub async fn run(mut self, stop: &CancellationToken) {
        let deadline = async {
            stop.cancelled().await;
            tokio::time::sleep(FLUSH_TIMEOUT).await;
        };
        tokio::select! {
            () = self.send_all(stop) => {}
            () = deadline => tracing::warn!("the last traces could not be exported in time"),
        }
    }

    async fn send_all(&mut self, stop: &CancellationToken) {
        while let Some(spans) = self.next_batch(stop).await {
            self.export(spans, stop).await;
            if self.queue.is_empty() {
                self.is_overflowing.store(false, Ordering::Relaxed);
            }
        }
    }

    /// Waits for spans and lets more gather; `None` if there will be no more.
    async fn next_batch(&mut self, stop: &CancellationToken) -> Option<Vec<Span>> {
        let mut batch = self.next_turn(stop).await?;
        let mut gathered = pin!(tokio::time::sleep(BATCH_DELAY));
        while batch.len() < MAX_BATCH_SPANS {
            tokio::select! {
                turn = self.next_turn(stop) => match turn {
                    Some(spans) => batch.extend(spans),
                    None => break,
                },
                () = &mut gathered => break,
            }
        }
        Some(batch)
    }

    async fn next_turn(&mut self, stop: &CancellationToken) -> Option<Vec<Span>> {
        if !self.queue.is_closed() {
            tokio::select! {
                turn = self.queue.recv() => return turn,
                () = stop.cancelled() => self.queue.close(),
            }
        }
        self.queue.recv().await
    }

    async fn export(&mut self, spans: Vec<Span>, stop: &CancellationToken) {
        let count = spans.len() as u64;
        let body = self.collector.encode(spans);
        let mut tries = 0;
        let failure = loop {
            tries += 1;
            let failure = match self.collector.send(body.clone()).await {
                Ok(rejected) => return self.exported(count, rejected),
                Err(failure) => failure,
            };
            match failure.retry.filter(|_| tries < MAX_TRIES && !stop.is_cancelled()) {
                // A process that stops tries once more at once.
                Some(delay) => tokio::time::timeout(delay, stop.cancelled()).await.ok(),
                None => break failure,
            };
        };
        self.metrics.lost(Lost::Failed, count);
        if !std::mem::replace(&mut self.is_losing, true) {
            let SendFailure { reason, .. } = failure;
            let collector = self.collector.uri.authority().map(ToString::to_string);
            tracing::warn!(
                collector,
                reason,
                "traces cannot be exported; they are dropped until they can be"
            );
        }
    }

    /// `rejected` spans were refused by a collector that took the others.
    fn exported(&mut self, count: u64, rejected: u64) {
        let rejected = rejected.min(count);
        self.metrics.exported(count - rejected);
        self.metrics.lost(Lost::Rejected, rejected);
        if std::mem::replace(&mut self.is_losing, false) {
            tracing::info!("traces are exported again");
        }
    }
}

// === impl Collector ===

impl Collector {
    fn encode(&self, spans: Vec<Span>) -> Bytes {
        let scope_spans = ScopeSpans { scope: Some(self.scope.clone()), spans, ..ScopeSpans::default() };
        let resource_spans = ResourceSpans {
            resource: Some(self.resource.clone()),
            scope_spans: vec![scope_spans],
            ..ResourceSpans::default()
        };
        ExportTraceServiceRequest { resource_spans: vec![resource_spans] }.encode_to_vec().into()
    }

    /// Returns how many spans were rejected.
    async fn send(&self, body: Bytes) -> Result<u64, SendFailure> {
        let mut headers = self.headers.clone();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        let sending = self.upstream.deliver(&self.uri, headers, body, &self.route);
        let reply = match tokio::time::timeout(SEND_TIMEOUT, sending).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) => {
                return Err(SendFailure { reason: error.to_string(), retry: Some(RETRY_DELAY) });
            }
            Err(_elapsed) => {
                return Err(SendFailure { reason: "no reply in time".to_owned(), retry: Some(RETRY_DELAY) });
            }
        };
        if reply.status().is_success() {
            return Ok(rejected_spans(reply.body()));
        }
        Err(SendFailure::of_status(&reply))
    }
}

/// How many spans a collector says that it rejected.
fn rejected_spans(reply: &[u8]) -> u64 {
    let reply = ExportTraceServiceResponse::decode(reply).unwrap_or_default();
    reply.partial_success.map_or(0, |partial| partial.rejected_spans.try_into().unwrap_or(0))
}

// === impl SendFailure ===

impl SendFailure {
    fn of_status(reply: &Response<Bytes>) -> Self {
        let status = reply.status();
        let is_transient = matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS
                | StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT
        );
        let retry_after = reply.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        let asked = retry_after.and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
        let delay = asked.unwrap_or(RETRY_DELAY).min(MAX_RETRY_DELAY);
        Self { reason: format!("status {}", status.as_u16()), retry: is_transient.then_some(delay) }
    }
}
