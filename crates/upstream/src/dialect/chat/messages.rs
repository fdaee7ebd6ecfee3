//! From the items of a context to the messages of a chat.
//!
//! Calls, and the text and reasoning before them, are one assistant message, and their outputs follow it directly: templates
//! and strict upstreams accept nothing else.

use std::borrow::Cow;
use std::collections::HashMap;

use antiphon_protocol::error::{ApiError, ErrorKind};
use antiphon_protocol::json::{self, Object};

use super::content::Content;
use super::names::ChatNames;
use super::offers::ADDITIONAL_TOOLS;
use super::short_id::short_id;
use super::stand_in::{self, Past};
use super::{ChatSettings, PastReasoning, inner, put};

/// What Google takes in place of the signature of a thought for a call that comes from elsewhere.
const SIGNATURE: &[u8] = br#"{"google":{"thought_signature":"skip_thought_signature_validator"}}"#;

/// What stands between the outputs of calls and what the user says next, for servers that demand an answer there.
const ANSWER: &[u8] = br#"{"role":"assistant","content":"OK."}"#;

/// The messages so far.
pub struct Messages<'s> {
    settings: &'s ChatSettings,
    names: &'s ChatNames,
    /// The texts of all system messages, if they become one.
    system: Vec<u8>,
    all: Vec<Message>,
    /// The latest call of each id.
    calls: HashMap<Vec<u8>, CallPlace>,
    /// What goes back with the next call: an object that came with it.
    extra: Option<Vec<u8>>,
    /// Types of items that were left out because nobody here knows them.
    pub unknown: Vec<String>,
}

enum Message {
    /// Of a user or the system, complete.
    Plain(Vec<u8>),
    Assistant(Assistant),
}

/// Where a call and its output are.
struct CallPlace {
    message: usize,
    /// Among the outputs of that message.
    output: Option<usize>,
}

/// All texts are as they stand in a JSON string.
#[derive(Default)]
struct Assistant {
    reasoning: Vec<u8>,
    content: Option<Content>,
    calls: Vec<Vec<u8>>,
    outputs: Vec<ToolOutput>,
}

/// What a call returned.
struct ToolOutput {
    /// A complete tool message.
    message: Vec<u8>,
    /// What is no text. It goes into a user message, because tool messages hold only text.
    attachments: Vec<Vec<u8>>,
}

// === impl Messages ===

impl<'s> Messages<'s> {
    pub fn new(settings: &'s ChatSettings, names: &'s ChatNames) -> Self {
        let (system, all, extra, unknown) = Default::default();
        Self { settings, names, system, all, calls: HashMap::new(), extra, unknown }
    }

    /// Adds the request's `instructions`: a string, or items.
    pub fn add_instructions(&mut self, instructions: &[u8]) -> Result<(), ApiError> {
        if instructions.first() == Some(&b'[') {
            return self.add_items(instructions);
        }
        let content = Content::parse(instructions)?;
        self.add_plain(b"\"system\"", &content);
        Ok(())
    }

