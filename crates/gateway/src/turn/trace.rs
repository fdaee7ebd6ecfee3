//! The trace of a turn: a span for the turn, with one for each of its steps and attempts.
//!
//! The steps note their times while the turn runs; the spans are made when it is settled.

use std::time::Duration;

use antiphon_errors::Fault;
use antiphon_protocol::json;
use antiphon_protocol::request::{CreateRequest, Operation};
use antiphon_upstream::dialect::Dialect;
use antiphon_upstream::metrics::ANSWERED;
use http::StatusCode;

use super::progress::Attempt;
use super::record::Finished;
use super::settle::operation_name;
use super::{Door, Incoming, Turn};
use crate::telemetry::traces::{
    Attributes, Parent, Span, SpanId, SpanKind, SpanWriter, TRACEPARENT, TRACESTATE, TraceId, Traces, fail,
    header, link, set_remote_parent,
};

/// Members of a frame's `client_metadata` with which Codex says what `traceparent` and `tracestate` of the turn are.
const FRAME_PARENT: &str = "ws_request_header_traceparent";
const FRAME_STATE: &str = "ws_request_header_tracestate";
/// How many attempts of a turn have spans: the last ones.
const MAX_ATTEMPTS: usize = 32;

/// What is noted of a turn that is traced.
pub struct TurnTrace {
    pub id: TraceId,
    span: SpanId,
    origin: Origin,
    steps: Vec<StepTimes>,
    /// The attempt that is under way.
    attempt: Option<AttemptTrace>,
    /// The attempts that ended, as [`Progress`](super::progress::Progress) lists them.
    attempts: Vec<AttemptTrace>,
    /// The model as the upstream names it.
    response_model: Option<String>,
}

/// What the turn's span follows.
enum Origin {
    Nothing,
    /// The client's span waits for the turn.
    Parent(Parent),
    /// The client's span is that of a handshake, or of the request that queued the turn.
    Link(Parent),
}

/// What a turn does beside its attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Resolve,
    Reserve,
    Choose,
    Record,
}

struct StepTimes {
    step: Step,
    began: Duration,
    /// `None` while it is under way.
    ended: Option<Duration>,
}

#[derive(Clone, Copy)]
struct AttemptTrace {
    span: SpanId,
    status: Option<StatusCode>,
}

// === impl Step ===

impl Step {
    fn name(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Reserve => "reserve",
            Self::Choose => "choose",
            Self::Record => "record",
        }
    }
}

// === impl TurnTrace ===

impl TurnTrace {
    /// `None` if the turn is not traced.
    pub fn begin(traces: &Traces, incoming: &Incoming) -> Option<Box<Self>> {
        let origin = Origin::of(incoming);
        let parent = match &origin {
            Origin::Nothing => None,
            Origin::Parent(parent) | Origin::Link(parent) => Some(parent),
        };
        if !traces.samples(parent) {
            return None;
        }
        let id = match &origin {
            Origin::Parent(parent) => parent.trace,
            Origin::Nothing | Origin::Link(_) => TraceId::random(),
        };
        Some(Box::new(Self {
            id,
            span: SpanId::random(),
            origin,
            steps: Vec::new(),
            attempt: None,
            attempts: Vec::new(),
            response_model: None,
        }))
    }

    fn end_step(&mut self, at: Duration) {
        if let Some(step) = self.steps.last_mut().filter(|step| step.ended.is_none()) {
            step.ended = Some(at);
        }
    }

    /// The client's `tracestate`, which belongs to its trace.
    fn state(&self) -> &str {
        match &self.origin {
            Origin::Parent(parent) => &parent.state,
            Origin::Nothing | Origin::Link(_) => "",
        }
    }
}

// === impl Origin ===

impl Origin {
    fn of(incoming: &Incoming) -> Self {
        let Incoming { create, headers, door, .. } = incoming;
        let parent = Parent::from_headers(headers);
        match door {
            Door::Collected | Door::Sse => parent.map_or(Self::Nothing, Self::Parent),
            Door::WebSocket(_) => match frame_parent(create) {
                Some(parent) => Self::Parent(parent),
                None => parent.map_or(Self::Nothing, Self::Link),
            },
            Door::Background(_) => parent.map_or(Self::Nothing, Self::Link),
        }
    }
}

fn frame_parent(create: &CreateRequest) -> Option<Parent> {
    let (mut parent, mut state) = (None, None);
    for (name, value) in create.client_metadata() {
        match &*name {
            FRAME_PARENT => parent = Some(value),
            FRAME_STATE => state = Some(value),
            _ => {}
        }
    }
    Parent::parse(&parent?, &state.unwrap_or_default())
}

