//! The errors of chat upstreams, as errors of the Responses API.

use std::borrow::Cow;

use antiphon_protocol::error::{ApiError, ErrorKind};
use antiphon_protocol::json::{self, Object};
use bytes::Bytes;
use http::StatusCode;

use crate::dialect::unknown_error::kind_of;

pub const CONTEXT_LENGTH: &str = "context_length_exceeded";

/// Parts of messages that say that the context is too long, in lower case.
const CONTEXT_PHRASES: [&str; 12] = [
    "maximum context length",
    "exceeds the available context size",
    "context window",
    "context length",
    "maximum model length",
    "prompt is too long",
    // Gemini
    "exceeds the maximum number of tokens allowed",
    // Moonshot
    "exceeded model token limit",
    // DashScope
    "range of input length should be",
    // xAI
    "maximum prompt length is",
    // GitHub Copilot
    "prompt token count of",
    // Bedrock
    "input is too long for requested model",
];

/// How many errors of a list are told.
const MAX_TOLD: usize = 8;
/// How deep a message may be nested.
const MAX_DEPTH: usize = 4;

/// An upstream's error, whatever its form.
#[derive(Debug, Default)]
struct Parts {
    code: String,
    kind: String,
    param: Option<String>,
    message: String,
}

/// The error reply that a client gets instead of the upstream's; `None` if that is not an error in a known form.
pub fn translate(status: StatusCode, body: &[u8]) -> Option<Bytes> {
    json::validate(body).ok()?;
    // Gemini sends a list with one error.
    let first = Some(body.trim_ascii()).filter(|body| body.first() == Some(&b'[')).and_then(|list| {
        let first = json::elements(list).next()?.ok()?;
        Some(&list[first])
    });
    let reply = first.unwrap_or(body);
    let error = Parts::parse(json::member(reply, "error").filter(|error| *error != b"null").unwrap_or(reply));
    if error.message.is_empty() {
        return None;
    }
    let kind = match kind_of(status) {
        ErrorKind::RateLimit if error.is_quota() => ErrorKind::InsufficientQuota,
        kind => kind,
    };
    let may_be_context = matches!(status.as_u16(), 400 | 413 | 422);
    let (code, param, message) = if may_be_context && error.is_context_length() {
        (Some(CONTEXT_LENGTH.to_owned()), Some("input".to_owned()), error.message)
    } else if let Some(call_id) = open_call(&error.message).filter(|_| status == StatusCode::BAD_REQUEST) {
        (None, Some("input".to_owned()), format!("No tool output found for function call {call_id}."))
    } else {
        (error.named_code(), error.param.map(|param| responses_param(&param)), error.message)
    };
    let error = ApiError { kind, code: code.map(Into::into), param: param.map(Into::into), message };
    Some(error.envelope().into())
}

/// Whether a member `error` stands for one. Some servers have an empty one in every chunk.
pub fn says_something(error: &[u8]) -> bool {
    match error.first() {
        Some(b'{') => json::members(error).next().is_some(),
        _ => !matches!(error, b"null" | b"false" | b"\"\"" | b"[]"),
    }
}

/// What an error says: a text, or what stands for one in a list of errors or in a nested error.
fn words(value: &[u8], depth: usize) -> Option<String> {
    if let Some(text) = json::string(value) {
        return Some(text.into_owned()).filter(|text| !text.is_empty());
    }
    if depth == MAX_DEPTH {
        return None;
    }
    if value.first() == Some(&b'[') {
        let errors = json::elements(value).map_while(Result::ok);
        let told: Vec<_> =
            errors.filter_map(|error| words(&value[error], depth + 1)).take(MAX_TOLD).collect();
        return Some(told.join("; ")).filter(|told| !told.is_empty());
    }
    let mut members = ["message", "detail", "msg", "error"].into_iter();
    let said = members.find_map(|name| words(json::member(value, name)?, depth + 1))?;
    // FastAPI says beside it where in the request the error is.
    let place = json::member(value, "loc").filter(|place| place.first() == Some(&b'['));
    Some(match place.map(path).filter(|path| !path.is_empty()) {
        Some(path) => format!("{path}: {said}"),
        None => said,
    })
}

/// What OpenRouter quotes of the server behind it: a reply, or a text.
fn words_of_provider(error: &[u8]) -> Option<String> {
    let raw = json::string_member(json::member(error, "metadata")?, "raw")?;
    let reply = json::validate(raw.as_bytes()).is_ok().then(|| words(raw.as_bytes(), 0)).flatten();
    Some(reply.unwrap_or_else(|| raw.into_owned())).filter(|words| !words.is_empty())
}

