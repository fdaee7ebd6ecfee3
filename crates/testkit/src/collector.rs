//! An OpenTelemetry collector: it takes spans over OTLP/HTTP and keeps them for the test.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::eventually;
use crate::small_server::serve;

/// Listens on a random port.
pub struct Collector {
    address: SocketAddr,
    state: Arc<State>,
    serving: tokio::task::JoinHandle<()>,
}

/// A span as it came, with ids in hexadecimal digits.
#[derive(Debug, Clone)]
pub struct CollectedSpan {
    pub trace: String,
    pub id: String,
    /// Empty if it has none.
    pub parent: String,
    pub state: String,
    pub name: String,
    pub kind: SpanKind,
    pub began_ns: u64,
    pub ended_ns: u64,
    pub attributes: BTreeMap<String, String>,
    /// The attributes of what the span is from.
    pub resource: BTreeMap<String, String>,
    /// Their names and times.
    pub events: Vec<(String, u64)>,
    /// The traces and spans that it is linked to.
    pub links: Vec<(String, String)>,
    pub has_failed: bool,
}

#[derive(Default)]
struct State {
    inner: Mutex<Inner>,
    opened: Notify,
}

#[derive(Default)]
struct Inner {
    status: Option<u16>,
    rejected: i64,
    is_held: bool,
    requests: Vec<(HeaderMap, Bytes)>,
    spans: Vec<CollectedSpan>,
}

impl Collector {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener");
        let state = Arc::<State>::default();
        let serving = serve(listener, Arc::clone(&state), answer);
        Self { address, state, serving }
    }

    /// What `traces.endpoint` is set to.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A line of configuration that has traces sent here.
    pub fn config(&self) -> String {
        format!("traces.endpoint = \"{}\"", self.url())
    }

    /// Answers this status from now on, and keeps no spans.
    pub fn fails(&self, status: Option<u16>) {
        self.state.lock().status = status;
    }

    /// Says of every request that so many spans were rejected.
    pub fn rejects(&self, spans: i64) {
        self.state.lock().rejected = spans;
    }

    /// Lets requests wait until [`open`](Self::open).
    pub fn hold(&self) {
        self.state.lock().is_held = true;
    }

    pub fn open(&self) {
        self.state.lock().is_held = false;
        self.state.opened.notify_waiters();
    }

    /// Requests so far: headers and body.
    pub fn requests(&self) -> Vec<(HeaderMap, Bytes)> {
        self.state.lock().requests.clone()
    }

    /// The spans so far, in the order in which they came.
    pub fn spans(&self) -> Vec<CollectedSpan> {
        self.state.lock().spans.clone()
    }

    /// The spans, once there are so many of turns.
    pub async fn turns(&self, count: usize) -> Vec<CollectedSpan> {
        eventually(&format!("{count} traced turns"), async || {
            let spans = self.spans();
            let turns = spans.iter().filter(|span| span.is_turn()).count();
            (turns >= count).then_some(spans)
        })
        .await
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl CollectedSpan {
    /// Whether it is the span of a turn, and not of a part of one.
    pub fn is_turn(&self) -> bool {
        self.attributes.contains_key("antiphon.turn.outcome")
    }

    /// An attribute as text; empty if it is missing.
    pub fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).map(String::as_str).unwrap_or_default()
    }
}

impl State {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn answer(state: Arc<State>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    state.lock().requests.push((head.headers, body.clone()));
    loop {
        let opened = state.opened.notified();
        if !state.lock().is_held {
            break;
        }
        opened.await;
    }
    let mut inner = state.lock();
    let exported = ExportTraceServiceRequest::decode(body).ok().filter(|_| head.uri.path() == "/v1/traces");
    let status = inner.status.or_else(|| exported.is_none().then_some(400));
    let Some(exported) = exported.filter(|_| status.is_none()) else {
        let mut refusal = Response::new(Full::default());
        *refusal.status_mut() = status.unwrap_or(400).try_into().expect("a valid status");
        return Ok(refusal);
    };
    inner.spans.extend(spans(exported));
    let rejected = Some(inner.rejected).filter(|rejected| *rejected > 0);
    let partial_success = rejected.map(|rejected_spans| ExportTracePartialSuccess {
        rejected_spans,
        ..ExportTracePartialSuccess::default()
    });
    Ok(Response::new(Full::from(ExportTraceServiceResponse { partial_success }.encode_to_vec())))
}

fn spans(exported: ExportTraceServiceRequest) -> Vec<CollectedSpan> {
    let mut spans = Vec::new();
    for of_resource in exported.resource_spans {
        let resource = attributes(of_resource.resource.unwrap_or_default().attributes);
        for span in of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            spans.push(CollectedSpan {
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                kind: span.kind(),
                state: span.trace_state,
                name: span.name,
                began_ns: span.start_time_unix_nano,
                ended_ns: span.end_time_unix_nano,
                attributes: attributes(span.attributes),
                resource: resource.clone(),
                events: span.events.into_iter().map(|event| (event.name, event.time_unix_nano)).collect(),
                links: span.links.into_iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect(),
                has_failed: span.status.is_some_and(|status| status.code() == StatusCode::Error),
            });
        }
    }
    spans
}

fn attributes(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value| match value {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        Value::BoolValue(is_set) => is_set.to_string(),
        other => format!("{other:?}"),
    };
    let value = |attribute: KeyValue| attribute.value.and_then(|any| any.value).map(text).unwrap_or_default();
    attributes.into_iter().map(|attribute| (attribute.key.clone(), value(attribute))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
