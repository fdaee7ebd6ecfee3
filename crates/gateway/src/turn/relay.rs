//! Relay: passes events on to the client, rewritten where they carry the response. No I/O.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::ops::Range;

use antiphon_protocol::error::{ApiError, ErrorKind, flat_error_event};
use antiphon_protocol::event::{Event, EventKind, LastNumbered, MAX_PRELUDE};
use antiphon_protocol::include::HiddenParts;
use antiphon_protocol::json::{self, Object};
use antiphon_protocol::response::{self, Ending, Owned, ResponseEvent, RewrittenEvent};
use antiphon_protocol::sse::FrameTooLarge;
use antiphon_store::Status;
use antiphon_upstream::dialect::Decoder;
use bytes::Bytes;

use super::correction::Corrections;
use super::framing::Framing;
use super::hiding::hide_in_event;
use super::kept::Kept;
use super::passage::Passage;
use super::record::{Finished, output_of};

/// Passes events on, rewrites those that carry the response, and keeps what has to be stored.
pub struct Relay {
    framing: Framing,
    owned: Owned,
    /// What the client does not get of items; they are kept whole.
    hidden: HiddenParts,
    kept: Kept,
    /// The upstream's own id of the response, once it is known.
    upstream_id: Option<String>,
    snapshot: Option<Snapshot>,
    /// How many events have arrived.
    events: u64,
    /// Whether an event of the response has arrived, and not only its failure or events that may come before it.
    has_begun: bool,
    /// The last event with a number that was passed on.
    last: LastNumbered,
    /// Events up to this number are those that were passed on before.
    repeated_up_to: Option<u64>,
    /// The upstream's own `error` event, if it sent one: code and message.
    error: Option<(String, String)>,
    /// Set for a stream whose events are not those of a response.
    passage: Option<Passage>,
    corrections: Corrections,
}

/// The response so far.
struct Snapshot {
    /// As the upstream sent it, until the next snapshot, which as a rule is the same.
    received: Option<Bytes>,
    /// As the client gets it.
    shown: Bytes,
}

/// The event that ends the stream. It is sent once the turn is durable.
pub struct Terminal {
    /// The `error` event before it, if the gateway ends the stream.
    pub error: Option<Bytes>,
    pub frame: Bytes,
    pub finished: Finished,
}

/// What to do with an event.
enum Step {
    /// Pass it on unchanged.
    Pass,
    /// Send this rewritten event.
    Send(Bytes),
    End(Box<Terminal>),
}

/// Why a stream cannot continue.
#[derive(Debug, thiserror::Error)]
pub enum BadStream {
    #[error(transparent)]
    TooLarge(#[from] FrameTooLarge),
    #[error("its terminal event has no response object")]
    Malformed,
    #[error("its output is larger than the limit")]
    OutputTooLarge,
}

impl Relay {
    /// Keeps up to `max_kept_bytes` of finished items, or none.
    pub fn new(owned: Owned, framing: Framing, max_kept_bytes: Option<usize>) -> Self {
        Self {
            framing,
            owned,
            hidden: HiddenParts::NOTHING,
            kept: Kept::new(max_kept_bytes),
            upstream_id: None,
            snapshot: None,
            events: 0,
            has_begun: false,
            last: LastNumbered::default(),
            repeated_up_to: None,
            error: None,
            passage: None,
            corrections: Corrections::default(),
        }
    }

    /// Passes on a stream of another API.
    #[must_use]
    pub fn passing_through(self) -> Self {
        Self { passage: Some(Passage::default()), ..self }
    }

    /// Leaves these parts out of the items that the client gets.
    #[must_use]
    pub fn hiding(self, hidden: HiddenParts) -> Self {
        Self { hidden, ..self }
    }

    /// Puts events right before they are passed on or kept.
    #[must_use]
    pub fn correcting(self, corrections: Corrections) -> Self {
        Self { corrections, ..self }
    }

    /// The upstream's own `error` event, if it sent one: code and message.
    pub fn error(&self) -> Option<&(String, String)> {
        self.error.as_ref()
    }

    pub fn upstream_id(&self) -> Option<&str> {
        self.upstream_id.as_deref()
    }

    /// Whether it keeps finished items.
    pub fn has_items(&self) -> bool {
        !self.kept.items().is_empty()
    }

    /// What keeping finished items takes.
    pub fn kept_bytes(&self) -> usize {
        self.kept.size_bytes()
    }

    /// The number of the last event with one that was passed on.
    pub fn last_number(&self) -> Option<u64> {
        self.last.number()
    }

