//! From the chunks of a stream to events.

use std::borrow::Cow;
use std::sync::Arc;

use antiphon_protocol::event::Event;
use antiphon_protocol::json::{self, Object};
use antiphon_protocol::sse::{self, FrameTooLarge};
use bytes::Bytes;

use super::calls::Fragment;
use super::echo::Echo;
use super::event::{CONTENT_FILTER, Events, MAX_OUTPUT_TOKENS, TextKind, Written};
use super::think::{self, ThinkTags};
use super::{escaped, failure, inner};
use crate::dialect::Piece;

const DONE: &[u8] = b"[DONE]";

/// Decodes the stream of one chat completion.
#[derive(Debug)]
pub struct Decoder {
    sse: sse::Decoder,
    events: Events,
    tags: Option<ThinkTags>,
    /// Why the model ended, once it has.
    finish: Option<String>,
    /// Whether the last event has been made.
    is_over: bool,
    max_bytes: usize,
}

// === impl Decoder ===

impl Decoder {
    /// `max_bytes` bounds a chunk, and all that the model writes.
    pub fn new(echo: Arc<Echo>, max_bytes: usize) -> Self {
        let tags = echo.settings.think_tags.then(ThinkTags::default);
        let sse = sse::Decoder::new(max_bytes);
        Self { sse, events: Events::new(echo), tags, finish: None, is_over: false, max_bytes }
    }

    pub fn push(&mut self, piece: Piece) {
        match piece {
            Piece::Bytes(bytes) => self.sse.push(bytes),
            // Its message is taken as one large delta.
            Piece::Whole(body) => {
                self.events.emits_end_only = true;
                // What is no object ends without a response.
                if let Ok(completion) = Object::parse(body.trim_ascii()) {
                    self.take_chunk(&completion, false);
                }
                // Some servers leave out why the model ended.
                if is_completion(&body) {
                    self.finish.get_or_insert_default();
                }
            }
            // There are no chat completions over WebSockets.
            Piece::Event(_) => {}
        }
    }

    pub fn next_event(&mut self) -> Result<Option<Event>, FrameTooLarge> {
        loop {
            if let Some(event) = self.events.pop() {
                return Ok(Some(event));
            }
            let Some(frame) = self.sse.next_frame()? else { return Ok(None) };
            self.take_frame(&frame);
            if self.events.held_bytes() > self.max_bytes {
                return Err(FrameTooLarge { max_bytes: self.max_bytes });
            }
        }
    }

    /// Each of the last events: the last chunk may lack its blank line, and the stream its `[DONE]`.
    pub fn finish(&mut self) -> Option<Event> {
        let is_whole = |data: &[u8]| data == DONE || json::validate(data).is_ok();
        if let Some(frame) = self.sse.finish()
            && frame.data().is_some_and(|data| is_whole(&data))
        {
            self.take_frame(&frame);
        }
        if self.finish.is_some() {
            self.complete();
        }
        self.events.pop()
    }

    pub fn held_bytes(&self) -> usize {
        self.sse.pending_bytes() + self.events.held_bytes()
    }

    /// Whether the model has ended, so that only counts may follow.
    pub fn has_answer(&self) -> bool {
        self.finish.is_some() && !self.is_over
    }

    pub fn bytes(&self) -> &Bytes {
        self.sse.chunk()
    }

    fn take_frame(&mut self, frame: &sse::Frame) {
        if let Some(data) = frame.data() {
            self.take(&data, frame.event() == Some(b"error"));
        }
    }

    fn take(&mut self, data: &[u8], is_error: bool) {
        let data = data.trim_ascii();
        if self.is_over || data.is_empty() {
            return;
        }
        if data == DONE {
            return self.complete();
        }
        match Object::parse(data) {
            Ok(chunk) => self.take_chunk(&chunk, is_error),
            Err(_) => self.fail("server_error", "The upstream sent an event that is not a JSON object."),
        }
    }

