//! The endpoints beside the Responses API: chat completions and embeddings.

use super::chat_server::{Called, ChatServer, Reports};
use super::event::split;
use super::json::{Object, array, to_json};
use super::options::Options;
use super::refusal::Refusal;
use super::request::{Endpoint, TurnRequest};
use super::script::{Ending, Output, Script};
use super::strict::{check_model, missing};
use bytes::Bytes;
use serde_json::Value;

const OF_CHAT: [&str; 36] = [
    "audio",
    "frequency_penalty",
    "function_call",
    "functions",
    "logit_bias",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "metadata",
    "modalities",
    "model",
    "moderation",
    "n",
    "parallel_tool_calls",
    "prediction",
    "presence_penalty",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "reasoning_effort",
    "response_format",
    "safety_identifier",
    "seed",
    "service_tier",
    "stop",
    "store",
    "stream",
    "stream_options",
    "temperature",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
    "user",
    "verbosity",
];
const OF_EMBEDDINGS: [&str; 5] = ["dimensions", "encoding_format", "input", "model", "user"];
const ROLES: [&str; 6] = ["assistant", "developer", "function", "system", "tool", "user"];
const DIMENSIONS: usize = 8;

/// Checks a request as the real API does.
pub(super) fn check(request: &TurnRequest, options: &Options) -> Result<(), Refusal> {
    let known: &[&str] = if request.endpoint == Endpoint::Chat { &OF_CHAT } else { &OF_EMBEDDINGS };
    if let Some(field) = request.names().find(|field| !known.contains(field)) {
        return Err(Refusal::invalid(format!("Unrecognized request argument supplied: {field}")));
    }
    let needed = if request.endpoint == Endpoint::Chat { "messages" } else { "input" };
    if let Some(field) = ["model", needed].into_iter().find(|field| request.raw(field).is_none()) {
        return Err(missing(field));
    }
    check_model(request, options)?;
    if request.endpoint == Endpoint::Chat { check_chat(request, options) } else { check_embeddings(request) }
}

fn check_chat(request: &TurnRequest, options: &Options) -> Result<(), Refusal> {
    let messages: Vec<Value> = request.get("messages").unwrap_or_default();
    if messages.is_empty() {
        let message = "Invalid 'messages': empty array. Expected an array with minimum length 1.";
        return Err(Refusal::invalid(message.to_owned()).param("messages").code("empty_array"));
    }
    for (index, message) in messages.iter().enumerate() {
        let role = message["role"].as_str().unwrap_or_default();
        if !ROLES.contains(&role) {
            let message = format!("Invalid value: '{role}'.");
            return Err(Refusal::invalid(message)
                .param(format!("messages[{index}].role"))
                .code("invalid_value"));
        }
        if role == "tool" && !message["tool_call_id"].is_string() {
            return Err(missing(&format!("messages[{index}].tool_call_id")));
        }
    }
    check_calls(&messages)?;
    options.chat_server.check(request)?;
    if request.raw("stream_options").is_some() && !request.wants_stream() {
        let message = "The 'stream_options' parameter is only allowed when 'stream' is enabled.";
        return Err(Refusal::invalid(message.to_owned()).param("stream_options"));
    }
    Ok(())
}

/// Checks that the outputs of all calls follow directly after them.
fn check_calls(messages: &[Value]) -> Result<(), Refusal> {
    let mut open: Vec<&str> = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        if let Some(id) = message["tool_call_id"].as_str() {
            let Some(place) = open.iter().position(|call| *call == id) else {
                let message = "Invalid parameter: messages with role 'tool' must be a response to a preceeding message with 'tool_calls'.";
                return Err(Refusal::invalid(message.to_owned()).param(format!("messages[{index}].role")));
            };
            open.remove(place);
            continue;
        }
        check_answered(&open)?;
        let calls = message["tool_calls"].as_array().into_iter().flatten();
        open = calls.filter_map(|call| call["id"].as_str()).collect();
    }
    check_answered(&open)
}

fn check_answered(open: &[&str]) -> Result<(), Refusal> {
    if open.is_empty() {
        return Ok(());
    }
    let message = format!(
        "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. The following tool_call_ids did not have response messages: {}",
        open.join(", ")
    );
    Err(Refusal::invalid(message).param("messages"))
}

