//! The response object: what the client's request says of it, and what the upstream's chunks add.

use std::borrow::Cow;
use std::sync::Arc;

use antiphon_protocol::id::ResponseId;
use antiphon_protocol::json::{self, Object, Set};
use antiphon_protocol::request::CreateRequest;
use antiphon_protocol::response::array;
use antiphon_protocol::tool::shown_tools;
use antiphon_runtime::Clock;

use super::tools::StandIns;
use super::{ChatSettings, put};
use crate::dialect::TurnFacts;

/// Members that show the request's value, and what they show when it has none; those without are left out then.
const SHOWN: [(&str, Option<&str>); 21] = [
    ("instructions", Some("null")),
    ("max_output_tokens", Some("null")),
    ("max_tool_calls", Some("null")),
    ("metadata", Some("{}")),
    ("parallel_tool_calls", Some("true")),
    ("presence_penalty", Some("0.0")),
    ("frequency_penalty", Some("0.0")),
    ("prompt_cache_key", Some("null")),
    ("prompt_cache_retention", None),
    ("reasoning", Some(r#"{"effort":null,"summary":null}"#)),
    ("safety_identifier", Some("null")),
    ("seed", None),
    ("service_tier", Some("\"default\"")),
    ("temperature", Some("1.0")),
    ("text", Some(r#"{"format":{"type":"text"}}"#)),
    ("tool_choice", Some("\"auto\"")),
    ("tools", Some("[]")),
    ("top_logprobs", Some("0")),
    ("top_p", Some("1.0")),
    ("truncation", Some("\"disabled\"")),
    ("user", None),
];

/// Members that the objects of a request show even if the client has left them out.
const REASONING: [(&str, &str); 2] = [("effort", "null"), ("summary", "null")];
const TEXT: [(&str, &str); 1] = [("format", r#"{"type":"text"}"#)];
/// A chat is not strict about the arguments of a function unless it is asked to be.
const FUNCTION: [(&str, &str); 3] = [("description", "null"), ("parameters", "null"), ("strict", "false")];

/// What is known of a turn before its upstream replies.
#[derive(Debug)]
pub struct Echo {
    pub settings: ChatSettings,
    pub stand_ins: StandIns,
    /// Whether the upstream is asked for a stream.
    pub streams: bool,
    /// The size of the request, from which its tokens are estimated.
    pub request_bytes: usize,
    id: ResponseId,
    created_at: i64,
    model: String,
    clock: Arc<dyn Clock>,
    /// The members that show the request, each with a comma before it.
    shown: Vec<u8>,
}

/// The part of a response that changes while it is generated.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// The upstream's id and model as JSON strings, if it has named them.
    pub id: Option<&'a [u8]>,
    pub model: Option<&'a [u8]>,
    pub status: &'a str,
    /// JSON: an array, and objects or null.
    pub output: &'a [u8],
    pub error: &'a [u8],
    pub incomplete_details: &'a [u8],
    pub usage: &'a [u8],
}

// === impl Echo ===

impl Echo {
    pub fn new(
        create: &CreateRequest,
        request: &Object<'_>,
        settings: ChatSettings,
        stand_ins: StandIns,
        facts: &TurnFacts<'_>,
        (streams, request_bytes): (bool, usize),
    ) -> Self {
        let mut shown = Vec::with_capacity(512);
        for (name, default) in SHOWN {
            let asked = request.get(name).filter(|value| *value != b"null");
            let value = match (name, asked) {
                ("reasoning", Some(reasoning)) => Some(with_defaults(reasoning, &REASONING)),
                ("text", Some(text)) => Some(with_defaults(text, &TEXT)),
                ("tools", Some(tools)) => Some(with_functions_whole(&shown_tools(tools)).into_owned().into()),
                (_, asked) => asked.or(default.map(str::as_bytes)).map(Cow::Borrowed),
            };
            if let Some(value) = value {
                put(&mut shown, &[b",\"", name.as_bytes(), b"\":", &value]);
            }
        }
        Self {
            settings,
            stand_ins,
            streams,
            request_bytes,
            id: facts.id,
            created_at: facts.started_at.unix_seconds(),
            model: create.model.clone(),
            clock: Arc::clone(facts.clock),
            shown,
        }
    }

    /// An id that no other item has.
    pub fn item_id(&self, prefix: &str, index: usize) -> String {
        format!("{prefix}_{}{index:04x}", self.id.uuid().as_simple())
    }

    /// The id of a call to which the upstream gave none.
    pub fn call_id(&self, index: usize) -> String {
        self.item_id("call", index)
    }

    /// The response object. The gateway's own members are put into it later.
    pub fn response(&self, progress: Progress<'_>) -> Vec<u8> {
        let mut out = Vec::with_capacity(512 + self.shown.len() + progress.output.len());
        put(&mut out, &[br#"{"id":"#, progress.id.unwrap_or(b"\"\"")]);
        put(&mut out, &[br#","object":"response","created_at":"#, self.created_at.to_string().as_bytes()]);
        put(&mut out, &[br#","status":""#, progress.status.as_bytes(), br#"","completed_at":"#]);
        match progress.status {
            "completed" => out.extend_from_slice(self.clock.now().unix_seconds().to_string().as_bytes()),
            _ => out.extend_from_slice(b"null"),
        }
        put(
            &mut out,
            &[br#","error":"#, progress.error, br#","incomplete_details":"#, progress.incomplete_details],
        );
        out.extend_from_slice(br#","model":"#);
        match progress.model {
            Some(model) => out.extend_from_slice(model),
            None => json::write_string(&mut out, &self.model),
        }
        put(
            &mut out,
            &[br#","output":"#, progress.output, br#","usage":"#, progress.usage, &self.shown, b"}"],
        );
        out
    }
}

/// An object with these members where it has none of the name.
fn with_defaults<'a>(value: &'a [u8], defaults: &[(&str, &str)]) -> Cow<'a, [u8]> {
    let Ok(object) = Object::scan(value) else { return value.into() };
    let is_absent = |name: &str| object.find(name).is_none();
    let absent = defaults.iter().filter(|(name, _)| is_absent(name));
    let set: Vec<_> = absent.map(|(name, value)| Set { name, value: value.as_bytes(), add: true }).collect();
    let mut out = Vec::with_capacity(value.len() + 64);
    object.set(&set, &mut out);
    out.into()
}

fn with_functions_whole(tools: &[u8]) -> Cow<'_, [u8]> {
    if tools.first() != Some(&b'[') {
        return tools.into();
    }
    let shown = json::elements(tools).map_while(Result::ok).map(|range| {
        let tool = &tools[range];
        let is_function = json::string_member(tool, "type").is_some_and(|kind| kind == "function");
        if is_function { with_defaults(tool, &FUNCTION) } else { tool.into() }
    });
    array(shown).into()
}
