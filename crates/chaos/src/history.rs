//! Histories that prove themselves.
//!
//! The upstream's output is a function of the history that it was sent. Client and upstream compute it on their own, so a
//! history that is shortened, reordered or somebody else's shows in the same turn.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Texts are mostly short, rarely of this size.
const LARGE_TEXT_CHARS: usize = 100_000;

/// A history, as the hash of all its items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History([u8; 32]);

impl History {
    pub const EMPTY: Self = Self([0; 32]);

    /// This history and one more item.
    pub fn and(self, item: &Value) -> Self {
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash.update(canonical(item).as_bytes());
        Self(hash.finalize().into())
    }

    pub fn and_all<'a>(self, items: impl IntoIterator<Item = &'a Value>) -> Self {
        items.into_iter().fold(self, Self::and)
    }

    /// What the upstream replies to this history.
    pub fn output(self) -> Vec<Value> {
        let name = self.hex();
        let message = json!({
            "type": "message", "id": format!("msg_{name}"), "role": "assistant", "status": "completed",
            "content": [{"type": "output_text", "text": self.text(), "annotations": []}],
        });
        let reasoning = json!({
            "type": "reasoning", "id": format!("rs_{name}"), "summary": [], "encrypted_content": format!("sealed-{name}"),
        });
        let call = json!({
            "type": "function_call", "id": format!("fc_{name}"), "call_id": format!("call_{name}"), "name": "look",
            "arguments": "{}", "status": "completed",
        });
        match self.0[0] % 4 {
            0 => vec![reasoning, message],
            1 => vec![message, call],
            _ => vec![message],
        }
    }

    /// The history after the upstream's reply to this one.
    pub fn answered(self) -> Self {
        self.and_all(&self.output())
    }

    /// The call that the reply to this history ends with, if it does.
    pub fn open_call(self) -> Option<String> {
        (self.0[0] % 4 == 1).then(|| format!("call_{}", self.hex()))
    }

    fn text(self) -> String {
        let length = match self.0[1] {
            0 => LARGE_TEXT_CHARS,
            n => usize::from(n) * 4,
        };
        self.hex().chars().cycle().take(length.max(64)).collect()
    }

    pub fn hex(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// A message of a user.
pub fn user(text: &str) -> Value {
    json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]})
}

/// What an item says, whatever its form: replayed output items have no ids.
fn canonical(item: &Value) -> String {
    if item["role"] == "user" {
        return format!("user:{}", item["content"][0]["text"].as_str().unwrap_or_default());
    }
    let mut item = item.clone();
    if let Some(members) = item.as_object_mut() {
        members.remove("id");
    }
    item.to_string()
}

/// The items of an input, which may be a text.
pub fn items(input: &Value) -> Vec<Value> {
    match input {
        Value::String(text) => vec![user(text)],
        other => other.as_array().cloned().unwrap_or_default(),
    }
}

/// The history that an upstream was sent, if it is one: all that the model said in it has to follow from what was before.
pub fn verify(input: &Value) -> Result<History, String> {
    let items = items(input);
    let mut history = History::EMPTY;
    let mut at = 0;
    let mut call = None;
    while let Some(item) = items.get(at) {
        let is_output =
            item["role"] == "assistant" || item["type"] == "reasoning" || item["type"] == "function_call";
        if is_output {
            let expected = history.output();
            let found = items.get(at..at + expected.len()).unwrap_or_default();
            if expected.len() != found.len()
                || expected.iter().zip(found).any(|(a, b)| canonical(a) != canonical(b))
            {
                return Err(format!("item {at} of {} does not follow from the items before it", items.len()));
            }
            call = history.open_call();
            history = history.answered();
            at += expected.len();
            continue;
        }
        let output_for = item["call_id"].as_str();
        if call.as_deref() != output_for {
            return Err(format!("item {at} replies to the call {output_for:?}, but {call:?} is open"));
        }
        call = None;
        history = history.and(item);
        at += 1;
    }
    Ok(history)
}

/// Whether this is the output that the client must get. It has not asked for encrypted content, and may get it or not.
pub fn is_output_of(history: History, output: &Value) -> bool {
    let unsealed = |item: &Value| {
        let mut item = item.clone();
        if let Some(members) = item.as_object_mut() {
            members.remove("encrypted_content");
        }
        item
    };
    let expected = history.output();
    let found = output.as_array().map_or(&[][..], Vec::as_slice);
    expected.len() == found.len() && expected.iter().zip(found).all(|(a, b)| unsealed(a) == unsealed(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A history of so many turns, as it is replayed.
    fn replayed(turns: usize) -> (Vec<Value>, History) {
        let (mut items, mut history) = (Vec::new(), History::EMPTY);
        for turn in 0..turns {
            let input = match open(&items) {
                Some(call) => json!({"type": "function_call_output", "call_id": call, "output": "seen"}),
                None => user(&format!("turn {turn}")),
            };
            history = history.and(&input);
            items.push(input);
            items.extend(history.output());
            history = history.answered();
        }
        items.push(user("last"));
        if let Some(call) = open(&items[..items.len() - 1]) {
            *items.last_mut().unwrap() =
                json!({"type": "function_call_output", "call_id": call, "output": "seen"});
        }
        let history = history.and(items.last().unwrap());
        (items, history)
    }

    fn open(items: &[Value]) -> Option<String> {
        items.last().and_then(|item| item["call_id"].as_str()).map(str::to_owned)
    }

    #[test]
    fn a_history_is_known_by_all_its_items() {
        let (items, history) = replayed(12);
        assert_eq!(verify(&json!(items)), Ok(history));
    }

    #[test]
    fn a_history_that_lacks_an_item_in_the_middle_is_found() {
        let (items, history) = replayed(12);
        for missing in 0..items.len() {
            let mut shorter = items.clone();
            shorter.remove(missing);
            assert_ne!(verify(&json!(shorter)), Ok(history), "{missing}");
        }
    }
}