impl Turn {
    /// Notes that a step begins, which ends the one before it.
    pub(super) fn trace_step(&mut self, step: Step) {
        if let Some(trace) = &mut self.trace {
            let now = self.facts.started.elapsed();
            trace.end_step(now);
            if step != Step::Choose || trace.steps.len() < MAX_ATTEMPTS {
                trace.steps.push(StepTimes { step, began: now, ended: None });
            }
        }
    }

    /// Notes that a request is about to be sent, and gives it the place of its span in the trace.
    pub(super) fn trace_attempt(&mut self) {
        if let Some(trace) = &mut self.trace {
            trace.end_step(self.facts.started.elapsed());
            let span = SpanId::random();
            trace.attempt = Some(AttemptTrace { span, status: None });
            self.headers.insert(TRACEPARENT, header(trace.id, span));
            match trace.state().parse() {
                Ok(state) if !trace.state().is_empty() => self.headers.insert(TRACESTATE, state),
                _ => self.headers.remove(TRACESTATE),
            };
        }
    }

    /// Notes the status of the upstream's reply.
    pub(super) fn trace_status(&mut self, status: StatusCode) {
        if let Some(attempt) = self.trace.as_mut().and_then(|trace| trace.attempt.as_mut()) {
            attempt.status = Some(status);
        }
    }

    /// Notes that an attempt is over, or that it is the one that counts.
    pub(super) fn trace_attempt_outcome(&mut self) {
        if let Some(trace) = &mut self.trace {
            let attempt = trace.attempt.take();
            trace
                .attempts
                .push(attempt.unwrap_or_else(|| AttemptTrace { span: SpanId::random(), status: None }));
        }
    }

    /// Notes what the response says of itself.
    pub(super) fn trace_response(&mut self, finished: &Finished) {
        if let Some(trace) = &mut self.trace {
            trace.response_model = json::string_member(&finished.response, "model").map(Into::into);
        }
    }

    /// Exports the turn's spans.
    pub(super) fn send_trace(&mut self, duration: Duration) {
        let (Some(trace), Some(traces)) = (self.trace.take(), &self.turns.settings.traces) else { return };
        let state = trace.state().to_owned();
        let writer = SpanWriter { trace: trace.id, state, started_at: self.facts.started_at };
        let mut spans = vec![self.turn_span(&trace, &writer, duration)];
        spans.extend(trace.steps.iter().map(|times| self.step_span(times, &trace, &writer, duration)));
        let first = trace.attempts.len().saturating_sub(MAX_ATTEMPTS);
        let attempts = self.progress.attempts.iter().zip(&trace.attempts).skip(first);
        spans.extend(attempts.map(|attempt| self.attempt_span(attempt, &trace, &writer, duration)));
        traces.send(spans);
    }

    fn turn_span(&self, trace: &TurnTrace, writer: &SpanWriter, duration: Duration) -> Span {
        let create = &self.facts.create;
        let route = format!("/v1{}", create.operation.path());
        let (name, kind) = match self.facts.door {
            Door::Collected | Door::Sse => (format!("POST {route}"), SpanKind::Server),
            Door::WebSocket(_) => ("response.create".to_owned(), SpanKind::Server),
            Door::Background(_) => ("background turn".to_owned(), SpanKind::Consumer),
        };
        let mut span = writer.span(trace.span, name, kind, (Duration::ZERO, duration));
        match &trace.origin {
            Origin::Nothing => {}
            Origin::Parent(parent) => set_remote_parent(&mut span, parent),
            Origin::Link(parent) => span.links.push(link(parent)),
        }
        let outcome = &self.progress.outcome;
        let mut attributes = Attributes::default();
        if matches!(self.facts.door, Door::Collected | Door::Sse) {
            attributes.text("http.request.method", "POST");
            attributes.text("http.route", &route);
            attributes.number("http.response.status_code", outcome.http_status);
        }
        self.add_model_attributes(trace, &mut attributes);
        self.add_own_attributes(&mut attributes);
        if let Some(fault) = outcome.fault {
            attributes.text("error.type", outcome.code.as_deref().unwrap_or(fault.as_str()));
            attributes.text("antiphon.error.fault", fault.as_str());
            // What a client did wrong is no failure of the server.
            if !matches!(fault, Fault::Client | Fault::Limits) {
                fail(&mut span);
            }
        } else if matches!(outcome.name, "failed" | "lost") {
            attributes.text("error.type", outcome.name);
            fail(&mut span);
        }
        span.attributes = attributes.into_vec();
        span
    }

