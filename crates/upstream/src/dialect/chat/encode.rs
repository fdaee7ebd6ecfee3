//! From a request of the Responses API to one of chat completions.

use std::sync::Arc;

use antiphon_protocol::error::ApiError;
use antiphon_protocol::json::{self, Object};
use antiphon_protocol::request::{Changes, CreateRequest, Operation, UpstreamInput};
use bytes::Bytes;

use super::echo::Echo;
use super::messages::Messages;
use super::offers::offers;
use super::tools::Tools;
use super::{ChatSettings, put, unsupported};
use crate::dialect::{Encoded, ReplyFormat, TurnFacts};

/// How many omitted parts are named.
const MAX_OMITTED: usize = 16;

/// Members that both APIs have.
const SHARED: [&str; 6] = ["temperature", "top_p", "seed", "presence_penalty", "frequency_penalty", "user"];

/// Members that both APIs have, and upstreams other than OpenAI's reject or ignore.
const OF_OPENAI: [&str; 5] =
    ["service_tier", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "moderation"];

/// Members that are handled elsewhere, mean nothing in a chat, or would contradict what is written here. All others are passed
/// on, because servers have parameters of their own.
const NOT_PASSED: [&str; 34] = [
    "model",
    "input",
    "instructions",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "previous_response_id",
    "conversation",
    "store",
    "stream",
    "stream_options",
    "background",
    "include",
    "metadata",
    "max_output_tokens",
    "generate",
    "stream_id",
    "client_metadata",
    "type",
    "text",
    "reasoning",
    "truncation",
    "context_management",
    "max_tool_calls",
    "prompt",
    "prompt_cache_options",
    "top_logprobs",
    "messages",
    "n",
    "logprobs",
    "functions",
    "function_call",
    "max_tokens",
    "max_completion_tokens",
];

/// Encodes a turn.
///
/// # Errors
///
/// What a chat can't express, as an error of the API.
pub fn encode(
    create: &CreateRequest,
    input: &UpstreamInput,
    changes: Changes<'_>,
    settings: &ChatSettings,
    facts: &TurnFacts<'_>,
) -> Result<Encoded, ApiError> {
    if create.operation != Operation::Create {
        let message =
            "The upstream has chat completions only, which can neither compact nor count a context.";
        return Err(unsupported("model", message.to_owned()));
    }
    let request = Object::scan(create.body())
        .map_err(|_| unsupported("input", "The request is malformed.".to_owned()))?;
    let get = |name| request.get(name).filter(|value| *value != b"null");
    if get("prompt").is_some() {
        let message = "The upstream has no stored prompts: send 'instructions' and 'input' instead.";
        return Err(unsupported("prompt", message.to_owned()));
    }
    let items = create.upstream_items(input).concat();
    let history_end = 1 + input.history.iter().map(Bytes::len).sum::<usize>();
    let tools = Tools::parse(&offers(get("tools"), &items, history_end), get("tool_choice"), settings)?;
    let mut messages = Messages::new(settings, &tools.chat_names);
    if let Some(instructions) = get("instructions") {
        messages.add_instructions(instructions)?;
    }
    messages.add_items(&items)?;

    let mut out = br#"{"model":"#.to_vec();
    json::write_string(&mut out, changes.model.unwrap_or(&create.model));
    out.extend_from_slice(br#","messages":"#);
    messages.write(&mut out);
    let streams = create.stream || changes.is_frame || changes.streams;
    if streams {
        out.extend_from_slice(br#","stream":true"#);
        if !settings.form.omits_stream_options {
            out.extend_from_slice(br#","stream_options":{"include_usage":true}"#);
        }
    }
    tools.write(get("parallel_tool_calls"), &mut out);
    write_parameters(&request, settings, &mut out);
    out.push(b'}');

    let (omitted, has_reasoning) = (omitted(&tools, &messages), messages.has_reasoning());
    let echo = Echo::new(create, &request, *settings, tools.stand_ins, facts, (streams, out.len()));
    Ok(Encoded {
        parts: vec![Bytes::from(out)],
        format: ReplyFormat::Chat(Arc::new(echo)),
        omitted,
        has_reasoning,
    })
}

fn write_parameters(request: &Object<'_>, settings: &ChatSettings, out: &mut Vec<u8>) {
    let get = |name: &str| request.get(name).filter(|value| *value != b"null");
    let mut write = |name: &str, value: &[u8]| put(out, &[b",\"", name.as_bytes(), b"\":", value]);
    for name in SHARED.iter().chain(OF_OPENAI.iter().filter(|_| settings.is_openai)) {
        if let Some(value) = get(name) {
            write(name, value);
        }
    }
    if let Some(max) = get("max_output_tokens") {
        let is_of_completion = settings.is_openai || settings.form.limits_completion;
        write(if is_of_completion { "max_completion_tokens" } else { "max_tokens" }, max);
    }
    let effort = get("reasoning").and_then(|reasoning| json::member(reasoning, "effort"));
    if let Some(effort) = effort.filter(|effort| *effort != b"null" && !settings.form.omits_effort) {
        write("reasoning_effort", effort);
    }
    if let Some(text) = get("text") {
        if let Some(format) = json::member(text, "format").and_then(response_format) {
            write("response_format", &format);
        }
        if let Some(verbosity) =
            json::member(text, "verbosity").filter(|value| settings.is_openai && *value != b"null")
        {
            write("verbosity", verbosity);
        }
    }
    let top = get("top_logprobs").filter(|top| *top != b"0");
    if top.is_some() || includes_logprobs(get("include")) {
        write("logprobs", b"true");
        if let Some(top) = top {
            write("top_logprobs", top);
        }
    }
    if settings.is_openai {
        return;
    }
    for member in &request.members {
        let Some(name) = json::string(&request.text[member.key.clone()]) else { continue };
        let is_handled = [&SHARED[..], &OF_OPENAI, &NOT_PASSED].iter().any(|names| names.contains(&&*name));
        let is_written = matches!(&*name, "response_format" | "reasoning_effort" | "verbosity");
        if !is_handled && !is_written {
            write(&name, request.value(member));
        }
    }
}

/// `text.format` as a `response_format`; `None` for plain text.
fn response_format(format: &[u8]) -> Option<Vec<u8>> {
    match &*json::string_member(format, "type")? {
        "json_schema" => {
            let mut out = br#"{"type":"json_schema","json_schema":{"#.to_vec();
            for name in ["name", "description", "schema", "strict"] {
                if let Some(value) = json::member(format, name).filter(|value| *value != b"null") {
                    let comma: &[u8] = if out.ends_with(b"{") { b"" } else { b"," };
                    put(&mut out, &[comma, b"\"", name.as_bytes(), b"\":", value]);
                }
            }
            out.extend_from_slice(b"}}");
            Some(out)
        }
        "json_object" => Some(br#"{"type":"json_object"}"#.to_vec()),
        _ => None,
    }
}

fn includes_logprobs(include: Option<&[u8]>) -> bool {
    let include = include.unwrap_or(b"[]");
    let mut values = json::elements(include).map_while(Result::ok);
    values.any(|value| {
        json::string(&include[value]).is_some_and(|value| value == "message.output_text.logprobs")
    })
}

/// What was left out, each once, as it may stand in a header.
fn omitted(tools: &Tools, messages: &Messages<'_>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in tools.omitted().chain(messages.unknown.iter().map(String::as_str)) {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        let name =
            if !name.is_empty() && name.len() <= 64 && name.bytes().all(is_plain) { name } else { "unknown" };
        if names.len() < MAX_OMITTED && !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}
