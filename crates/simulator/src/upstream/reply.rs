//! The response object, with the keys and defaults of the recordings.

use super::item::{Item, Kind};
use super::json::{Object, array, to_json};
use super::request::TurnRequest;
use super::script::Ending;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

const TOOL_USAGE: &str = concat!(
    r#"{"image_gen":{"input_tokens":0,"input_tokens_details":{"image_tokens":0,"text_tokens":0},"#,
    r#""output_tokens":0,"output_tokens_details":{"image_tokens":0,"text_tokens":0},"total_tokens":0},"#,
    r#""web_search":{"num_requests":0}}"#
);

/// The input for rendering a reply.
pub(super) struct Reply<'r> {
    pub(super) request: &'r TurnRequest,
    pub(super) id: String,
    pub(super) created_at: u64,
    pub(super) items: Vec<Item>,
    pub(super) ending: Ending,
    pub(super) usage: Option<(u64, u64)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    Over,
    /// Finished, and sent as a collected reply.
    Collected,
}

impl Reply<'_> {
    pub(super) fn running(&self) -> String {
        self.object(Phase::Running)
    }

    pub(super) fn over(&self) -> String {
        self.object(Phase::Over)
    }

    pub(super) fn collected(&self) -> String {
        self.object(Phase::Collected)
    }

    /// The status of the response at its end.
    pub(super) fn status(&self) -> &'static str {
        match self.ending {
            Ending::Completed | Ending::Silent => "completed",
            Ending::Incomplete { .. } => "incomplete",
            Ending::Failed { .. } => "failed",
        }
    }

    /// An incomplete response ends with an incomplete item.
    pub(super) fn item_status(&self, index: usize) -> &'static str {
        let is_last = index + 1 == self.items.len();
        if is_last && matches!(self.ending, Ending::Incomplete { .. }) { "incomplete" } else { "completed" }
    }

    pub(super) fn output(&self) -> Vec<String> {
        self.items.iter().enumerate().map(|(index, item)| item.done(self.item_status(index))).collect()
    }

    pub(super) fn output_items(&self) -> impl Iterator<Item = Box<RawValue>> {
        self.output().into_iter().filter_map(|item| RawValue::from_string(item).ok())
    }

    pub(super) fn can_be_continued(&self) -> bool {
        !matches!(self.ending, Ending::Failed { .. } | Ending::Silent)
    }

    fn object(&self, phase: Phase) -> String {
        let running = phase == Phase::Running;
        let status = if running { "in_progress" } else { self.status() };
        let completed_at = (status == "completed").then_some(self.created_at);
        let object = Object::new()
            .value("id", &self.id)
            .value("object", "response")
            .value("created_at", &self.created_at)
            .value("status", status)
            .raw("background", self.echoed("background", "false"));
        let object = match phase {
            Phase::Collected => object.raw("billing", r#"{"payer":"developer"}"#),
            Phase::Running | Phase::Over => object,
        };
        let object = object
            .value("completed_at", &completed_at)
            .raw("error", &self.error(running))
            .raw("frequency_penalty", self.echoed("frequency_penalty", "0.0"))
            .raw("incomplete_details", &self.incomplete_details(running))
            .raw("instructions", self.echoed("instructions", "null"))
            .raw("max_output_tokens", self.echoed("max_output_tokens", "null"))
            .raw("max_tool_calls", self.echoed("max_tool_calls", "null"))
            .raw("model", self.echoed("model", "\"\""))
            .raw("moderation", "null")
            .raw("output", &if running { String::from("[]") } else { array(self.output()) });
        self.settings(object, running)
    }

    fn settings(&self, object: Object, running: bool) -> String {
        let service_tier = if running { "\"auto\"" } else { "\"default\"" };
        object
            .raw("parallel_tool_calls", self.echoed("parallel_tool_calls", "true"))
            .raw("presence_penalty", self.echoed("presence_penalty", "0.0"))
            .raw("previous_response_id", self.echoed("previous_response_id", "null"))
            .raw("prompt_cache_key", self.echoed("prompt_cache_key", "null"))
            .raw("prompt_cache_retention", self.echoed("prompt_cache_retention", "\"in_memory\""))
            .raw("reasoning", &self.merged("reasoning", r#"{"context":null,"effort":null,"summary":null}"#))
            .raw("safety_identifier", self.echoed("safety_identifier", "null"))
            .raw("service_tier", self.echoed("service_tier", service_tier))
            .raw("store", self.echoed("store", "true"))
            .raw("temperature", self.echoed("temperature", "1.0"))
            .raw("text", &self.merged("text", r#"{"format":{"type":"text"},"verbosity":"medium"}"#))
            .raw("tool_choice", self.echoed("tool_choice", "\"auto\""))
            .raw("tool_usage", TOOL_USAGE)
            .raw("tools", &self.tools())
            .raw("top_logprobs", self.echoed("top_logprobs", "0"))
            .raw("top_p", self.echoed("top_p", "1.0"))
            .raw("truncation", self.echoed("truncation", "\"disabled\""))
            .raw("usage", &if running { String::from("null") } else { self.usage() })
            .raw("user", self.echoed("user", "null"))
            .raw("metadata", self.echoed("metadata", "{}"))
            .finish()
    }

    fn echoed<'v>(&'v self, name: &str, default: &'v str) -> &'v str {
        self.request.raw(name).unwrap_or(default)
    }

    /// The default object with the members of the request's object.
    fn merged(&self, name: &str, default: &str) -> String {
        let mut merged: Map<String, Value> = serde_json::from_str(default).unwrap_or_default();
        merged.extend(self.request.get::<Map<String, Value>>(name).unwrap_or_default());
        to_json(&merged)
    }

    /// Function tools are echoed with the defaults that the API fills in.
    fn tools(&self) -> String {
        let mut tools: Vec<Value> = self.request.get("tools").unwrap_or_default();
        for tool in tools.iter_mut().filter_map(Value::as_object_mut) {
            if tool.get("type").and_then(Value::as_str) != Some("function") {
                continue;
            }
            tool.entry("description").or_insert(Value::Null);
            tool.entry("output_schema").or_insert(Value::Null);
            let strict = tool.entry("strict").or_insert(Value::Bool(true)) == &Value::Bool(true);
            if let Some(parameters) = tool.get_mut("parameters").and_then(Value::as_object_mut)
                && strict
            {
                parameters.entry("additionalProperties").or_insert(Value::Bool(false));
            }
        }
        to_json(&tools)
    }

    fn error(&self, running: bool) -> String {
        match &self.ending {
            Ending::Failed { code, message } if !running => {
                Object::new().value("code", code).value("message", message).finish()
            }
            _ => String::from("null"),
        }
    }

    fn incomplete_details(&self, running: bool) -> String {
        match &self.ending {
            Ending::Incomplete { reason } if !running => Object::new().value("reason", reason).finish(),
            _ => String::from("null"),
        }
    }

    pub(super) fn usage(&self) -> String {
        if matches!(self.ending, Ending::Failed { .. }) && self.usage.is_none() {
            return String::from("null");
        }
        let reasoning = self.tokens(|item| matches!(item.kind, Kind::Reasoning { .. }));
        let (input, output) =
            self.usage.unwrap_or_else(|| (1 + self.request.size_bytes as u64 / 4, self.tokens(|_| true)));
        Object::new()
            .value("input_tokens", &input)
            .raw("input_tokens_details", r#"{"cache_write_tokens":0,"cached_tokens":0}"#)
            .value("output_tokens", &output)
            .raw("output_tokens_details", &Object::new().value("reasoning_tokens", &reasoning).finish())
            .value("total_tokens", &(input + output))
            .finish()
    }

    /// About four characters per token.
    fn tokens(&self, counted: impl Fn(&Item) -> bool) -> u64 {
        self.items.iter().filter(|item| counted(item)).map(|item| 1 + item.written().len() as u64 / 4).sum()
    }
}
