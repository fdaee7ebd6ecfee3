//! Output items, as they are added and as they are done.

use super::json::{Object, array};
use super::mint::Family;
use super::script::Output;
use super::seal::seal;

/// An output item with its ids minted.
pub(super) struct Item {
    pub(super) id: String,
    pub(super) kind: Kind,
    encrypted_content: Option<String>,
}

pub(super) enum Kind {
    Message { text: String },
    Reasoning { summary: String },
    Call { call_id: String, name: String, arguments: String },
    Raw { json: String },
}

impl Item {
    /// `boundary` is set if encrypted content is requested.
    pub(super) fn new(output: &Output, family: &Family<'_>, boundary: Option<&str>) -> Self {
        let (prefix, kind) = match output.clone() {
            Output::Message { text } => ("msg", Kind::Message { text }),
            Output::Reasoning { summary } => ("rs", Kind::Reasoning { summary }),
            Output::Call { call_id, name, arguments } => {
                let call_id = call_id.unwrap_or_else(|| family.call_id());
                ("fc", Kind::Call { call_id, name, arguments })
            }
            Output::Raw { json } => ("item", Kind::Raw { json }),
        };
        let is_reasoning = matches!(kind, Kind::Reasoning { .. });
        let encrypted_content =
            boundary.filter(|_| is_reasoning).map(|boundary| seal(boundary, family.draw()));
        Self { id: family.id(prefix), kind, encrypted_content }
    }

    /// The item in `output_item.added`.
    pub(super) fn begun(&self) -> String {
        match &self.kind {
            Kind::Message { .. } => self.message("in_progress", "[]"),
            Kind::Reasoning { .. } => self.reasoning("[]"),
            Kind::Call { call_id, name, .. } => self.call("in_progress", "", call_id, name),
            Kind::Raw { json } => json.clone(),
        }
    }

    /// The item in `output_item.done` and in `output`.
    pub(super) fn done(&self, status: &str) -> String {
        match &self.kind {
            Kind::Message { text } => self.message(status, &array([text_part(text)])),
            Kind::Reasoning { summary } if summary.is_empty() => self.reasoning("[]"),
            Kind::Reasoning { summary } => self.reasoning(&array([summary_part(summary)])),
            Kind::Call { call_id, name, arguments } => self.call(status, arguments, call_id, name),
            Kind::Raw { json } => json.clone(),
        }
    }

    /// The text that the model wrote, for counting tokens.
    pub(super) fn written(&self) -> &str {
        match &self.kind {
            Kind::Message { text } => text,
            Kind::Reasoning { summary } => summary,
            Kind::Call { arguments, .. } => arguments,
            Kind::Raw { json } => json,
        }
    }

    fn message(&self, status: &str, content: &str) -> String {
        Object::new()
            .value("id", &self.id)
            .value("type", "message")
            .value("status", status)
            .raw("content", content)
            .value("role", "assistant")
            .finish()
    }

    fn reasoning(&self, summary: &str) -> String {
        let item = Object::new().value("id", &self.id).value("type", "reasoning");
        match &self.encrypted_content {
            Some(sealed) => item.value("encrypted_content", sealed),
            None => item,
        }
        .raw("summary", summary)
        .finish()
    }

    fn call(&self, status: &str, arguments: &str, call_id: &str, name: &str) -> String {
        Object::new()
            .value("id", &self.id)
            .value("type", "function_call")
            .value("status", status)
            .value("arguments", arguments)
            .value("call_id", call_id)
            .value("name", name)
            .finish()
    }
}

pub(super) fn text_part(text: &str) -> String {
    Object::new()
        .value("type", "output_text")
        .raw("annotations", "[]")
        .raw("logprobs", "[]")
        .value("text", text)
        .finish()
}

pub(super) fn summary_part(text: &str) -> String {
    Object::new().value("type", "summary_text").value("text", text).finish()
}
