//! The events of the Responses API, made from what the chunks of a chat say.
//!
//! One item is open, or several calls are. Whatever begins another item closes them, and a call closes those before it whose
//! arguments are whole or that are not announced, so items come in the order in which they were opened.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use antiphon_protocol::event::{Event, EventKind};
use antiphon_protocol::json;
use antiphon_protocol::response::array;

use super::calls::{Call, Fragment, Interleaved};
use super::echo::{Echo, Progress};
use super::{ReasoningAs, put, usage};

/// Why a response is not complete.
pub const MAX_OUTPUT_TOKENS: &str = "max_output_tokens";
pub const CONTENT_FILTER: &str = "content_filter";

/// Calls that may be open at a time: each fragment is compared with them.
const MAX_OPEN_CALLS: usize = 64;

/// The kinds of text that a model writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextKind {
    Output,
    Refusal,
    Reasoning,
    Summary,
}

/// What a model has written anything of.
#[derive(Debug, Clone, Copy, Default)]
pub struct Written {
    pub reasoning: bool,
    pub answer: bool,
    pub calls: bool,
}

/// The stream so far.
#[derive(Debug)]
pub struct Events {
    pub echo: Arc<Echo>,
    queue: VecDeque<Event>,
    sequence: u64,
    pub is_started: bool,
    /// Whether only the end is emitted: the reply is whole, and nobody gets the events before it.
    pub emits_end_only: bool,
    /// The upstream's id, model and usage, as JSON.
    pub id: Option<Vec<u8>>,
    pub model: Option<Vec<u8>>,
    pub usage: Option<Vec<u8>>,
    text: Option<Text>,
    calls: VecDeque<Call>,
    /// The finished items.
    items: Vec<Vec<u8>>,
    closed_calls: HashSet<(Option<u64>, Option<Vec<u8>>)>,
    closed_indexes: HashSet<u64>,
    /// The upstream's ids of all calls so far.
    call_ids: HashSet<Vec<u8>>,
    pub written: Written,
    /// How much the model has written.
    output_bytes: usize,
    /// What the ids of calls take, which the model does not write.
    id_bytes: usize,
    /// What the finished items take.
    kept_bytes: usize,
}

/// An open item of text.
#[derive(Debug)]
struct Text {
    kind: TextKind,
    id: String,
    /// As it stands in a JSON string.
    text: Vec<u8>,
    /// The elements of an array.
    logprobs: Vec<u8>,
}

// === impl Events ===

impl Events {
    pub fn new(echo: Arc<Echo>) -> Self {
        Self {
            echo,
            queue: VecDeque::new(),
            sequence: 0,
            is_started: false,
            emits_end_only: false,
            id: None,
            model: None,
            usage: None,
            text: None,
            calls: VecDeque::new(),
            items: Vec::new(),
            closed_calls: HashSet::new(),
            closed_indexes: HashSet::new(),
            call_ids: HashSet::new(),
            written: Written::default(),
            output_bytes: 0,
            id_bytes: 0,
            kept_bytes: 0,
        }
    }

    pub fn pop(&mut self) -> Option<Event> {
        self.queue.pop_front()
    }

    /// How much is held: what the upstream has written, or the items that were made of it.
    pub fn held_bytes(&self) -> usize {
        (self.output_bytes + self.id_bytes).max(self.kept_bytes)
    }

    /// How reasoning is shown.
    pub fn reasoning_kind(&self) -> TextKind {
        match self.echo.settings.reasoning_as {
            ReasoningAs::Text => TextKind::Reasoning,
            ReasoningAs::Summary => TextKind::Summary,
        }
    }

    /// The events before all others.
    pub fn start(&mut self) {
        if !std::mem::replace(&mut self.is_started, true) && !self.emits_end_only {
            self.emit_response("response.created", "in_progress", b"null", b"null");
            self.emit_response("response.in_progress", "in_progress", b"null", b"null");
        }
    }