    /// By the conventions for generative models.
    fn add_model_attributes(&self, trace: &TurnTrace, attributes: &mut Attributes) {
        let (create, usage) = (&self.facts.create, &self.progress.usage);
        let name = match create.operation {
            Operation::Create | Operation::ChatCompletion => "chat",
            Operation::Embed => "embeddings",
            Operation::Compact | Operation::CountInput => operation_name(create.operation),
        };
        attributes.text("gen_ai.operation.name", name);
        attributes.text("gen_ai.provider.name", "openai");
        attributes.text("gen_ai.request.model", &create.model);
        attributes.some_text("gen_ai.response.model", trace.response_model.as_deref());
        attributes.text("gen_ai.response.id", &self.facts.id.to_string());
        attributes.some_text("gen_ai.conversation.id", create.conversation.as_deref());
        if self.progress.account.is_some() {
            attributes.number("gen_ai.usage.input_tokens", usage.input_tokens);
            attributes.number("gen_ai.usage.output_tokens", usage.output_tokens);
            attributes.number("gen_ai.usage.cache_read.input_tokens", usage.cached_tokens);
            attributes.number("gen_ai.usage.reasoning.output_tokens", usage.reasoning_tokens);
        }
    }

    /// With the names of log fields.
    fn add_own_attributes(&self, attributes: &mut Attributes) {
        let (facts, progress) = (&self.facts, &self.progress);
        attributes.text("antiphon.project.id", facts.project.as_str());
        if let Some(key) = &facts.key {
            attributes.text("antiphon.key.id", &key.id.to_string());
            attributes.text("antiphon.key.name", &key.name);
        }
        attributes
            .some_text("antiphon.account.id", progress.account.as_ref().map(|account| account.name.as_str()));
        attributes.text("antiphon.turn.operation", operation_name(facts.create.operation));
        attributes.text("antiphon.turn.transport", facts.door.name());
        attributes.text("antiphon.turn.outcome", progress.outcome.name);
        attributes.flag("antiphon.turn.store", facts.create.store);
        attributes.flag("antiphon.turn.recorded", progress.is_recorded);
        attributes.number("antiphon.chain.depth", progress.depth);
    }

    fn step_span(
        &self,
        times: &StepTimes,
        trace: &TurnTrace,
        writer: &SpanWriter,
        duration: Duration,
    ) -> Span {
        let during = (times.began, times.ended.unwrap_or(duration));
        let mut span = writer.span(SpanId::random(), times.step.name(), SpanKind::Internal, during);
        span.parent_span_id = trace.span.to_vec();
        // A step that nothing came after is where the turn ended.
        if times.ended.is_none()
            && let Some(fault) = self.progress.outcome.fault
        {
            let mut attributes = Attributes::default();
            let code = self.progress.outcome.code.as_deref();
            attributes.text("error.type", code.unwrap_or(fault.as_str()));
            span.attributes = attributes.into_vec();
            fail(&mut span);
        }
        span
    }

    fn attempt_span(
        &self,
        (attempt, traced): (&Attempt, &AttemptTrace),
        trace: &TurnTrace,
        writer: &SpanWriter,
        duration: Duration,
    ) -> Span {
        let Attempt { account, outcome, during: (began, ended), connect } = attempt;
        let is_answered = *outcome == ANSWERED;
        // An attempt that succeeds goes on until everything has been read.
        let record = trace.steps.iter().find(|times| times.step == Step::Record).map(|times| times.began);
        let ended = if is_answered { record.unwrap_or(duration).max(*ended) } else { *ended };
        let name = format!("attempt {}", account.name);
        let mut span = writer.span(traced.span, name, SpanKind::Client, (*began, ended));
        span.parent_span_id = trace.span.to_vec();
        let mut attributes = Attributes::default();
        attributes.text("antiphon.account.id", &account.name);
        attributes.text("antiphon.attempt.outcome", outcome);
        attributes.text("http.request.method", "POST");
        let uri = account.uri(self.facts.create.operation, Dialect::Responses);
        attributes.some_text("server.address", uri.host());
        let default_port = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        attributes.number("server.port", uri.port_u16().unwrap_or(default_port));
        if let Some(status) = traced.status {
            attributes.number("http.response.status_code", status.as_u16());
        }
        span.events.extend(connect.map(|connect| writer.event("connected", *began + connect)));
        if is_answered {
            span.events.extend(self.progress.first_event.map(|first| writer.event("first event", first)));
        } else {
            attributes.text("error.type", outcome);
            fail(&mut span);
        }
        span.attributes = attributes.into_vec();
        span
    }
}
