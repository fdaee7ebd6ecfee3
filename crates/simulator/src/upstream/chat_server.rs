//! What the chat completions of real servers are like, where they differ from OpenAI's.

use super::event::split;
use super::json::{Object, to_json};
use super::refusal::Refusal;
use super::request::TurnRequest;
use serde_json::{Value, json};

/// The server whose chat completions the simulator imitates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChatServer {
    #[default]
    OpenAi,
    Ollama,
    /// Ollama as it was in 2024: calls have no index.
    OldOllama,
    LlamaCpp,
    /// llama.cpp as it was before calls had ids.
    OldLlamaCpp,
    Vllm,
    /// vLLM 0.7.3: the name of a function in every delta, and an id of its own.
    OldVllm,
    LmStudio,
    DeepSeek,
    /// Gemini's compatible endpoint: all calls have the index 0 and no id.
    Gemini,
    Mistral,
}

/// How reasoning is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reasoning {
    Member(&'static str),
    /// In the text, between `<think>` and `</think>`.
    Tags,
    /// As a part of an array.
    Parts,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum CallIds {
    First,
    Fresh,
    Never,
    Empty,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Arguments {
    /// In one piece.
    Whole,
    Pieces,
    /// As the object that they are.
    Object,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reports {
    Last,
    /// In every chunk.
    Always,
    /// In the chunk with the reason for the end.
    AtFinish,
    Never,
}

/// The differences, as data.
#[derive(Clone, Copy)]
pub(super) struct Habits {
    pub(super) reasoning: Reasoning,
    /// The `content` of a delta that has no text.
    pub(super) no_content: Option<&'static str>,
    pub(super) has_index: bool,
    /// Whether every call has the index 0.
    pub(super) same_index: bool,
    pub(super) ids: CallIds,
    pub(super) repeats_name: bool,
    pub(super) arguments: Arguments,
    pub(super) reports: Reports,
    pub(super) has_done: bool,
    /// What stands before the data of an event.
    pub(super) prefix: &'static str,
    pub(super) line_end: &'static str,
    /// The last text comes with the reason for the end.
    pub(super) finishes_with_text: bool,
}

const USUAL: Habits = Habits {
    reasoning: Reasoning::Member("reasoning_content"),
    no_content: None,
    has_index: true,
    same_index: false,
    ids: CallIds::First,
    repeats_name: false,
    arguments: Arguments::Whole,
    reports: Reports::Last,
    has_done: true,
    prefix: "data: ",
    line_end: "\n",
    finishes_with_text: false,
};

impl ChatServer {
    pub(super) fn habits(self) -> Habits {
        match self {
            Self::OpenAi => USUAL,
            Self::Ollama => {
                Habits { reasoning: Reasoning::Member("reasoning"), no_content: Some("\"\""), ..USUAL }
            }
            Self::OldOllama => Habits { has_index: false, ..Self::Ollama.habits() },
            Self::LlamaCpp => Habits { arguments: Arguments::Pieces, ..USUAL },
            Self::OldLlamaCpp => Habits { ids: CallIds::Never, reports: Reports::Never, ..USUAL },
            Self::Vllm => Habits {
                reasoning: Reasoning::Member("reasoning"),
                arguments: Arguments::Pieces,
                reports: Reports::Always,
                finishes_with_text: true,
                ..USUAL
            },
            Self::OldVllm => Habits {
                ids: CallIds::Fresh,
                repeats_name: true,
                arguments: Arguments::Pieces,
                no_content: Some("null"),
                ..USUAL
            },
            Self::LmStudio => {
                Habits { reasoning: Reasoning::Tags, prefix: "data:", line_end: "\r\n", ..USUAL }
            }
            Self::DeepSeek => Habits {
                no_content: Some("null"),
                arguments: Arguments::Pieces,
                reports: Reports::AtFinish,
                prefix: ": keep-alive\n\ndata: ",
                ..USUAL
            },
            Self::Gemini => Habits {
                same_index: true,
                ids: CallIds::Empty,
                arguments: Arguments::Object,
                has_done: false,
                reports: Reports::Always,
                ..USUAL
            },
            Self::Mistral => Habits {
                reasoning: Reasoning::Parts,
                reports: Reports::AtFinish,
                finishes_with_text: true,
                ..USUAL
            },
        }
    }

    /// What this server rejects and OpenAI does not.
    pub(super) fn check(self, request: &TurnRequest) -> Result<(), Refusal> {
        let messages: Vec<Value> = request.get("messages").unwrap_or_default();
        let calls = || messages.iter().filter(|message| message["tool_calls"].is_array());
        match self {
            Self::LlamaCpp | Self::OldLlamaCpp | Self::Ollama | Self::OldOllama => {
                let mut past =
                    calls().flat_map(|message| message["tool_calls"].as_array().into_iter().flatten());
                let is_broken = |call: &Value| {
                    let text = call["function"]["arguments"].as_str().unwrap_or_default();
                    !serde_json::from_str::<Value>(text).is_ok_and(|value| value.is_object())
                };
                match past.any(is_broken) {
                    true => Err(Refusal::new(500, "500", "Failed to parse tool call arguments as JSON")),
                    false => Ok(()),
                }
            }
            Self::LmStudio if request.raw("tool_choice").is_some_and(|choice| choice.starts_with('{')) => {
                let message =
                    "Invalid tool_choice type: 'object'. Supported string values: none, auto, required";
                Err(Refusal::invalid(message.to_owned()))
            }
            Self::DeepSeek
                if calls().any(|message| message["reasoning_content"].as_str().is_none_or(str::is_empty)) =>
            {
                let message = "The `reasoning_content` in the thinking mode must be passed back to the API.";
                Err(Refusal::invalid(message.to_owned()))
            }
            Self::Gemini => {
                // Only the calls of the current turn, and of parallel ones only the first.
                let current = messages.rsplit(|message| message["role"] == "user").next().unwrap_or_default();
                let is_unsigned = |message: &Value| {
                    let call = &message["tool_calls"][0];
                    call.is_object() && !call["extra_content"]["google"]["thought_signature"].is_string()
                };
                match current.iter().any(is_unsigned) {
                    true => Err(Refusal::of_google(
                        "Function call is missing a thought_signature in functionCall parts. This is required for tools to work correctly, and missing thought_signature may lead to degraded model performance.",
                    )),
                    false => Ok(()),
                }
            }
            Self::Mistral => {
                let reasoning = |(index, message): (usize, &Value)| {
                    let names = ["reasoning_content", "reasoning"].into_iter();
                    names
                        .filter(|name| message.get(name).is_some())
                        .map(|name| json!(["body", "messages", index, "assistant", name]))
                        .collect::<Vec<_>>()
                };
                let mut extra: Vec<Value> = messages.iter().enumerate().flat_map(reasoning).collect();
                if request.raw("stream_options").is_some() {
                    extra.push(json!(["body", "stream_options", "include_usage"]));
                }
                if !extra.is_empty() {
                    return Err(Refusal::extra_members(&extra));
                }
                let mut ids =
                    calls().flat_map(|message| message["tool_calls"].as_array().into_iter().flatten());
                let is_foreign =
                    |id: &str| id.len() != 9 || !id.bytes().all(|byte| byte.is_ascii_alphanumeric());
                match ids.find_map(|call| call["id"].as_str().filter(|id| is_foreign(id))) {
                    Some(id) => Err(Refusal::invalid(format!(
                        "Tool call id was {id} but must be a-z, A-Z, 0-9, with a length of 9."
                    ))),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}

/// A call of a function.
pub(super) struct Called<'c> {
    pub(super) index: usize,
    pub(super) id: &'c str,
    pub(super) name: &'c str,
    pub(super) arguments: &'c str,
}

impl Habits {
    /// The deltas of one call.
    pub(super) fn call(&self, call: &Called<'_>, pieces: usize) -> Vec<String> {
        let pieces = match self.arguments {
            Arguments::Pieces => {
                let mut all = vec![""];
                all.extend(split(call.arguments, pieces));
                all
            }
            Arguments::Whole | Arguments::Object => vec![call.arguments],
        };
        pieces.iter().enumerate().map(|(number, piece)| self.fragment(call, number, piece)).collect()
    }

    fn fragment(&self, call: &Called<'_>, number: usize, piece: &str) -> String {
        let is_first = number == 0;
        let mut fragment = Object::new();
        if self.has_index {
            fragment = fragment.value("index", &if self.same_index { 0 } else { call.index });
        }
        fragment = match self.ids {
            CallIds::First | CallIds::Fresh if is_first => fragment.value("id", call.id),
            CallIds::Fresh => fragment.value("id", &format!("{}-{number}", call.id)),
            CallIds::Empty => fragment.value("id", ""),
            CallIds::First | CallIds::Never => fragment,
        };
        let mut function = Object::new();
        if is_first || self.repeats_name {
            function = function.value("name", call.name);
        }
        let is_object = self.arguments == Arguments::Object && piece.starts_with('{');
        let function = function.raw("arguments", &if is_object { piece.to_owned() } else { to_json(piece) });
        fragment.value("type", "function").raw("function", &function.finish()).finish()
    }

    /// A call in a completion that is not streamed, where calls have no index.
    pub(super) fn whole_call(&self, call: &Called<'_>) -> String {
        let arguments = match self.arguments {
            Arguments::Object if call.arguments.starts_with('{') => call.arguments.to_owned(),
            _ => to_json(call.arguments),
        };
        let function = Object::new().value("name", call.name).raw("arguments", &arguments).finish();
        let whole = match self.ids {
            CallIds::First | CallIds::Fresh => Object::new().value("id", call.id),
            CallIds::Never => Object::new(),
            CallIds::Empty => Object::new().value("id", ""),
        };
        whole.value("type", "function").raw("function", &function).finish()
    }

    /// The beginning of the message in a completion that is not streamed.
    pub(super) fn message(&self, thought: &str, text: &str, has_calls: bool) -> Object {
        let message = Object::new().value("role", "assistant");
        match self.reasoning {
            _ if thought.is_empty() && text.is_empty() && has_calls => {
                message.raw("content", self.no_content.unwrap_or("null"))
            }
            _ if thought.is_empty() => message.value("content", text),
            Reasoning::Member(name) => message.value(name, thought).value("content", text),
            Reasoning::Tags => message.value("content", &format!("<think>{thought}</think>\n\n{text}")),
            Reasoning::Parts => {
                let text_part = |text| Object::new().value("type", "text").value("text", text).finish();
                let thinking = format!("[{}]", text_part(thought));
                let thinking = Object::new().value("type", "thinking").raw("thinking", &thinking).finish();
                message.raw("content", &format!("[{thinking},{}]", text_part(text)))
            }
        }
    }

    /// The deltas of a thought.
    pub(super) fn thought(&self, text: &str) -> Vec<String> {
        match self.reasoning {
            Reasoning::Member(name) => vec![self.delta(Object::new().value(name, text))],
            Reasoning::Tags => {
                let pieces = ["<thi", "nk>", text, "</think>\n\n"];
                pieces.map(|piece| Object::new().value("content", piece).finish()).to_vec()
            }
            Reasoning::Parts => {
                let text = Object::new().value("type", "text").value("text", text).finish();
                let part = Object::new().value("type", "thinking").raw("thinking", &format!("[{text}]"));
                vec![Object::new().raw("content", &format!("[{}]", part.finish())).finish()]
            }
        }
    }

    /// A delta without text.
    pub(super) fn delta(&self, delta: Object) -> String {
        match self.no_content {
            Some(content) => delta.raw("content", content),
            None => delta,
        }
        .finish()
    }
}
