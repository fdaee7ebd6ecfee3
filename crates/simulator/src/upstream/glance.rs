//! The few fields of an input item that the simulator looks at.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Glance {
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    pub(super) role: Option<String>,
    pub(super) id: Option<String>,
    pub(super) call_id: Option<String>,
    pub(super) encrypted_content: Option<String>,
    pub(super) summary: Option<Value>,
    pub(super) content: Option<Value>,
}

impl Glance {
    /// `None` if the item is not an object, or one of these fields has the wrong type.
    pub(super) fn at(item: &RawValue) -> Option<Self> {
        serde_json::from_str(item.get()).ok()
    }

    /// A message needs no `type`.
    pub(super) fn kind(&self) -> &str {
        self.kind.as_deref().unwrap_or("message")
    }

    pub(super) fn is_user_message(&self) -> bool {
        self.kind() == "message" && self.role.as_deref() == Some("user")
    }

    pub(super) fn is_tool_output(&self) -> bool {
        self.kind().ends_with("_call_output") || self.role.as_deref() == Some("tool")
    }

    pub(super) fn text(&self) -> String {
        match &self.content {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(parts)) => parts.iter().filter_map(|part| part.get("text")?.as_str()).collect(),
            _ => String::new(),
        }
    }
}