/// The names and indexes of a list, with dots between them.
fn path(place: &[u8]) -> String {
    let steps = json::elements(place).map_while(Result::ok).map(|step| {
        let step = &place[step];
        json::string(step).unwrap_or_else(|| String::from_utf8_lossy(step)).into_owned()
    });
    steps.collect::<Vec<_>>().join(".")
}

/// The error in a reply whose status says that there is none.
pub fn error_in(body: &[u8]) -> Option<(&'static str, String)> {
    json::validate(body).ok()?;
    json::member(body, "error").filter(|error| says_something(error)).map(of_stream)
}

/// The error in the data of an event, or the data if it is one: by the event's name, or by what it says itself.
pub fn in_event<'a>(event: &Object<'a>, is_named: bool) -> Option<&'a [u8]> {
    let error = event.get("error").filter(|error| says_something(error));
    // Some servers send the error itself.
    let is_error = is_named || event.get("object") == Some(b"\"error\"");
    error.or_else(|| is_error.then_some(event.text))
}

/// Code and message of an error in the stream: an object, or a text that stands for one.
pub fn of_stream(error: &[u8]) -> (&'static str, String) {
    let parts = Parts::parse(error);
    let names = [parts.code.as_str(), parts.kind.as_str()];
    let has = |wanted: &[&str]| names.iter().any(|name| wanted.contains(name));
    let code = if parts.is_quota() || has(&["402"]) {
        "insufficient_quota"
    } else if has(&["rate_limit_exceeded", "rate_limit_error", "429"]) {
        "rate_limit_exceeded"
    } else if parts.is_context_length() {
        CONTEXT_LENGTH
    } else if has(&["invalid_request_error", "BadRequestError", "400"]) {
        "invalid_prompt"
    } else {
        "server_error"
    };
    let message = if parts.message.is_empty() { "The upstream failed.".to_owned() } else { parts.message };
    (code, message)
}

// === impl Parts ===

impl Parts {
    /// From an error object, or a text that stands for one.
    fn parse(error: &[u8]) -> Self {
        let text = |name| {
            let value = json::member(error, name)?;
            let number = || std::str::from_utf8(value).ok().filter(|value| value.parse::<u16>().is_ok());
            json::string(value).map(Cow::into_owned).or_else(|| number().map(str::to_owned))
        };
        let message = words(error, 0).unwrap_or_default();
        Self {
            code: text("code").unwrap_or_default(),
            kind: text("type").unwrap_or_default(),
            param: text("param"),
            message: match words_of_provider(error) {
                Some(words) => format!("{message}: {words}"),
                None => message,
            },
        }
    }

    fn is_quota(&self) -> bool {
        // The latter two are Moonshot's and MiniMax's.
        let names = ["insufficient_quota", "exceeded_current_quota_error", "insufficient_balance_error"];
        names.contains(&self.code.as_str()) || names.contains(&self.kind.as_str())
    }

    fn is_context_length(&self) -> bool {
        let message = self.message.to_ascii_lowercase();
        self.code == CONTEXT_LENGTH
            || self.kind == "exceed_context_size_error"
            || CONTEXT_PHRASES.iter().any(|phrase| message.contains(phrase))
    }

    /// The code, unless it only repeats the status.
    fn named_code(&self) -> Option<String> {
        Some(self.code.clone()).filter(|code| !code.is_empty() && code.parse::<u16>().is_err())
    }
}

/// What a client calls a parameter of a chat.
fn responses_param(param: &str) -> String {
    let top = param.split(['.', '[']).next().unwrap_or(param);
    match top {
        "messages" => "input".to_owned(),
        "max_tokens" | "max_completion_tokens" => "max_output_tokens".to_owned(),
        "response_format" => "text.format".to_owned(),
        "reasoning_effort" => "reasoning.effort".to_owned(),
        _ => param.to_owned(),
    }
}