    /// Has the stream read on: it may begin with events that were passed on before, if its upstream sends all of them again.
    pub fn skip_repeated(&mut self) {
        self.repeated_up_to = self.last_number();
    }

    /// Whether an event of the response has arrived, and not only its failure or events that may come before it.
    pub fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// How many events have arrived; comments do not count.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Handles the decoded events and appends what goes to the client now. Ignores events after the terminal one.
    ///
    /// # Errors
    ///
    /// [`BadStream`] if the stream cannot continue; what was appended before is still valid.
    pub fn push(
        &mut self,
        events: &mut Decoder,
        out: &mut VecDeque<Bytes>,
    ) -> Result<Option<Terminal>, BadStream> {
        // Unchanged neighbours are passed on in one piece.
        let mut run = 0..0;
        let outcome = loop {
            let event = match events.next_event() {
                Ok(Some(event)) => event,
                Ok(None) => break Ok(None),
                Err(too_large) => break Err(too_large.into()),
            };
            if self.is_repeated(&event) {
                flush(events.bytes(), run, out);
                run = span(&event).map_or(0..0, |span| span.end..span.end);
                continue;
            }
            match self.take(&event) {
                Ok(Step::Pass) => run = self.extend_run(run, &event, events.bytes(), out),
                Ok(Step::Send(rendered)) => {
                    flush(events.bytes(), run, out);
                    out.push_back(rendered);
                    run = span(&event).map_or(0..0, |span| span.end..span.end);
                }
                Ok(Step::End(terminal)) => break Ok(Some(*terminal)),
                Err(error) => break Err(error),
            }
            self.last.note(event);
        };
        flush(events.bytes(), run, out);
        outcome
    }

    /// Handles the last events of a stream that has ended.
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push).
    pub fn finish(
        &mut self,
        events: &mut Decoder,
        out: &mut VecDeque<Bytes>,
    ) -> Result<Option<Terminal>, BadStream> {
        while let Some(event) = events.finish() {
            if self.is_repeated(&event) {
                continue;
            }
            match self.take(&event)? {
                Step::Pass => out.extend(self.framing.pass(&event)),
                Step::Send(rendered) => out.push_back(rendered),
                Step::End(terminal) => return Ok(Some(*terminal)),
            }
            self.last.note(event);
        }
        Ok(self.end_of_passage())
    }

    /// Whether the event was passed on before. The end of the response never was.
    fn is_repeated(&self, event: &Event) -> bool {
        let Some(last) = self.repeated_up_to else { return false };
        event.number().is_some_and(|number| number <= last) && event.kind() != EventKind::Terminal
    }

    /// The end of a stream that may end without a terminal event.
    fn end_of_passage(&self) -> Option<Terminal> {
        let passage = self.passage.as_ref().filter(|passage| passage.may_end())?;
        Some(Terminal { error: None, frame: Bytes::new(), finished: passage.finished() })
    }

    /// As [`take`](Self::take), for a stream of another API.
    fn take_passed(passage: &mut Passage, corrections: &Corrections, event: &Event) -> Step {
        let data = event.data().unwrap_or_default();
        if !Passage::is_end(&data) {
            let is_error = passage.look_at(event.name(), &data);
            let Some(data) = is_error.then(|| corrections.of_error(&data)).flatten() else {
                return Step::Pass;
            };
            passage.look_at(event.name(), &data);
            return Step::Send(Framing::Sse.render(event.name().unwrap_or_default(), data));
        }
        let frame = Framing::Sse.pass(event).unwrap_or_default();
        Step::End(Box::new(Terminal { error: None, frame, finished: passage.finished() }))
    }

    /// Counts an event, keeps what has to be stored of it, and decides what goes to the client.
    fn take(&mut self, event: &Event) -> Result<Step, BadStream> {
        if event.data().is_some() {
            self.events += 1;
        }
        if let Some(passage) = &mut self.passage {
            let step = Self::take_passed(passage, &self.corrections, event);
            self.error = passage.error().cloned();
            self.has_begun |= event.data().is_some() && self.error.is_none() && !matches!(step, Step::End(_));
            return Ok(step);
        }
        self.has_begun = self.has_begun || self.is_begun_by(event);
        let rewritten = match event.kind() {
            EventKind::Terminal => return Ok(Step::End(Box::new(self.terminal(event)?))),
            EventKind::Snapshot => self.rewrite_snapshot(event),
            EventKind::ItemAdded => self.rewrite_item(event),
            EventKind::ItemDone => {
                if !event.data().is_none_or(|data| self.kept.keep(&data)) {
                    return Err(BadStream::OutputTooLarge);
                }
                self.rewrite_item(event)
            }
            EventKind::Error => {
                let data = event.data().unwrap_or_default();
                let corrected = self.corrections.of_error(&data);
                let data = corrected.as_deref().unwrap_or(&data);
                self.keep_error(data);
                let shown = flat_error_event(data).map(Bytes::from).or(corrected);
                shown.map(|data| self.framing.render(b"error", data))
            }
            EventKind::Other => None,
        };
        Ok(rewritten.map_or(Step::Pass, Step::Send))
    }

