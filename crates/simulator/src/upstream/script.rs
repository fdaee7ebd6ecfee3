//! Scripts: builders for the content and the delivery of replies.

use super::gate::Gate;
use super::refusal::Refusal;
use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use std::time::Duration;

/// One reply. [`Script::default`] has no output; start with another constructor, or add output to it.
#[derive(Clone, Debug, Default)]
pub struct Script {
    pub(super) output: Vec<Output>,
    pub(super) deltas: Option<usize>,
    pub(super) ending: Ending,
    pub(super) error_event: Option<(String, String)>,
    pub(super) usage: Option<(u64, u64)>,
    pub(super) instead: Option<Instead>,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) injected: Vec<(usize, Bytes)>,
    pub(super) delivery: Delivery,
}

#[derive(Clone, Debug)]
pub(super) enum Output {
    Message { text: String },
    Reasoning { summary: String },
    Call { call_id: Option<String>, name: String, arguments: String },
    Raw { json: String },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Ending {
    #[default]
    Completed,
    Incomplete {
        reason: String,
    },
    Failed {
        code: String,
        message: String,
    },
    /// The stream just ends, without a terminal event.
    Silent,
}

/// A reply that is not a response object.
#[derive(Clone, Debug)]
pub(super) enum Instead {
    Body { status: u16, content_type: String, bytes: Bytes },
    Stream { bytes: Bytes },
}

#[derive(Clone, Debug, Default)]
pub(super) struct Delivery {
    pub(super) before_headers: Duration,
    pub(super) before_first_event: Duration,
    pub(super) between_events: Option<Duration>,
    pub(super) gate: Option<(GateAt, Gate)>,
    pub(super) stop: Option<Stop>,
    pub(super) afterwards: Option<(Duration, Close)>,
    pub(super) writes: Writes,
    pub(super) crlf: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GateAt {
    Headers,
    Event(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    DropBeforeHeaders,
    HangBeforeHeaders,
    Cut { events: usize, inside: bool },
    End { events: usize },
    Hang { events: usize },
    Close { events: usize, close: Close },
}

/// How a socket is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// With a close frame that has this code.
    Code(u16),
    /// TCP is closed without a close frame.
    Fin,
    /// TCP is reset.
    Reset,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Writes {
    #[default]
    PerEvent,
    OfSize(usize),
    One,
}

/// What the reply says.
impl Script {
    pub fn new() -> Self {
        Self::default()
    }

    /// A message with this text.
    pub fn answer(text: impl Into<String>) -> Self {
        Self::new().text(text)
    }

    /// One function call.
    pub fn call(name: impl Into<String>, arguments: impl Into<String>) -> Self {
        Self::new().tool_call(name, arguments)
    }

    /// An HTTP error in the API's envelope.
    pub fn refusal(status: u16, code: &str, message: &str) -> Self {
        Self::http(status, Refusal::new(status, code, message).envelope())
    }

    /// A JSON reply of this status with these bytes.
    pub fn http(status: u16, body: impl Into<Bytes>) -> Self {
        let content_type = String::from("application/json");
        Self { instead: Some(Instead::Body { status, content_type, bytes: body.into() }), ..Self::default() }
    }

    /// A 200 whose event stream is exactly these bytes.
    pub fn stream_bytes(bytes: impl Into<Bytes>) -> Self {
        Self { instead: Some(Instead::Stream { bytes: bytes.into() }), ..Self::default() }
    }

    /// Adds a message.
    pub fn text(mut self, text: impl Into<String>) -> Self {
        self.output.push(Output::Message { text: text.into() });
        self
    }

    /// Adds a reasoning item, with encrypted content if the request includes it.
    pub fn reasoning(mut self, summary: impl Into<String>) -> Self {
        self.output.push(Output::Reasoning { summary: summary.into() });
        self
    }

    /// Adds a function call; `arguments` is the JSON text that the model would write.
    pub fn tool_call(mut self, name: impl Into<String>, arguments: impl Into<String>) -> Self {
        self.output.push(Output::Call { call_id: None, name: name.into(), arguments: arguments.into() });
        self
    }

    /// Adds a function call with a `call_id` of the test's choice.
    pub fn tool_call_as(
        mut self,
        call_id: impl Into<String>,
        name: impl Into<String>,
        arguments: impl Into<String>,
    ) -> Self {
        let call_id = Some(call_id.into());
        self.output.push(Output::Call { call_id, name: name.into(), arguments: arguments.into() });
        self
    }

    /// Adds an output item that is exactly this JSON text.
    pub fn item(mut self, json: impl Into<String>) -> Self {
        self.output.push(Output::Raw { json: json.into() });
        self
    }

    /// Splits every text into this number of deltas.
    pub fn deltas(mut self, count: usize) -> Self {
        self.deltas = Some(count);
        self
    }

    /// Reports these token counts instead of estimates.
    pub fn usage(mut self, input_tokens: u64, output_tokens: u64) -> Self {
        self.usage = Some((input_tokens, output_tokens));
        self
    }

    /// Ends with `response.failed`.
    pub fn failed(mut self, code: &str, message: &str) -> Self {
        self.ending = Ending::Failed { code: code.to_owned(), message: message.to_owned() };
        self
    }

    /// Ends with `response.incomplete`.
    pub fn incomplete(mut self, reason: &str) -> Self {
        self.ending = Ending::Incomplete { reason: reason.to_owned() };
        self
    }

    /// Sends an `error` event after the output. Unless a failure is scripted too, the stream ends there.
    pub fn error_event(mut self, code: &str, message: &str) -> Self {
        self.error_event = Some((code.to_owned(), message.to_owned()));
        if self.ending == Ending::Completed {
            self.ending = Ending::Silent;
        }
        self
    }

    /// Ends the stream cleanly, without a terminal event.
    pub fn no_terminal(mut self) -> Self {
        self.ending = Ending::Silent;
        self
    }

    /// Puts raw bytes into the stream before the event with this number (after the last one if there are fewer).
    pub fn inject(mut self, before_event: usize, bytes: impl Into<Bytes>) -> Self {
        self.injected.push((before_event, bytes.into()));
        self
    }
}

/// How the reply is sent.
impl Script {
    /// Adds a response header. Panics if the name or value is invalid.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let name = name.parse().expect("the name of a scripted header is valid");
        self.headers.push((name, value.parse().expect("the value of a scripted header is valid")));
        self
    }

    /// Overrides the content type.
    pub fn content_type(self, value: &str) -> Self {
        self.header("content-type", value)
    }

    pub fn delay_headers(mut self, time: Duration) -> Self {
        self.delivery.before_headers = time;
        self
    }

    pub fn delay_first_event(mut self, time: Duration) -> Self {
        self.delivery.before_first_event = time;
        self
    }

    pub fn delay_events(mut self, time: Duration) -> Self {
        self.delivery.between_events = Some(time);
        self
    }

    /// Holds the reply before its headers until the gate is opened.
    pub fn gated(mut self) -> (Self, Gate) {
        let gate = Gate::new();
        self.delivery.gate = Some((GateAt::Headers, gate.clone()));
        (self, gate)
    }

    /// Holds a stream after this number of events until the gate is opened.
    pub fn gated_after(mut self, events: usize) -> (Self, Gate) {
        let gate = Gate::new();
        self.delivery.gate = Some((GateAt::Event(events), gate.clone()));
        (self, gate)
    }

    /// Closes the connection instead of replying.
    pub fn drop_connection(mut self) -> Self {
        self.delivery.stop = Some(Stop::DropBeforeHeaders);
        self
    }

    /// Never replies.
    pub fn hang(mut self) -> Self {
        self.delivery.stop = Some(Stop::HangBeforeHeaders);
        self
    }

    /// Sends nothing more after this number of events, and keeps the connection open. A collected reply hangs in the middle.
    pub fn hang_after(mut self, events: usize) -> Self {
        self.delivery.stop = Some(Stop::Hang { events });
        self
    }

    /// Closes the socket after this number of events; 0 is before the first. Over HTTP, the connection is cut.
    pub fn close_after(mut self, events: usize, close: Close) -> Self {
        self.delivery.stop = Some(Stop::Close { events, close });
        self
    }

    /// Closes the socket once it has been idle for this time after the turn. Has no effect over HTTP.
    pub fn then_close(mut self, idle: Duration, close: Close) -> Self {
        self.delivery.afterwards = Some((idle, close));
        self
    }

    /// Cuts the connection after this number of events. A collected reply is cut in the middle of its body.
    pub fn cut_after(mut self, events: usize) -> Self {
        self.delivery.stop = Some(Stop::Cut { events, inside: false });
        self
    }

    /// Cuts the connection in the middle of an event, after this number of whole ones.
    pub fn cut_inside(mut self, events: usize) -> Self {
        self.delivery.stop = Some(Stop::Cut { events, inside: true });
        self
    }

    /// Ends the stream cleanly after this number of events.
    pub fn end_after(mut self, events: usize) -> Self {
        self.delivery.stop = Some(Stop::End { events });
        self
    }

    /// Sends the body in pieces of this size, each with a write of its own.
    pub fn writes_of(mut self, size_bytes: usize) -> Self {
        self.delivery.writes = Writes::OfSize(size_bytes.max(1));
        self
    }

    /// Sends the body in one write. Delays, gates and stops still split it.
    pub fn one_write(mut self) -> Self {
        self.delivery.writes = Writes::One;
        self
    }

    /// Ends the lines of the stream with CR LF.
    pub fn crlf(mut self) -> Self {
        self.delivery.crlf = true;
        self
    }
}
