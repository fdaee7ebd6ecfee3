//! Spans, as OTLP has them.

use std::time::Duration;

use antiphon_runtime::Timestamp;
pub use opentelemetry_proto::tonic::trace::v1::Span;
pub use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{SpanFlags, Status};

use super::context::{Parent, SpanId, TraceId};

/// Longer texts are cut off: clients write some of them.
const MAX_TEXT_CHARS: usize = 256;

/// Builds the spans of one trace, with times after its start.
pub struct SpanWriter {
    pub trace: TraceId,
    /// The client's `tracestate`.
    pub state: String,
    pub started_at: Timestamp,
}

/// The attributes of a span.
#[derive(Debug, Default)]
pub struct Attributes(Vec<KeyValue>);

// === impl SpanWriter ===

impl SpanWriter {
    /// A span that began and ended so long after the start.
    pub fn span(
        &self,
        id: SpanId,
        name: impl Into<String>,
        kind: SpanKind,
        during: (Duration, Duration),
    ) -> Span {
        Span {
            trace_id: self.trace.to_vec(),
            span_id: id.to_vec(),
            trace_state: self.state.clone(),
            flags: SpanFlags::ContextHasIsRemoteMask as u32 | 1,
            name: name.into(),
            kind: kind.into(),
            start_time_unix_nano: self.unix_nanos(during.0),
            end_time_unix_nano: self.unix_nanos(during.1),
            ..Span::default()
        }
    }

    pub fn event(&self, name: &str, after: Duration) -> Event {
        Event { time_unix_nano: self.unix_nanos(after), name: name.to_owned(), ..Event::default() }
    }

    fn unix_nanos(&self, after: Duration) -> u64 {
        let start = Duration::from_millis(self.started_at.unix_ms().unsigned_abs());
        u64::try_from((start + after).as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Makes a span the child of a client's.
pub fn set_remote_parent(span: &mut Span, parent: &Parent) {
    span.parent_span_id = parent.span.to_vec();
    span.flags |= SpanFlags::ContextIsRemoteMask as u32;
}

/// A link to a client's span.
pub fn link(parent: &Parent) -> Link {
    Link {
        trace_id: parent.trace.to_vec(),
        span_id: parent.span.to_vec(),
        trace_state: parent.state.clone(),
        flags: SpanFlags::ContextHasIsRemoteMask as u32
            | SpanFlags::ContextIsRemoteMask as u32
            | u32::from(parent.is_sampled),
        ..Link::default()
    }
}

/// Marks a span as failed.
pub fn fail(span: &mut Span) {
    span.status = Some(Status { code: StatusCode::Error.into(), message: String::new() });
}

// === impl Attributes ===

impl Attributes {
    pub fn text(&mut self, name: &str, value: &str) {
        let end = value.char_indices().nth(MAX_TEXT_CHARS).map_or(value.len(), |(end, _)| end);
        self.push(name, Value::StringValue(value[..end].to_owned()));
    }

    pub fn some_text(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(name, value);
        }
    }

    pub fn number(&mut self, name: &str, value: impl TryInto<i64>) {
        self.push(name, Value::IntValue(value.try_into().unwrap_or(i64::MAX)));
    }

    pub fn flag(&mut self, name: &str, value: bool) {
        self.push(name, Value::BoolValue(value));
    }

    pub fn into_vec(self) -> Vec<KeyValue> {
        self.0
    }

    fn push(&mut self, name: &str, value: Value) {
        let value = Some(AnyValue { value: Some(value) });
        self.0.push(KeyValue { key: name.to_owned(), value, ..KeyValue::default() });
    }
}