    fn is_begun_by(&self, event: &Event) -> bool {
        match event.kind() {
            EventKind::Snapshot | EventKind::ItemAdded | EventKind::ItemDone => true,
            EventKind::Terminal | EventKind::Error => false,
            EventKind::Other => self.events > MAX_PRELUDE as u64 || !event.is_prelude(),
        }
    }

    /// Extends the run of neighbours that are passed on in one piece, or ends it and begins another.
    fn extend_run(
        &self,
        run: Range<usize>,
        event: &Event,
        bytes: &Bytes,
        out: &mut VecDeque<Bytes>,
    ) -> Range<usize> {
        let span = span(event).filter(|_| matches!(self.framing, Framing::Sse));
        match span {
            Some(span) if span.start == run.end => run.start..span.end,
            Some(span) => {
                flush(bytes, run, out);
                span
            }
            None => {
                flush(bytes, run, out);
                out.extend(self.framing.pass(event));
                0..0
            }
        }
    }

    fn terminal(&self, event: &Event) -> Result<Terminal, BadStream> {
        let data = event.data().ok_or(BadStream::Malformed)?;
        let data = String::from_utf8_lossy(&data);
        let carrying = ResponseEvent::parse(data.as_bytes()).ok_or(BadStream::Malformed)?;
        let implied = implied_status(event, &carrying.event);
        let Some(corrected) = self.corrections.of_terminal(&carrying, implied, self.error.as_ref()) else {
            return Ok(self.ended_by(event, &carrying, implied));
        };
        let carrying = ResponseEvent::parse(&corrected).ok_or(BadStream::Malformed)?;
        Ok(self.ended_by(event, &carrying, implied))
    }

    fn ended_by(&self, event: &Event, carrying: &ResponseEvent<'_>, implied: Option<Status>) -> Terminal {
        let original = &carrying.response;
        let mut finished = Finished::from_upstream(Bytes::new(), original, self.kept.items(), implied);
        let mut rewritten = self.owned.rewrite_event(carrying);
        // Finished items stand for an output that the upstream leaves out. The client then sees them as in a later GET.
        let is_kept = self.kept.is_wanted();
        if is_kept && finished.status == Status::Failed && original.get("output") != Some(&*finished.output) {
            rewritten.replace_response(|response| response::with_output(response, &finished.output).ok());
        }
        let (data, response) = self.shown(rewritten);
        finished.response = response;
        finished.body = self.owned.stored_body(original).map(Bytes::from);
        Terminal { error: None, frame: self.render(event, data), finished }
    }

    fn rewrite_snapshot(&mut self, event: &Event) -> Option<Bytes> {
        let data = event.shared_data()?;
        if let Some(rendered) = self.repeat_snapshot(event, &data) {
            return Some(rendered);
        }
        let carrying = ResponseEvent::scan(&data)?;
        let original = &carrying.response;
        if self.upstream_id.is_none() {
            self.upstream_id = original.get("id").and_then(json::string).map(Into::into);
        }
        let (rewritten, shown) = self.shown(self.owned.rewrite_event(&carrying));
        self.snapshot = Some(Snapshot { received: Some(data.slice_ref(original.text)), shown });
        Some(self.render(event, rewritten))
    }

    /// The event if it carries the same response as the snapshot before it.
    fn repeat_snapshot(&mut self, event: &Event, data: &[u8]) -> Option<Bytes> {
        let latest = self.snapshot.as_mut()?;
        let object = response::scan_event_with(data, &latest.received.take()?)?;
        let span = &object.find("response")?.value;
        let rewritten = [&data[..span.start], &latest.shown, &data[span.end..]].concat();
        Some(self.render(event, rewritten.into()))
    }

    /// An event that carries the response, and that response, as the client gets them.
    fn shown(&self, mut event: RewrittenEvent) -> (Bytes, Bytes) {
        event.replace_response(|response| self.hidden.hide_in_response(response));
        let data = Bytes::from(event.data);
        let response = data.slice(event.response);
        (data, response)
    }

    /// The event of an item of which the client does not get all.
    fn rewrite_item(&self, event: &Event) -> Option<Bytes> {
        hide_in_event(event, self.hidden).map(|shown| self.render(event, shown.into()))
    }

