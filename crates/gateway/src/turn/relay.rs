//! Relay: what becomes of each event on its way to the client. No I/O.

use std::collections::VecDeque;
use std::ops::Range;

use antiphon_protocol::error::ApiError;
use antiphon_protocol::event::{EventKind, sequence_number};
use antiphon_protocol::json::{self, Object};
use antiphon_protocol::response::{self, Ending, Owned};
use antiphon_protocol::sse::{Decoder, Frame, FrameTooLarge};
use bytes::Bytes;

use super::framing::Framing;
use super::record::Finished;

/// Passes events on, rewrites those that carry the response, and keeps what has to be stored.
pub struct Relay {
    decoder: Decoder,
    framing: Framing,
    owned: Owned,
    /// Finished output items, by the order in which they came.
    items: Vec<Bytes>,
    /// The latest response object, rewritten.
    snapshot: Option<Bytes>,
    /// Events that have come.
    events: u64,
    /// The last event that was passed on.
    last: Option<Frame>,
    /// The upstream's own `error` event, if it sent one: code and message.
    error: Option<(String, String)>,
}

/// The event that ends the stream; to be sent once the turn is durable.
pub struct Terminal {
    /// The `error` event that goes before it, if the gateway ends the stream.
    pub error: Option<Bytes>,
    pub frame: Bytes,
    pub finished: Finished,
}

/// Why a stream can't go on.
#[derive(Debug, thiserror::Error)]
pub enum BadStream {
    #[error(transparent)]
    TooLarge(#[from] FrameTooLarge),
    #[error("its last event is no JSON with a response object")]
    Malformed,
}

impl Relay {
    pub fn new(owned: Owned, framing: Framing, max_event_bytes: usize) -> Self {
        Self {
            decoder: Decoder::new(max_event_bytes),
            framing,
            owned,
            items: Vec::new(),
            snapshot: None,
            events: 0,
            last: None,
            error: None,
        }
    }

    /// The upstream's own `error` event, if it sent one: code and message.
    pub fn error(&self) -> Option<&(String, String)> {
        self.error.as_ref()
    }

    /// How many events have come (comments are none).
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Takes a piece of the upstream's stream; appends what goes to the client now. What stands in the piece after the
    /// terminal event is dropped.
    pub fn push(&mut self, chunk: Bytes, out: &mut VecDeque<Bytes>) -> Result<Option<Terminal>, BadStream> {
        self.decoder.push(chunk);
        // Frames that are passed on as they came are passed on together.
        let mut run = 0..0;
        while let Some(frame) = self.decoder.next_frame()? {
            let rewritten = match EventKind::of_event(frame.event(), &frame.data().unwrap_or_default()) {
                EventKind::Terminal => {
                    self.events += 1;
                    flush(self.decoder.chunk(), run, out);
                    return self.terminal(&frame).map(Some);
                }
                EventKind::Snapshot => self.rewrite_snapshot(&frame),
                EventKind::ItemDone => {
                    self.keep_item(&frame);
                    None
                }
                EventKind::Error => {
                    self.keep_error(&frame);
                    None
                }
                EventKind::Other => None,
            };
            if matches!(self.framing, Framing::Sse) {
                run = self.extend_run(run, &frame, rewritten, out);
            } else {
                out.extend(rewritten.or_else(|| self.framing.pass(&frame)));
            }
            if frame.data().is_some() {
                self.events += 1;
                self.last = Some(frame);
            }
        }
        flush(self.decoder.chunk(), run, out);
        Ok(None)
    }

    /// Lengthens the run of neighbours that are passed on in one piece, or ends it and begins another.
    fn extend_run(
        &self,
        mut run: Range<usize>,
        frame: &Frame,
        rewritten: Option<Bytes>,
        out: &mut VecDeque<Bytes>,
    ) -> Range<usize> {
        match (rewritten, frame.span.clone()) {
            (None, Some(span)) if span.start == run.end => run.end = span.end,
            (rewritten, span) => {
                flush(self.decoder.chunk(), run, out);
                run = match (rewritten, span) {
                    (None, Some(span)) => span,
                    (rewritten, span) => {
                        out.push_back(rewritten.unwrap_or_else(|| frame.raw.clone()));
                        span.map_or(0..0, |span| span.end..span.end)
                    }
                };
            }
        }
        run
    }

