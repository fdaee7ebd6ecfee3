//! Request bodies, rendered once; only ids differ from turn to turn.

use crate::reply::Parent;
use crate::{LoadOptions, Mode};
use bytes::Bytes;

const SENTENCE: &str = "Say something about the weather. ";
const TOOLS: &str = "\"tools\":[{\"type\":\"function\",\"name\":\"exec_command\",\"description\":\"Runs a command.\",\
                     \"parameters\":{\"type\":\"object\",\"properties\":{\"cmd\":{\"type\":\"string\"}},\
                     \"required\":[\"cmd\"]}}],";

/// Bodies of HTTP requests, or messages of a socket.
#[derive(Debug)]
pub(crate) struct Bodies {
    first: Bytes,
    /// The text around the ids of a body that continues a chain.
    before_id: String,
    after_id: String,
    after_call: String,
}

impl Bodies {
    pub(crate) fn new(options: &LoadOptions) -> Self {
        let store = options.store.unwrap_or(options.turns > 1);
        let text: String = SENTENCE.chars().cycle().take(options.input_chars).collect();
        let model = serde_json::Value::from(options.model.as_str());
        let (begin, stream) = match options.mode {
            Mode::Json => ("{", "\"stream\":false,"),
            Mode::Sse => ("{", "\"stream\":true,"),
            Mode::Ws => ("{\"type\":\"response.create\",", ""),
        };
        let tools = if options.tools { TOOLS } else { "" };
        let rest = format!("\"model\":{model},\"store\":{store},{stream}{tools}\"input\":");
        let first = format!("{begin}{rest}\"{text}\"}}").into();
        let before_id = format!("{begin}\"previous_response_id\":\"");
        let (after_id, after_call) = if options.tools {
            (
                format!("\",{rest}[{{\"type\":\"function_call_output\",\"call_id\":\""),
                format!("\",\"output\":\"{text}\"}}]}}"),
            )
        } else {
            (format!("\",{rest}\"{text}\"}}"), String::new())
        };
        Self { first, before_id, after_id, after_call }
    }

    pub(crate) fn body(&self, parent: Option<&Parent>) -> Bytes {
        let Some(Parent { id, call_id }) = parent else { return self.first.clone() };
        let call_id = call_id.as_deref().unwrap_or_default();
        [&self.before_id, id.as_str(), &self.after_id, call_id, &self.after_call].concat().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn bodies(options: &LoadOptions) -> [Value; 2] {
        let bodies = Bodies::new(options);
        let parent =
            Parent { id: String::from("resp_1"), call_id: options.tools.then(|| String::from("call_1")) };
        [None, Some(&parent)]
            .map(|parent| serde_json::from_slice(&bodies.body(parent)).expect("a body is JSON"))
    }

    #[test]
    fn a_continuing_turn_sends_only_its_new_input() {
        let options = LoadOptions { turns: 2, input_chars: 3, ..LoadOptions::default() };
        let [first, second] = bodies(&options);
        assert_eq!(first, json!({"model": "sim", "store": true, "stream": false, "input": "Say"}));
        let mut expected = first;
        expected["previous_response_id"] = json!("resp_1");
        assert_eq!(second, expected);
    }

    #[test]
    fn a_message_of_a_socket_has_a_type_and_no_stream() {
        let options = LoadOptions { mode: Mode::Ws, turns: 2, input_chars: 3, ..LoadOptions::default() };
        for body in bodies(&options) {
            assert_eq!(body["type"], "response.create");
            assert!(body.get("stream").is_none());
        }
    }

    #[test]
    fn a_call_is_answered_with_its_output() {
        let options = LoadOptions { turns: 2, tools: true, input_chars: 3, ..LoadOptions::default() };
        let [first, second] = bodies(&options);
        assert_eq!(first["input"], "Say");
        assert_eq!(first["tools"][0]["name"], "exec_command");
        assert_eq!(second["tools"], first["tools"]);
        let output = json!([{"type": "function_call_output", "call_id": "call_1", "output": "Say"}]);
        assert_eq!(second["input"], output);
    }
}
