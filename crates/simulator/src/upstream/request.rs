//! A request, parsed only at the top level.

use super::refusal::Refusal;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

pub(super) type Items = Vec<Box<RawValue>>;

/// The endpoint of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// `…/responses`
    Create,
    /// `…/responses/compact`
    Compact,
    /// `…/responses/input_tokens`
    InputTokens,
    /// `response.create` on a socket
    Socket,
    /// `…/chat/completions`
    Chat,
    /// `…/embeddings`
    Embeddings,
}

impl Endpoint {
    /// Whether it belongs to the Responses API.
    pub(super) fn has_items(self) -> bool {
        !matches!(self, Self::Chat | Self::Embeddings)
    }

    /// The endpoint of a POST; trailing slashes are ignored.
    pub(super) fn of(path: &str) -> Option<Self> {
        match path {
            path if path.ends_with("/chat/completions") => return Some(Self::Chat),
            path if path.ends_with("/embeddings") => return Some(Self::Embeddings),
            _ => {}
        }
        match path.rsplit_once("/responses")?.1 {
            "" => Some(Self::Create),
            "/compact" => Some(Self::Compact),
            "/input_tokens" => Some(Self::InputTokens),
            _ => None,
        }
    }
}

/// The top-level fields as received.
#[derive(Debug)]
pub(super) struct TurnRequest {
    pub(super) endpoint: Endpoint,
    fields: BTreeMap<String, Box<RawValue>>,
    pub(super) size_bytes: usize,
}

impl TurnRequest {
    pub(super) fn parse(endpoint: Endpoint, body: &[u8]) -> Result<Self, Refusal> {
        let fields = serde_json::from_slice(body).map_err(|error| {
            Refusal::invalid(format!("We could not parse the JSON body of your request. ({error})"))
        })?;
        Ok(Self { endpoint, fields, size_bytes: body.len() })
    }

    /// The field as received; `None` if it is absent or null.
    pub(super) fn raw(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(|raw| raw.get()).filter(|json| *json != "null")
    }

    /// The fields that are present and not null.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().filter(|(_, raw)| raw.get() != "null").map(|(name, _)| name.as_str())
    }

    /// The field, if it is present and has this type.
    pub(super) fn get<'r, T: Deserialize<'r>>(&'r self, name: &str) -> Option<T> {
        self.raw(name).and_then(|json| serde_json::from_str(json).ok())
    }

    pub(super) fn model(&self) -> String {
        self.get("model").unwrap_or_default()
    }

    pub(super) fn wants_stream(&self) -> bool {
        self.get("stream").unwrap_or(false)
    }

    /// Whether this is a warm-up, which only prepares the next turn of a socket.
    pub(super) fn is_warm_up(&self) -> bool {
        self.endpoint == Endpoint::Socket && self.get("generate") == Some(false)
    }

    pub(super) fn wants_storing(&self) -> bool {
        self.get("store").unwrap_or(true)
    }

    pub(super) fn wants_encrypted_content(&self) -> bool {
        let include: Vec<String> = self.get("include").unwrap_or_default();
        include.iter().any(|wish| wish == "reasoning.encrypted_content")
    }

    /// The items of `input`, or the messages of a chat; a string becomes the one user message that it stands for.
    pub(super) fn input_items(&self) -> Items {
        if !self.endpoint.has_items() {
            return self.get("messages").unwrap_or_default();
        }
        if let Some(text) = self.get::<String>("input") {
            let content = serde_json::json!([{"type": "input_text", "text": text}]);
            let message = serde_json::json!({"type": "message", "role": "user", "content": content});
            return serde_json::value::to_raw_value(&message).into_iter().collect();
        }
        self.get("input").unwrap_or_default()
    }
}