    /// At the end of the upstream's stream: its last event may lack the blank line after it.
    pub fn finish(&mut self, out: &mut VecDeque<Bytes>) -> Result<Option<Terminal>, BadStream> {
        match self.decoder.finish() {
            Some(frame) if frame.data().is_some_and(|data| json::validate(&data).is_ok()) => {
                self.decoder.push(Bytes::new());
                self.push(frame.raw, out)
            }
            _ => Ok(None),
        }
    }

    fn terminal(&self, frame: &Frame) -> Result<Terminal, BadStream> {
        let data = frame.data().ok_or(BadStream::Malformed)?;
        let event = Object::parse(&data).map_err(|_| BadStream::Malformed)?;
        let rewritten = self.owned.rewrite_event(&event).map_err(|_| BadStream::Malformed)?;
        let original = event.get("response").unwrap_or_default();
        let original = Object::scan(original).map_err(|_| BadStream::Malformed)?;
        let data = Bytes::from(rewritten.data);
        let response = data.slice(rewritten.response);
        let finished = Finished::of_upstream(response, &original, &self.items);
        Ok(Terminal { error: None, frame: self.render(frame, &event, data), finished })
    }

    fn rewrite_snapshot(&mut self, frame: &Frame) -> Option<Bytes> {
        let data = frame.data()?;
        let event = Object::scan(&data).ok()?;
        let rewritten = self.owned.rewrite_event(&event).ok()?;
        let data = Bytes::from(rewritten.data);
        self.snapshot = Some(data.slice(rewritten.response));
        Some(self.render(frame, &event, data))
    }

    /// An event under its name, or its type where it has none.
    fn render(&self, frame: &Frame, event: &Object<'_>, data: Bytes) -> Bytes {
        let kind = event.get("type").and_then(json::string).unwrap_or_default();
        self.framing.render(frame.event().unwrap_or(kind.as_bytes()), data)
    }

    fn keep_item(&mut self, frame: &Frame) {
        let Some(data) = frame.data() else { return };
        if let Some(item) = json::member(&data, "item") {
            self.items.push(Bytes::copy_from_slice(item));
        }
    }

    fn keep_error(&mut self, frame: &Frame) {
        let data = frame.data().unwrap_or_default();
        let error =
            json::member(&data, "error").filter(|error| error.first() == Some(&b'{')).unwrap_or(&data);
        let text = |name| json::string_member(error, name).map(Into::into);
        let code = text("code").unwrap_or_else(|| "server_error".to_owned());
        self.error = Some((code, text("message").unwrap_or_default()));
    }

    /// Ends the stream in the upstream's place: an `error` event, unless the upstream has sent one, and `response.failed`.
    pub fn fail(&self, error: &ApiError, skeleton: impl FnOnce() -> Vec<u8>) -> Terminal {
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
        let mut data =
            format!(r#"{{"type":"response.failed","sequence_number":{sequence},"response":"#).into_bytes();
        data.extend_from_slice(&finished.response);
        data.push(b'}');
        Terminal { error: event, frame: self.framing.render(b"response.failed", data.into()), finished }
    }

    /// What is left of a response that nobody waits for any more.
    pub fn cancel(&self, skeleton: impl FnOnce() -> Vec<u8>) -> Finished {
        self.ended(Ending { status: "cancelled", error: None }, skeleton)
    }

    fn ended(&self, ending: Ending<'_>, skeleton: impl FnOnce() -> Vec<u8>) -> Finished {
        let whole = self.items.iter().filter(|item| json::validate(item).is_ok());
        let output = response::array(whole);
        let snapshot = self.snapshot.clone().filter(|snapshot| json::validate(snapshot).is_ok());
        let snapshot = snapshot.unwrap_or_else(|| skeleton().into());
        let response = response::end(&snapshot, ending, &output).expect("a validated object");
        let status = ending.status.parse().expect("a status of ours");
        Finished {
            status,
            response: response.into(),
            output: output.into(),
            upstream_id: None,
            usage: Default::default(),
        }
    }

    fn next_sequence_number(&self) -> u64 {
        let last = self.last.as_ref().and_then(|frame| sequence_number(&frame.data()?));
        last.map_or(0, |last| last + 1)
    }
}

fn flush(chunk: &Bytes, run: Range<usize>, out: &mut VecDeque<Bytes>) {
    if !run.is_empty() {
        out.push_back(chunk.slice(run));
    }
}