    fn take_chunk(&mut self, chunk: &Object<'_>, is_error: bool) {
        if let Some(error) = failure::in_event(chunk, is_error) {
            let (code, message) = failure::of_stream(error);
            return self.fail(code, &message);
        }
        let get = |name| chunk.get(name).filter(|value| *value != b"null");
        let text = |name| get(name).filter(|value| inner(value).is_some_and(|text| !text.is_empty()));
        let events = &mut self.events;
        events.id = events.id.take().or_else(|| text("id").map(<[u8]>::to_vec));
        events.model = events.model.take().or_else(|| text("model").map(<[u8]>::to_vec));
        let choice = get("choices").and_then(first_choice);
        // Moonshot has it in the choice.
        let of_choice = choice.as_ref().and_then(|choice| choice.get("usage"));
        if let Some(usage) = get("usage").or(of_choice).filter(|usage| usage.first() == Some(&b'{')) {
            events.usage = Some(usage.to_vec());
        }
        events.start();
        if let Some(choice) = choice.filter(|_| self.finish.is_none()) {
            self.take_choice(&choice);
        }
    }

    fn take_choice(&mut self, choice: &Object<'_>) {
        let get = |name| choice.get(name).filter(|value| *value != b"null");
        if let Some(error) = get("error").filter(|error| failure::says_something(error)) {
            let (code, message) = failure::of_stream(error);
            return self.fail(code, &message);
        }
        let delta = get("delta");
        // A server that streams the whole message at once may call it so, and another may end with what it has streamed.
        let (is_whole, known) = match delta {
            Some(_) => (false, Written::default()),
            None => (true, self.events.written),
        };
        if let Some(delta) = delta.or_else(|| get("message")).and_then(|delta| Object::scan(delta).ok()) {
            let logprobs = get("logprobs").and_then(|logprobs| json::member(logprobs, "content"));
            let logprobs = logprobs.and_then(|all| all.strip_prefix(b"[")?.strip_suffix(b"]"));
            let logprobs = logprobs.unwrap_or_default().trim_ascii();
            if !known.reasoning {
                self.take_reasoning(&delta);
            }
            if !known.answer {
                self.take_answer(&delta, logprobs);
            }
            if !known.calls {
                self.take_calls(&delta, is_whole);
            }
        }
        if let Some(reason) = get("finish_reason").and_then(json::string).filter(|reason| !reason.is_empty())
        {
            if let Some(message) = failure_of(&reason) {
                return self.fail("server_error", message);
            }
            self.flush_tags();
            self.events.close(if incomplete_reason(&reason).is_some() { "incomplete" } else { "completed" });
            self.finish = Some(reason.into_owned());
        }
    }

    fn take_reasoning(&mut self, delta: &Object<'_>) {
        if let Some(reasoning) = text(delta, "reasoning_content").or_else(|| text(delta, "reasoning")) {
            self.events.text(self.events.reasoning_kind(), reasoning, b"");
        }
    }

    fn take_answer(&mut self, delta: &Object<'_>, logprobs: &[u8]) {
        match delta.get("content") {
            Some(parts) if parts.first() == Some(&b'[') => self.take_parts(parts, logprobs),
            _ => text(delta, "content").into_iter().for_each(|content| self.take_content(content, logprobs)),
        }
        if let Some(refusal) = text(delta, "refusal") {
            self.flush_tags();
            self.events.text(TextKind::Refusal, refusal, b"");
        }
    }

    /// `is_whole` says that each call of the message is there once.
    fn take_calls(&mut self, delta: &Object<'_>, is_whole: bool) {
        let calls = delta.get("tool_calls").filter(|calls| calls.first() == Some(&b'[')).unwrap_or(b"[]");
        let parts = json::elements(calls).map_while(Result::ok);
        // Servers that have both say the same in both.
        let function = delta.get("function_call").filter(|_| calls == b"[]");
        let function = function.and_then(|function| Object::scan(function).ok());
        let fragments = parts.filter_map(|call| Fragment::parse(&calls[call], is_whole));
        for fragment in fragments.chain(function.map(|function| Fragment::of_function(Some(&function)))) {
            self.flush_tags();
            if self.events.call(&fragment).is_err() {
                return self.fail("server_error", "The upstream went back to a tool call that it had ended.");
            }
        }
    }

    /// Content as an array, as of Mistral: texts, and reasoning that may be an array of texts itself.
    fn take_parts(&mut self, parts: &[u8], logprobs: &[u8]) {
        for part in json::elements(parts).map_while(Result::ok) {
            let part = &parts[part];
            let Ok(members) = Object::scan(part) else { continue };
            let is_reasoning = members.get("thinking").is_some();
            let value = members.get("thinking").or_else(|| members.get("text"));
            for text in value.map(texts).unwrap_or_default() {
                if is_reasoning {
                    self.events.text(self.events.reasoning_kind(), text, b"");
                } else {
                    self.take_content(text, logprobs);
                }
            }
        }
    }