/// The call whose output OpenAI's API misses.
fn open_call(message: &str) -> Option<&str> {
    let (_, ids) = message.split_once("did not have response messages: ")?;
    ids.split([',', ' ']).next().map(|id| id.trim_end_matches('.')).filter(|id| !id.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn each_upstreams_error_becomes_one_of_the_api() {
        let translated = |status, body: Value| -> Value {
            let status = StatusCode::from_u16(status).unwrap();
            serde_json::from_slice(&translate(status, body.to_string().as_bytes()).unwrap()).unwrap()
        };
        let rows = [
            // llama.cpp
            (
                400,
                json!({"error": {"code": 400, "message": "the request exceeds the available context size", "type": "exceed_context_size_error", "n_ctx": 256}}),
                json!(["invalid_request_error", "context_length_exceeded", "input"]),
            ),
            // vLLM
            (
                400,
                json!({"object": "error", "message": "This model's maximum context length is 10 tokens.", "type": "BadRequestError", "param": null, "code": 400}),
                json!(["invalid_request_error", "context_length_exceeded", "input"]),
            ),
            // OpenRouter
            (
                400,
                json!({"error": {"message": "Provider returned error", "code": 400, "metadata": {"raw": "{\"error\":{\"message\":\"prompt is too long\"}}", "provider_name": "P"}}}),
                json!(["invalid_request_error", "context_length_exceeded", "input"]),
            ),
            (
                400,
                json!({"error": {"message": "Provider returned error", "code": 400, "metadata": {"raw": "maximum context length"}}}),
                json!(["invalid_request_error", "context_length_exceeded", "input"]),
            ),
            // OpenAI
            (
                400,
                json!({"error": {"message": "no", "type": "invalid_request_error", "param": "messages[3].role", "code": "invalid_value"}}),
                json!(["invalid_request_error", "invalid_value", "input"]),
            ),
            (
                400,
                json!({"error": {"message": "no", "type": "invalid_request_error", "param": "max_tokens", "code": null}}),
                json!(["invalid_request_error", null, "max_output_tokens"]),
            ),
            // Ollama
            (
                400,
                json!({"error": {"message": "model does not support tools", "type": "api_error", "param": null, "code": null}}),
                json!(["invalid_request_error", null, null]),
            ),
            (500, json!({"error": "out of memory"}), json!(["server_error", null, null])),
            (
                429,
                json!({"error": {"message": "slow", "code": "rate_limit_exceeded"}}),
                json!(["rate_limit_error", "rate_limit_exceeded", null]),
            ),
            (
                402,
                json!({"error": {"message": "Insufficient Balance", "code": "invalid_request_error"}}),
                json!(["insufficient_quota", "invalid_request_error", null]),
            ),
            (422, json!({"detail": "odd"}), json!(["invalid_request_error", null, null])),
        ];
        for (status, body, expected) in rows {
            let error = &translated(status, body.clone())["error"];
            assert_eq!(json!([error["type"], error["code"], error["param"]]), expected, "{body}");
            assert!(error["message"].is_string());
        }
        for body in ["", "<html>", "{}", "[]"] {
            assert!(translate(StatusCode::BAD_REQUEST, body.as_bytes()).is_none(), "{body}");
        }
    }

    #[test]
    fn what_a_list_of_errors_says_becomes_one_message() {
        let extra = json!({"type": "extra_forbidden", "loc": ["body", "messages", 1, "reasoning_content"], "msg": "Extra inputs are not permitted", "input": "x"});
        let said = "body.messages.1.reasoning_content: Extra inputs are not permitted";
        for (body, message) in [
            // FastAPI
            (json!({"detail": [extra, extra]}), format!("{said}; {said}")),
            // Mistral
            (
                json!({"object": "error", "message": {"detail": [extra]}, "type": "invalid_request_error", "code": null}),
                said.to_owned(),
            ),
            // Gemini
            (
                json!([{"error": {"code": 400, "message": "bad", "status": "INVALID_ARGUMENT"}}]),
                "bad".to_owned(),
            ),
        ] {
            let reply = translate(StatusCode::UNPROCESSABLE_ENTITY, body.to_string().as_bytes()).unwrap();
            let reply: Value = serde_json::from_slice(&reply).unwrap();
            assert_eq!(
                json!([reply["error"]["message"], reply["error"]["type"]]),
                json!([message, "invalid_request_error"])
            );
        }
    }

    #[test]
    fn an_open_call_is_named_as_the_api_does() {
        let body = json!({"error": {"message": "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. The following tool_call_ids did not have response messages: call_1, call_2"}});
        let reply = translate(StatusCode::BAD_REQUEST, body.to_string().as_bytes()).unwrap();
        let reply: Value = serde_json::from_slice(&reply).unwrap();
        assert_eq!(reply["error"]["message"], "No tool output found for function call call_1.");
    }

    #[test]
    fn an_error_in_the_stream_has_a_code_of_the_api() {
        for (error, code) in [
            (json!({"code": 429, "message": "slow"}), "rate_limit_exceeded"),
            (json!({"type": "insufficient_quota", "message": "no"}), "insufficient_quota"),
            (json!({"code": 400, "message": "maximum context length"}), "context_length_exceeded"),
            (json!({"message": "m", "type": "exceeded_current_quota_error"}), "insufficient_quota"),
            (json!({"type": "BadRequestError", "message": "no"}), "invalid_prompt"),
            (json!({"code": 502, "message": "bad"}), "server_error"),
            (json!("text"), "server_error"),
        ] {
            assert_eq!(of_stream(error.to_string().as_bytes()).0, code, "{error}");
        }
    }
}
