//! Chat completions: turns become chat requests, and the chunks of the reply become events of the Responses API.
//!
//! There is one decoder: a whole completion is a stream of one chunk.

mod calls;
mod content;
mod decode;
mod echo;
mod encode;
mod event;
mod failure;
mod form;
mod messages;
mod names;
mod offers;
mod short_id;
mod stand_in;
#[cfg(test)]
mod tests;
mod think;
mod tools;
mod usage;
mod whole;

use antiphon_protocol::error::{ApiError, ErrorKind};

pub use self::decode::Decoder;
pub(super) use self::decode::as_stream;
pub use self::echo::Echo;
pub(super) use self::encode::encode;
pub(super) use self::failure::{error_in, translate as translate_error};
pub use self::failure::{in_event as error_in_event, of_stream as code_and_message};
pub use self::form::{ChatForm, PastReasoning};

/// What an upstream's chat completions are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChatSettings {
    /// Whether this is OpenAI's own API: it has members that others reject, and rejects members that others need.
    pub is_openai: bool,
    pub unsupported_tools: UnsupportedTools,
    pub reasoning_as: ReasoningAs,
    /// Whether the upstream writes reasoning into its text, between `<think>` and `</think>`.
    pub think_tags: bool,
    /// Whether all system messages become the first one, because the model's template takes no other.
    pub merge_system: bool,
    pub form: ChatForm,
}

/// What becomes of tools that a chat upstream can't have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnsupportedTools {
    /// They are left out, and named in a header and in the log.
    #[default]
    Omit,
    /// The request is rejected.
    Reject,
}

/// How clients get reasoning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReasoningAs {
    /// As the content of reasoning items.
    #[default]
    Text,
    /// As their summary, for clients that show nothing else.
    Summary,
}

/// A chat upstream can't be asked for this.
fn unsupported(param: &str, message: String) -> ApiError {
    ApiError {
        kind: ErrorKind::InvalidRequest,
        code: Some("unsupported_parameter".into()),
        param: Some(param.to_owned().into()),
        message,
    }
}

/// Appends several texts.
fn put(out: &mut Vec<u8>, texts: &[&[u8]]) {
    texts.iter().for_each(|text| out.extend_from_slice(text));
}

/// What stands between the quotes of a JSON string; `None` if the value is no string.
fn inner(value: &[u8]) -> Option<&[u8]> {
    value.strip_prefix(b"\"")?.strip_suffix(b"\"")
}

/// A text as it stands between the quotes of a JSON string.
fn escaped(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 2);
    antiphon_protocol::json::write_string(&mut out, text);
    out.pop();
    out.remove(0);
    out
}