fn check_embeddings(request: &TurnRequest) -> Result<(), Refusal> {
    let input: Value = request.get("input").unwrap_or_default();
    let is_filled = input.as_str().is_some_and(|text| !text.is_empty())
        || input.as_array().is_some_and(|all| {
            !all.is_empty() && all.iter().all(|one| one.is_string() || one.is_number() || one.is_array())
        });
    if !is_filled {
        return Err(Refusal::invalid("'$.input' is invalid.".to_owned()));
    }
    let format: Option<Value> = request.get("encoding_format");
    if format.is_some_and(|format| format != "float" && format != "base64") {
        let message = "Invalid value for 'encoding_format'. Supported values are: 'float' and 'base64'.";
        return Err(Refusal::invalid(message.to_owned()).param("encoding_format"));
    }
    Ok(())
}

/// A chat completion.
pub(super) struct Completion<'r> {
    pub(super) request: &'r TurnRequest,
    pub(super) script: &'r Script,
    pub(super) server: ChatServer,
    pub(super) id: String,
    pub(super) created_at: u64,
    /// For a call that the script names no id for.
    pub(super) call_id: String,
}

impl Completion<'_> {
    pub(super) fn collected(&self) -> String {
        if let Some((code, message)) = &self.script.error_event {
            return Refusal::new(500, code, message).envelope();
        }
        let habits = self.server.habits();
        let calls: Vec<String> = self.called().map(|call| habits.whole_call(&call)).collect();
        let thought: String = self.thoughts().collect();
        let message = habits.message(&thought, &self.text(), !calls.is_empty());
        let message = if calls.is_empty() { message } else { message.raw("tool_calls", &array(calls)) };
        let message = message.raw("refusal", "null").raw("annotations", "[]").finish();
        let choice = Object::new()
            .raw("index", "0")
            .raw("message", &message)
            .raw("logprobs", "null")
            .value("finish_reason", self.finish_reason());
        let completion = self.object("chat.completion").raw("choices", &array([choice.finish()]));
        let completion = match habits.reports {
            Reports::Never => completion,
            _ => completion.raw("usage", &self.usage()),
        };
        completion.value("service_tier", "default").finish()
    }

    /// The events of a stream, with the mark at its end.
    pub(super) fn events(&self, deltas: usize) -> Vec<Bytes> {
        let habits = self.server.habits();
        let mut chunks = vec![String::from(r#"{"role":"assistant","content":"","refusal":null}"#)];
        chunks.extend(self.thoughts().flat_map(|thought| habits.thought(thought)));
        let text = self.text();
        chunks
            .extend(split(&text, deltas).iter().map(|piece| Object::new().value("content", piece).finish()));
        for call in self.called() {
            let fragments = habits.call(&call, deltas);
            chunks.extend(
                fragments
                    .iter()
                    .map(|fragment| habits.delta(Object::new().raw("tool_calls", &format!("[{fragment}]")))),
            );
        }
        let is_silent = self.script.ending == Ending::Silent;
        let last = (habits.finishes_with_text && !is_silent).then(|| chunks.pop()).flatten();
        let mut events: Vec<Bytes> = chunks.iter().map(|delta| self.chunk(delta, None)).collect();
        if let Some((code, message)) = &self.script.error_event {
            let refusal = Refusal::new(500, code, message);
            events.push(self.event(&refusal.envelope()));
        }
        if is_silent {
            return events;
        }
        events.push(
            self.chunk(&last.unwrap_or_else(|| habits.delta(Object::new())), Some(self.finish_reason())),
        );
        let options: Value = self.request.get("stream_options").unwrap_or_default();
        if options["include_usage"] == true && matches!(habits.reports, Reports::Last | Reports::Always) {
            let last = self.object("chat.completion.chunk").raw("choices", "[]").raw("usage", &self.usage());
            events.push(self.event(&last.finish()));
        }
        if habits.has_done {
            events.push(self.event("[DONE]"));
        }
        events
    }

    fn chunk(&self, delta: &str, finish_reason: Option<&str>) -> Bytes {
        let choice = Object::new()
            .raw("index", "0")
            .raw("delta", delta)
            .raw("logprobs", "null")
            .value("finish_reason", &finish_reason);
        let chunk = self.object("chat.completion.chunk").raw("choices", &array([choice.finish()]));
        let reports = self.server.habits().reports;
        let has_usage =
            reports == Reports::Always || (reports == Reports::AtFinish && finish_reason.is_some());
        self.event(&if has_usage { chunk.raw("usage", &self.usage()) } else { chunk }.finish())
    }

    fn event(&self, data: &str) -> Bytes {
        let habits = self.server.habits();
        format!("{}{data}{end}{end}", habits.prefix, end = habits.line_end).into()
    }

    fn object(&self, kind: &str) -> Object {
        Object::new()
            .value("id", &self.id)
            .value("object", kind)
            .value("created", &self.created_at)
            .value("model", &self.request.model())
    }

    /// What a server sends that shows its model's reasoning.
    fn thoughts(&self) -> impl Iterator<Item = &str> {
        self.script.output.iter().filter_map(|output| match output {
            Output::Reasoning { summary } => Some(summary.as_str()),
            _ => None,
        })
    }

    fn text(&self) -> String {
        let texts = self.script.output.iter().filter_map(|output| match output {
            Output::Message { text } => Some(text.as_str()),
            _ => None,
        });
        texts.collect()
    }

    fn called(&self) -> impl Iterator<Item = Called<'_>> {
        let calls = self.script.output.iter().filter_map(|output| match output {
            Output::Call { call_id, name, arguments } => Some((call_id, name, arguments)),
            _ => None,
        });
        calls.enumerate().map(|(index, (call_id, name, arguments))| Called {
            index,
            id: call_id.as_ref().unwrap_or(&self.call_id),
            name,
            arguments,
        })
    }

    fn finish_reason(&self) -> &'static str {
        match &self.script.ending {
            Ending::Incomplete { reason } if reason == "content_filter" => "content_filter",
            Ending::Incomplete { .. } => "length",
            _ if self.called().next().is_some() => "tool_calls",
            _ => "stop",
        }
    }

    fn usage(&self) -> String {
        let estimated = (1 + self.request.size_bytes as u64 / 4, 1 + self.text().len() as u64 / 4);
        let (input, output) = self.script.usage.unwrap_or(estimated);
        Object::new()
            .value("prompt_tokens", &input)
            .value("completion_tokens", &output)
            .value("total_tokens", &(input + output))
            .raw("prompt_tokens_details", r#"{"cached_tokens":0,"audio_tokens":0}"#)
            .raw("completion_tokens_details", r#"{"reasoning_tokens":0,"audio_tokens":0}"#)
            .finish()
    }
}

/// A vector for each input, made of its bytes.
pub(super) fn embeddings(request: &TurnRequest, script: &Script) -> String {
    let input: Value = request.get("input").unwrap_or_default();
    let inputs = match input {
        Value::Array(all) if !all.first().is_some_and(Value::is_number) => all,
        one => vec![one],
    };
    let is_base64 = request.get::<String>("encoding_format").as_deref() == Some("base64");
    let data = inputs.iter().enumerate().map(|(index, input)| {
        let vector = vector(to_json(input).as_bytes());
        let entry = Object::new().value("object", "embedding").value("index", &index);
        match is_base64 {
            true => {
                let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
                entry.value("embedding", &base64(&bytes))
            }
            false => entry.value("embedding", &vector),
        }
        .finish()
    });
    let tokens = script.usage.map_or(1 + request.size_bytes as u64 / 4, |(input, _)| input);
    Object::new()
        .value("object", "list")
        .raw("data", &array(data))
        .value("model", &request.model())
        .raw("usage", &Object::new().value("prompt_tokens", &tokens).value("total_tokens", &tokens).finish())
        .finish()
}

fn vector(text: &[u8]) -> Vec<f32> {
    let mut sums = [0_u16; DIMENSIONS];
    for (index, byte) in text.iter().enumerate() {
        sums[index % DIMENSIONS] = sums[index % DIMENSIONS].wrapping_add(u16::from(*byte));
    }
    sums.map(|sum| f32::from(sum) / 1024.0).to_vec()
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits =
            three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for place in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * place) & 63) as usize];
            text.push(if place > three.len() { '=' } else { char::from(letter) });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn bytes_are_written_in_base64() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