    /// Adds an array of items.
    pub fn add_items(&mut self, items: &[u8]) -> Result<(), ApiError> {
        for item in json::elements(items).map_while(Result::ok) {
            self.add(&items[item])?;
        }
        Ok(())
    }

    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(b'[');
        if !self.system.is_empty() {
            put(out, &[br#"{"role":"system","content":""#, &self.system, b"\"}"]);
        }
        let mut is_unanswered = false;
        for message in &self.all {
            match message {
                Message::Plain(message) => {
                    if is_unanswered && message.starts_with(br#"{"role":"user""#) {
                        separated(out, ANSWER);
                    }
                    separated(out, message);
                    is_unanswered = false;
                }
                Message::Assistant(assistant) => {
                    assistant.write(self.settings, out);
                    is_unanswered = self.settings.form.answers_outputs && assistant.ends_with_output();
                }
            }
        }
        out.push(b']');
    }

    /// Whether reasoning of earlier turns is among what is written.
    pub fn has_reasoning(&self) -> bool {
        let mut all = self.all.iter();
        all.any(|message| matches!(message, Message::Assistant(assistant) if assistant.sent_reasoning(self.settings).is_some()))
    }

    fn add(&mut self, item: &[u8]) -> Result<(), ApiError> {
        let Ok(item) = Object::scan(item) else { return Ok(()) };
        let kind = item.get("type").and_then(json::string).unwrap_or_else(|| "message".into());
        let extra = self.extra.take();
        if let Some(call) = stand_in::past(&kind, &item, self.names) {
            match call {
                Past::Call { id, name, arguments } => self.add_call(id, &name, &arguments, extra.as_deref()),
                Past::Output { id, output } => return self.add_output(&kind, id, output),
            }
            return Ok(());
        }
        match &*kind {
            "message" => self.add_message(&item),
            "reasoning" => {
                let extra = item.get("extra_content").filter(|extra| extra.first() == Some(&b'{'));
                self.extra = extra.map(<[u8]>::to_vec);
                self.add_reasoning(&item);
                Ok(())
            }
            "compaction" | "compaction_summary" => Err(super::unsupported(
                "input",
                "The upstream's chat completions can't read a compaction item.".to_owned(),
            )),
            "compaction_trigger" => Err(super::unsupported(
                "input",
                "The upstream's chat completions can't compact a context.".to_owned(),
            )),
            // The model gets its tools with the request's own.
            ADDITIONAL_TOOLS => Ok(()),
            kind if !is_past_metadata(kind) => {
                self.unknown.push(kind.to_owned());
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn add_message(&mut self, item: &Object<'_>) -> Result<(), ApiError> {
        let content = Content::parse(item.get("content").unwrap_or_default())?;
        let role = item.get("role").unwrap_or(b"\"user\"");
        if role != b"\"assistant\"" {
            let is_developer = role == b"\"developer\"" && !self.settings.is_openai;
            self.add_plain(if is_developer { b"\"system\"" } else { role }, &content);
            return Ok(());
        }
        if !content.attachments.is_empty() {
            let message = "Invalid value in 'input': messages of the assistant take parts of type 'output_text' and 'refusal'.";
            return Err(super::unsupported("input", message.to_owned()));
        }
        match self.all.last_mut() {
            Some(Message::Assistant(last)) if last.is_only_reasoning() => last.content = Some(content),
            _ => self.push_assistant().content = Some(content),
        }
        Ok(())
    }

    fn add_plain(&mut self, role: &[u8], content: &Content) {
        if role == b"\"system\"" && self.settings.merge_system && content.attachments.is_empty() {
            let gap: &[u8] = if self.system.is_empty() { b"" } else { b"\\n\\n" };
            return put(&mut self.system, &[gap, &content.text]);
        }
        let mut out = [br#"{"role":"#, role, br#","content":"#].concat();
        content.write(&mut out);
        out.push(b'}');
        self.all.push(Message::Plain(out));
    }

    fn add_reasoning(&mut self, item: &Object<'_>) {
        let texts =
            |name| item.get(name).and_then(|parts| Content::parse(parts).ok()).map(|content| content.text);
        let text = texts("content").filter(|text| !text.is_empty()).or_else(|| texts("summary"));
        let Some(text) = text.filter(|text| !text.is_empty()) else { return };
        match self.all.last_mut() {
            Some(Message::Assistant(last)) if last.is_only_reasoning() => {
                put(&mut last.reasoning, &[b"\\n\\n", &text]);
            }
            _ => self.push_assistant().reasoning = text,
        }
    }

    /// `extra` came with the call.
    fn add_call(&mut self, id: &[u8], name: &[u8], arguments: &[u8], extra: Option<&[u8]>) {
        let is_open =
            |message: &Message| matches!(message, Message::Assistant(last) if last.outputs.is_empty());
        if !self.all.last().is_some_and(is_open) {
            self.push_assistant();
        }
        self.calls.insert(key(id), CallPlace { message: self.all.len() - 1, output: None });
        let id = self.sent_id(id);
        if let Some(Message::Assistant(last)) = self.all.last_mut() {
            let arguments = if self.settings.is_openai { arguments.into() } else { as_object(arguments) };
            let function = [br#""function":{"name":"#, name, br#","arguments":"#, &arguments, b"}"].concat();
            let mut call = [br#"{"id":"#, &id[..], br#","type":"function","#, &function[..]].concat();
            let form = self.settings.form;
            if form.signs_calls {
                let extra = extra.filter(|_| !form.replaces_signatures).unwrap_or(SIGNATURE);
                put(&mut call, &[br#","extra_content":"#, extra]);
            }
            call.push(b'}');
            last.calls.push(call);
        }
    }

    /// Adds the output of a call. Servers take one of each: the latest, as some clients send earlier ones again.
    fn add_output(&mut self, kind: &str, id: &[u8], output: &[u8]) -> Result<(), ApiError> {
        let sent_id = self.sent_id(id);
        let Some(place) = self.calls.get_mut(&key(id)) else { return Err(orphaned(kind, id)) };
        let Some(Message::Assistant(caller)) = self.all.get_mut(place.message) else {
            return Err(orphaned(kind, id));
        };
        let content = match output.first() {
            Some(b'"') => Content::parse(output)?,
            Some(b'[') if kind != "shell_call_output" => Content::parse(output)?,
            _ => Content { text: super::escaped(&String::from_utf8_lossy(output)), ..Content::default() },
        };
        let message =
            [br#"{"role":"tool","tool_call_id":"#, &sent_id[..], br#","content":""#, &content.text, b"\"}"];
        let output = ToolOutput { message: message.concat(), attachments: content.attachments };
        match place.output {
            Some(earlier) => caller.outputs[earlier] = output,
            None => {
                place.output = Some(caller.outputs.len());
                caller.outputs.push(output);
            }
        }
        Ok(())
    }

    /// The id of a call as the server gets it, a JSON string.
    fn sent_id<'i>(&self, id: &'i [u8]) -> Cow<'i, [u8]> {
        match self.settings.form.short_call_ids {
            true => Cow::Owned([b"\"", &short_id(&key(id))[..], b"\""].concat()),
            false => Cow::Borrowed(id),
        }
    }

    fn push_assistant(&mut self) -> &mut Assistant {
        self.all.push(Message::Assistant(Assistant::default()));
        match self.all.last_mut() {
            Some(Message::Assistant(last)) => last,
            _ => unreachable!("it was pushed above"),
        }
    }
}

// === impl Assistant ===

impl Assistant {
    fn is_only_reasoning(&self) -> bool {
        self.content.is_none() && self.calls.is_empty()
    }

    /// Its reasoning, if that is sent.
    fn sent_reasoning(&self, settings: &ChatSettings) -> Option<&[u8]> {
        if self.is_only_reasoning() {
            return None;
        }
        let own = Some(&self.reasoning[..]).filter(|text| !text.is_empty());
        match settings.form.past_reasoning {
            PastReasoning::AsItWas => own.filter(|_| !settings.is_openai),
            PastReasoning::Never => None,
            PastReasoning::Always => own.or(Some(b" ")),
        }
    }

    /// Writes the messages; none for reasoning alone.
    fn ends_with_output(&self) -> bool {
        self.outputs.last().is_some() && self.outputs.iter().all(|output| output.attachments.is_empty())
    }

    fn write(&self, settings: &ChatSettings, out: &mut Vec<u8>) {
        if self.is_only_reasoning() {
            return;
        }
        let mut message = br#"{"role":"assistant","content":""#.to_vec();
        if let Some(content) = &self.content {
            message.extend_from_slice(&content.text);
            if !settings.is_openai {
                message.extend_from_slice(&content.refusal);
            }
        }
        message.push(b'"');
        let refusal = self.content.as_ref().map(|content| &content.refusal).filter(|text| !text.is_empty());
        if let Some(refusal) = refusal.filter(|_| settings.is_openai) {
            put(&mut message, &[br#","refusal":""#, refusal, b"\""]);
        }
        if let Some(text) = self.sent_reasoning(settings) {
            put(&mut message, &[br#","reasoning_content":""#, text, br#"","reasoning":""#, text, b"\""]);
        }
        if !self.calls.is_empty() {
            put(&mut message, &[br#","tool_calls":"#, &antiphon_protocol::response::array(&self.calls)]);
        }
        message.push(b'}');
        separated(out, &message);
        self.outputs.iter().for_each(|output| separated(out, &output.message));
        let attachments: Vec<&Vec<u8>> = self.outputs.iter().flat_map(|output| &output.attachments).collect();
        if !attachments.is_empty() {
            if settings.form.answers_outputs {
                separated(out, ANSWER);
            }
            let parts = antiphon_protocol::response::array(attachments);
            separated(out, &[br#"{"role":"user","content":"#, &parts[..], b"}"].concat());
        }
    }
}

/// The arguments of a past call, for servers that decode them: a text that is no JSON object, such as one that was cut, would
/// make them reject the whole chain.
fn as_object(arguments: &[u8]) -> Cow<'_, [u8]> {
    match json::string(arguments) {
        Some(text) if !is_object(&text) => {
            let object = [br#"{"input":"#, arguments, b"}"].concat();
            let text = super::escaped(&String::from_utf8_lossy(&object));
            Cow::Owned([b"\"", &text[..], b"\""].concat())
        }
        _ => Cow::Borrowed(arguments),
    }
}

fn is_object(text: &str) -> bool {
    text.trim_start().starts_with('{') && json::validate(text.as_bytes()).is_ok()
}

/// Appends an element of an array.
fn separated(out: &mut Vec<u8>, element: &[u8]) {
    if out.last() != Some(&b'[') {
        out.push(b',');
    }
    out.extend_from_slice(element);
}

/// An id as it is compared, however it is escaped.
fn key(id: &[u8]) -> Vec<u8> {
    json::string(id).map_or_else(|| id.to_vec(), |id| id.into_owned().into_bytes())
}

/// Whether items of this type only tell what an upstream has done, and mean nothing to another one.
fn is_past_metadata(kind: &str) -> bool {
    const PREFIXES: [&str; 8] = [
        "web_search",
        "file_search",
        "code_interpreter",
        "image_generation",
        "computer_",
        "mcp_",
        "tool_search",
        "item_reference",
    ];
    PREFIXES.iter().any(|prefix| kind.starts_with(prefix))
}

/// As the API words it.
fn orphaned(kind: &str, id: &[u8]) -> ApiError {
    let call = kind.trim_end_matches("_call_output").trim_end_matches("_output").replace('_', " ");
    let id = String::from_utf8_lossy(inner(id).unwrap_or_default());
    ApiError {
        kind: ErrorKind::InvalidRequest,
        code: None,
        param: Some("input".into()),
        message: format!("No tool call found for {call} call output with call_id {id}."),
    }
}