    fn take_content(&mut self, content: &[u8], logprobs: &[u8]) {
        let decoded = self
            .tags
            .as_ref()
            .and_then(|_| json::string(&[b"\"", content, b"\""].concat()).map(Cow::into_owned));
        let (Some(tags), Some(decoded)) = (&mut self.tags, decoded) else {
            return self.events.text(TextKind::Output, content, logprobs);
        };
        for piece in tags.push(&decoded) {
            self.take_piece(piece);
        }
    }

    fn take_piece(&mut self, piece: think::Piece) {
        match piece {
            think::Piece::Reasoning(text) => {
                self.events.text(self.events.reasoning_kind(), &escaped(&text), b"");
            }
            think::Piece::Text(text) => self.events.text(TextKind::Output, &escaped(&text), b""),
        }
    }

    fn flush_tags(&mut self) {
        if let Some(piece) = self.tags.as_mut().and_then(ThinkTags::finish) {
            self.take_piece(piece);
        }
    }

    /// A stream that ends before its first chunk has been cut, whatever it says.
    fn complete(&mut self) {
        if self.is_over || !self.events.is_started {
            return;
        }
        self.flush_tags();
        self.events.complete(self.finish.as_deref().and_then(incomplete_reason));
        self.is_over = true;
    }

    fn fail(&mut self, code: &str, message: &str) {
        self.events.fail(code, message);
        self.is_over = true;
    }
}

/// A whole completion as a stream of one chunk.
pub fn as_stream(body: &[u8]) -> Option<Bytes> {
    is_completion(body).then(|| {
        // Outside of strings, a line end is white space, and it can't be inside.
        let line = body.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte });
        b"data: ".iter().copied().chain(line).chain(*b"\n\ndata: [DONE]\n\n").collect()
    })
}

/// Whether this is a whole completion: an object with the message of a choice.
fn is_completion(body: &[u8]) -> bool {
    let is_object = json::validate(body).is_ok();
    let choice = json::member(body, "choices").filter(|_| is_object).and_then(first_choice);
    choice.and_then(|choice| choice.get("message")).is_some_and(|message| message.first() == Some(&b'{'))
}

/// The choice that a response shows, should there be several, in any order.
fn first_choice(choices: &[u8]) -> Option<Object<'_>> {
    let choices = json::elements(choices).map_while(Result::ok).map(|choice| &choices[choice]);
    let is_first =
        |choice: &Object<'_>| choice.get("index").is_none_or(|index| index == b"0" || index == b"null");
    choices.filter_map(|choice| Object::scan(choice).ok()).find(is_first)
}

/// A text of the delta that is not empty, as it stands in the JSON.
fn text<'a>(delta: &Object<'a>, name: &str) -> Option<&'a [u8]> {
    delta.get(name).and_then(inner).filter(|text| !text.is_empty())
}

/// The texts of a string, or of an array of text parts, that are not empty.
fn texts(value: &[u8]) -> Vec<&[u8]> {
    let parts = Some(value).filter(|value| value.first() == Some(&b'[')).unwrap_or(b"[]");
    let of_parts =
        json::elements(parts).map_while(Result::ok).filter_map(|part| json::member(&parts[part], "text"));
    of_parts.chain([value]).filter_map(inner).filter(|text| !text.is_empty()).collect()
}

fn incomplete_reason(finish_reason: &str) -> Option<&'static str> {
    match finish_reason {
        // The latter two are of Mistral and Z.ai.
        "length" | "max_tokens" | "model_length" | "model_context_window_exceeded" => Some(MAX_OUTPUT_TOKENS),
        // Z.ai's.
        "sensitive" => Some(CONTENT_FILTER),
        // Gemini names the kind of content after it.
        reason if reason.starts_with("content_filter") => Some(CONTENT_FILTER),
        _ => None,
    }
}

/// What went wrong, if the reason for the end is that something did.
fn failure_of(finish_reason: &str) -> Option<&'static str> {
    match finish_reason {
        // Of vLLM and SGLang, DeepSeek, and Z.ai.
        "error" | "abort" | "insufficient_system_resource" | "network_error" => {
            Some("The upstream failed while it answered.")
        }
        // Gemini's, with nothing in the answer.
        reason if reason.starts_with("function_call_filter") => {
            Some("The upstream has rejected the tool call that the model wrote.")
        }
        _ => None,
    }
}