    /// More text, as it stands in a JSON string. `logprobs` are the elements of an array.
    pub fn text(&mut self, kind: TextKind, text: &[u8], logprobs: &[u8]) {
        // Some servers write a line end between the fragments of a call, which is not over then.
        if self.calls.iter().any(|call| !call.is_whole()) && is_blank(text) {
            return;
        }
        let mut open = match self.text.take_if(|open| open.kind == kind) {
            Some(open) => open,
            None => {
                self.close("completed");
                self.open_text(kind)
            }
        };
        match kind {
            TextKind::Output | TextKind::Refusal => {
                self.written.answer = self.written.answer || !is_blank(text);
            }
            TextKind::Reasoning | TextKind::Summary => self.written.reasoning = true,
        }
        self.output_bytes += text.len() + logprobs.len();
        open.text.extend_from_slice(text);
        if !logprobs.is_empty() {
            let comma: &[u8] = if open.logprobs.is_empty() { b"" } else { b"," };
            put(&mut open.logprobs, &[comma, logprobs]);
        }
        let mut delta = place(&open.id, self.items.len());
        put(&mut delta, &[open.kind.part_index(), br#","delta":""#, text, b"\""]);
        if kind == TextKind::Output {
            put(&mut delta, &[br#","logprobs":["#, logprobs, b"]"]);
        }
        self.emit(&open.kind.event("delta"), &delta);
        self.text = Some(open);
    }

    /// More of a call.
    pub fn call(&mut self, fragment: &Fragment<'_>) -> Result<(), Interleaved> {
        let at = match self.open_call(fragment) {
            Some(at) => at,
            None if fragment.is_empty() => return Ok(()),
            None if self.is_of_closed_call(fragment) => return Err(Interleaved),
            None => self.begin_call(fragment),
        };
        let mut call = self.calls.remove(at).expect("it is open");
        self.written.calls = true;
        self.output_bytes += call.extend(fragment, &self.echo);
        self.announce(&mut call);
        self.emit_arguments(&mut call);
        self.calls.insert(at, call);
        Ok(())
    }

    /// The call to which a fragment belongs: that with its id, else the last one, else an earlier one with its index.
    fn open_call(&self, fragment: &Fragment<'_>) -> Option<usize> {
        let last = self.calls.len().checked_sub(1)?;
        let continues = |at: &usize| self.calls[*at].is_continued_by(fragment);
        let has_its_id = |at: &usize| self.calls[*at].has_id_of(fragment);
        let by_id = (0..=last).rev().find(|at| has_its_id(at) && continues(at));
        let by_index = || (0..last).rev().find(continues);
        by_id
            .or_else(|| Some(last).filter(continues))
            .or_else(|| if fragment.index.is_some() && fragment.name.is_none() { by_index() } else { None })
    }

    fn is_of_closed_call(&self, fragment: &Fragment<'_>) -> bool {
        match (fragment.index, fragment.id) {
            _ if fragment.is_whole => false,
            (index, Some(id)) if self.closed_calls.contains(&(index, Some(id.to_vec()))) => true,
            (Some(index), _) => fragment.name.is_none() && self.closed_indexes.contains(&index),
            (None, _) => false,
        }
    }

    /// Opens a call and returns its place among those that are open.
    fn begin_call(&mut self, fragment: &Fragment<'_>) -> usize {
        if let Some(text) = self.text.take() {
            self.close_text(text, "completed");
        }
        // Items are announced in the order of the output, so a call that is not announced yet comes to its end first.
        let is_over = |calls: &VecDeque<Call>| {
            calls.len() >= MAX_OPEN_CALLS
                || calls.front().is_some_and(|first| !first.may_go_on(fragment))
                || calls.iter().any(|call| !call.is_announced)
        };
        while is_over(&self.calls) {
            let Some(first) = self.calls.pop_front() else { break };
            self.close_call(first, "completed");
        }
        if let Some(extra) = fragment.extra.filter(|_| self.calls.is_empty()) {
            self.keep_extra(extra);
        }
        let place = self.items.len() + self.calls.len();
        self.id_bytes += fragment.id.map_or(0, <[u8]>::len);
        let call_id = fragment.id.filter(|id| self.call_ids.insert(id.to_vec()));
        self.calls.push_back(Call::new(fragment, call_id, &self.echo, place));
        self.calls.len() - 1
    }

    /// Keeps what goes back with the next call, in reasoning of its own: only chat completions get that.
    fn keep_extra(&mut self, extra: &[u8]) {
        let (id, index) = (self.echo.item_id("rs", self.items.len()), self.items.len());
        let item = |status: &str, extra: &[u8]| {
            let start =
                format!(r#"{{"id":"{id}","type":"reasoning","summary":[],"content":[],"status":"{status}""#);
            [start.as_bytes(), extra, b"}"].concat()
        };
        self.emit_item("response.output_item.added", &item("in_progress", b""), index);
        let done = item("completed", &[br#","extra_content":"#, extra].concat());
        self.finish_item(done);
    }

    /// Ends what is open.
    pub fn close(&mut self, status: &str) {
        if let Some(text) = self.text.take() {
            self.close_text(text, status);
        }
        while let Some(call) = self.calls.pop_front() {
            self.close_call(call, status);
        }
    }

    /// Ends the response.
    pub fn complete(&mut self, incomplete: Option<&'static str>) {
        self.close(if incomplete.is_some() { "incomplete" } else { "completed" });
        match incomplete {
            None => self.emit_response("response.completed", "completed", b"null", b"null"),
            Some(reason) => {
                let details = format!(r#"{{"reason":"{reason}"}}"#);
                self.emit_response("response.incomplete", "incomplete", b"null", details.as_bytes());
            }
        }
    }

    /// Ends the stream with an error. Before the first event that is all, and the turn may go to another account.
    pub fn fail(&mut self, code: &str, message: &str) {
        let mut error = br#","code":"#.to_vec();
        json::write_string(&mut error, code);
        error.extend_from_slice(br#","message":"#);
        json::write_string(&mut error, message);
        let object = [b"{", &error[1..], b"}"].concat();
        error.extend_from_slice(br#","param":null"#);
        self.emit("error", &error);
        if self.is_started {
            self.text = None;
            self.calls.clear();
            self.emit_response("response.failed", "failed", &object, b"null");
        }
    }

    fn open_text(&mut self, kind: TextKind) -> Text {
        let index = self.items.len();
        let id = self.echo.item_id(kind.id_prefix(), index);
        self.emit_item("response.output_item.added", &kind.item(&id, "in_progress", b""), index);
        let mut part = place(&id, index);
        put(&mut part, &[kind.part_index(), br#","part":"#, &kind.part(b"", b"")]);
        self.emit(kind.part_event("added"), &part);
        Text { kind, id, text: Vec::new(), logprobs: Vec::new() }
    }

    fn close_text(&mut self, open: Text, status: &str) {
        let Text { kind, id, text, logprobs } = open;
        let mut done = place(&id, self.items.len());
        put(&mut done, &[kind.part_index(), b",\"", kind.member(), b"\":\"", &text, b"\""]);
        if kind == TextKind::Output {
            put(&mut done, &[br#","logprobs":["#, &logprobs, b"]"]);
        }
        self.emit(&kind.event("done"), &done);
        let part = kind.part(&text, &logprobs);
        let mut part_done = place(&id, self.items.len());
        put(&mut part_done, &[kind.part_index(), br#","part":"#, &part]);
        self.emit(kind.part_event("done"), &part_done);
        self.finish_item(kind.item(&id, status, &part));
    }

    /// Announces a call once its name is known, if its arguments are streamed.
    fn announce(&mut self, call: &mut Call) {
        if call.is_announced || !call.has_name() || !call.is_announced_early() {
            return;
        }
        call.is_announced = true;
        self.emit_item("response.output_item.added", &call.item("in_progress", false), call.place);
    }

    /// Passes on the arguments of a function that have not been passed on yet.
    fn emit_arguments(&mut self, call: &mut Call) {
        let Some(arguments) = call.take_new_arguments() else { return };
        let mut delta = place(call.item_id(), call.place);
        put(&mut delta, &[br#","delta":""#, &arguments, b"\""]);
        self.emit("response.function_call_arguments.delta", &delta);
    }

    fn close_call(&mut self, mut call: Call, status: &str) {
        call.settle();
        self.announce(&mut call);
        self.emit_arguments(&mut call);
        let done = call.item(status, true);
        let place = place(call.item_id(), call.place);
        if !call.is_announced {
            self.emit_item("response.output_item.added", &call.item("in_progress", true), call.place);
        } else if let Some(input) = call.custom_input() {
            for (name, member) in [("delta", "delta"), ("done", "input")] {
                let event = format!("response.custom_tool_call_input.{name}");
                let input = [&place[..], b",\"", member.as_bytes(), b"\":\"", &input, b"\""].concat();
                self.emit(&event, &input);
            }
        } else {
            let name = call.name();
            let arguments =
                [&place, &br#","name":""#[..], name, br#"","arguments":""#, call.arguments(), b"\""].concat();
            self.emit("response.function_call_arguments.done", &arguments);
        }
        let key = call.key();
        self.closed_indexes.extend(key.0);
        self.closed_calls.insert(key);
        self.finish_item(done);
    }

    fn finish_item(&mut self, item: Vec<u8>) {
        self.emit_item("response.output_item.done", &item, self.items.len());
        self.kept_bytes += item.len();
        self.items.push(item);
    }

    fn emit_item(&mut self, name: &str, item: &[u8], index: usize) {
        let index = index.to_string();
        self.emit(name, &[br#","output_index":"#, index.as_bytes(), br#","item":"#, item].concat());
    }

    fn emit_response(&mut self, name: &str, status: &str, error: &[u8], incomplete_details: &[u8]) {
        let usage = match status {
            "in_progress" => b"null".to_vec(),
            _ => usage::from_chat(self.usage.as_deref(), self.echo.request_bytes, self.output_bytes),
        };
        let response = self.echo.response(Progress {
            id: self.id.as_deref(),
            model: self.model.as_deref(),
            status,
            output: &array(&self.items),
            error,
            incomplete_details,
            usage: &usage,
        });
        self.emit(name, &[br#","response":"#, &response[..]].concat());
    }

    /// `members` has a comma before each member.
    fn emit(&mut self, name: &str, members: &[u8]) {
        let kind = EventKind::of(name.as_bytes());
        if self.emits_end_only && !matches!(kind, EventKind::Terminal | EventKind::Error) {
            return;
        }
        let mut data = Vec::with_capacity(members.len() + name.len() + 48);
        put(&mut data, &[br#"{"type":""#, name.as_bytes(), br#"","sequence_number":"#]);
        put(&mut data, &[self.sequence.to_string().as_bytes(), members, b"}"]);
        self.sequence += 1;
        self.queue.push_back(Event::Message { kind, data: data.into() });
    }
}

/// Whether a text, as it stands in a JSON string, is only white space.
fn is_blank(text: &[u8]) -> bool {
    json::string(&[b"\"", text, b"\""].concat()).is_some_and(|text| text.trim().is_empty())
}

/// The members that say which item an event is of.
fn place(id: &str, index: usize) -> Vec<u8> {
    format!(r#","item_id":"{id}","output_index":{index}"#).into_bytes()
}

// === impl TextKind ===

impl TextKind {
    fn id_prefix(self) -> &'static str {
        match self {
            Self::Output | Self::Refusal => "msg",
            Self::Reasoning | Self::Summary => "rs",
        }
    }

    fn event(self, end: &str) -> String {
        let name = match self {
            Self::Output => "output_text",
            Self::Refusal => "refusal",
            Self::Reasoning => "reasoning_text",
            Self::Summary => "reasoning_summary_text",
        };
        format!("response.{name}.{end}")
    }

    fn part_event(self, end: &str) -> &'static str {
        match (self, end) {
            (Self::Summary, "added") => "response.reasoning_summary_part.added",
            (Self::Summary, _) => "response.reasoning_summary_part.done",
            (_, "added") => "response.content_part.added",
            (..) => "response.content_part.done",
        }
    }

    fn part_index(self) -> &'static [u8] {
        if self == Self::Summary { br#","summary_index":0"# } else { br#","content_index":0"# }
    }

    /// The member of the part and of the `done` event that holds the text.
    fn member(self) -> &'static [u8] {
        if self == Self::Refusal { b"refusal" } else { b"text" }
    }

    fn part(self, text: &[u8], logprobs: &[u8]) -> Vec<u8> {
        let start: &[u8] = match self {
            Self::Output => br#"{"type":"output_text","annotations":[],"logprobs":["#,
            Self::Refusal => br#"{"type":"refusal","refusal":""#,
            Self::Reasoning => br#"{"type":"reasoning_text","text":""#,
            Self::Summary => br#"{"type":"summary_text","text":""#,
        };
        match self {
            Self::Output => [start, logprobs, br#"],"text":""#, text, b"\"}"].concat(),
            _ => [start, text, b"\"}"].concat(),
        }
    }

    /// `part` is empty as long as the item is.
    fn item(self, id: &str, status: &str, part: &[u8]) -> Vec<u8> {
        let mut out = format!(r#"{{"id":"{id}","#).into_bytes();
        match self {
            Self::Output | Self::Refusal => {
                put(&mut out, &[br#""type":"message","status":""#, status.as_bytes()]);
                put(&mut out, &[br#"","role":"assistant","content":["#, part, b"]}"]);
            }
            Self::Reasoning => {
                put(&mut out, &[br#""type":"reasoning","summary":[],"content":["#, part]);
                put(&mut out, &[br#"],"status":""#, status.as_bytes(), b"\"}"]);
            }
            Self::Summary => {
                put(&mut out, &[br#""type":"reasoning","summary":["#, part]);
                put(&mut out, &[br#"],"status":""#, status.as_bytes(), b"\"}"]);
            }
        }
        out
    }
}