    /// Renders an event under its name, or under its type if it has none.
    fn render(&self, event: &Event, data: Bytes) -> Bytes {
        if let Some(name) = event.name() {
            return self.framing.render(name, data);
        }
        let kind = json::string_member(&data, "type").unwrap_or_default().into_owned();
        self.framing.render(kind.as_bytes(), data)
    }

    fn keep_error(&mut self, data: &[u8]) {
        let error = json::member(data, "error").filter(|error| error.first() == Some(&b'{')).unwrap_or(data);
        let text = |name| json::string_member(error, name).map(Into::into);
        let kind = || text("type").filter(|kind: &String| kind == ErrorKind::InvalidRequest.as_str());
        let code = text("code").or_else(kind).unwrap_or_else(|| "server_error".to_owned());
        self.error = Some((code, text("message").unwrap_or_default()));
    }

    /// Ends the stream in place of the upstream: with an `error` event, unless the upstream sent one, and `response.failed`.
    pub fn fail(&self, error: &ApiError, skeleton: impl FnOnce() -> Vec<u8>) -> Terminal {
        if let Some(passage) = &self.passage {
            let frame = passage.failure_event(error);
            return Terminal { error: None, frame, finished: passage.finished() };
        }
        let mut sequence = self.next_sequence_number();
        let code = error.code.as_deref().unwrap_or("server_error");
        let mut event = None;
        let cause = match &self.error {
            Some((code, message)) => (code.as_str(), message.as_str()),
            None => {
                event = Some(self.framing.render(b"error", error.event_data(sequence).into()));
                sequence += 1;
                (code, error.message.as_str())
            }
        };
        let finished = self.ended(Ending { status: "failed", error: Some(cause) }, skeleton);
        let frame = self.failed_event(sequence, &finished.response);
        Terminal { error: event, frame, finished }
    }

    /// Ends the stream of a cancelled turn. Its event shows no output.
    pub fn cancel(&self, skeleton: impl FnOnce() -> Vec<u8>) -> Terminal {
        let finished = self.ended(Ending { status: "cancelled", error: None }, skeleton);
        let shown = response::with_output(&finished.response, b"[]").unwrap_or_default();
        let frame = self.failed_event(self.next_sequence_number(), &shown);
        Terminal { error: None, frame, finished }
    }

    /// There is no event for a cancelled response: the one of a failed response stands for it.
    fn failed_event(&self, sequence: u64, response: &[u8]) -> Bytes {
        let start = format!(r#"{{"type":"response.failed","sequence_number":{sequence},"response":"#);
        let mut data = Vec::with_capacity(start.len() + response.len() + 1);
        data.extend_from_slice(start.as_bytes());
        data.extend_from_slice(response);
        data.push(b'}');
        self.framing.render(b"response.failed", data.into())
    }

    fn ended(&self, ending: Ending<'_>, skeleton: impl FnOnce() -> Vec<u8>) -> Finished {
        let output = output_of(self.kept.items());
        let shown = self.hidden.hide_in_array(&output);
        let snapshot = self.snapshot.as_ref().map(|snapshot| &snapshot.shown);
        let snapshot = snapshot.filter(|snapshot| json::validate(snapshot).is_ok());
        let ended = snapshot.and_then(|snapshot| response::end(snapshot, ending, &shown).ok());
        let response = ended.unwrap_or_else(|| {
            response::end(&skeleton(), ending, &shown).expect("the skeleton is an object")
        });
        let status = ending.status.parse().expect("a known status");
        Finished {
            status,
            response: response.into(),
            body: None,
            output,
            upstream_id: None,
            usage: Default::default(),
        }
    }

    fn next_sequence_number(&self) -> u64 {
        self.last_number().map_or(0, |last| last.saturating_add(1))
    }
}

/// The status that the type of a terminal event says, or else its name.
fn implied_status(event: &Event, object: &Object<'_>) -> Option<Status> {
    let status = |kind: &str| kind.strip_prefix("response.")?.parse().ok();
    let kind = object.get("type").and_then(json::string);
    kind.and_then(|kind| status(&kind)).or_else(|| status(std::str::from_utf8(event.name()?).ok()?))
}

/// The position of an event in the bytes it came in, if it came as bytes and in one piece.
fn span(event: &Event) -> Option<Range<usize>> {
    match event {
        Event::Sse(frame) => frame.span.clone(),
        Event::Message { .. } => None,
    }
}

fn flush(bytes: &Bytes, run: Range<usize>, out: &mut VecDeque<Bytes>) {
    if !run.is_empty() {
        out.push_back(bytes.slice(run));
    }
}
