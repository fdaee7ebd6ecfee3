//! The request as an upstream that keeps nothing gets it.

use bytes::Bytes;

use super::fields::Stretch;
use super::{CreateRequest, Field, Input, Operation};
use crate::json::{self, Set};

const ENCRYPTED_REASONING: &str = "reasoning.encrypted_content";

/// A body in parts that share the memory of the request and of the chain's turns.
#[derive(Debug, Clone, Default)]
pub struct UpstreamBody {
    pub parts: Vec<Bytes>,
}

/// What stands in for the client's `input`.
#[derive(Debug, Clone, Default)]
pub struct UpstreamInput {
    /// The chain's items, root first, with the commas between them.
    pub history: Vec<Bytes>,
    /// The turn's own items where references were replaced in them, else the client's own are sent.
    pub resolved: Option<Vec<Bytes>>,
}

/// What an account gets otherwise than the client wrote it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Changes<'a> {
    pub include_encrypted_reasoning: bool,
    /// What it calls the model.
    pub model: Option<&'a str>,
    /// Whether it has to answer with a stream.
    pub streams: bool,
    /// Whether it goes over a WebSocket, as a frame.
    pub is_frame: bool,
    /// Whether its upstream is to keep the response.
    pub store: bool,
    /// Whether its upstream is to run the turn in the background.
    pub background: bool,
    /// The upstream's own response that the turn continues there.
    pub previous: Option<&'a str>,
}

impl Changes<'_> {
    /// The same without the names, which are borrowed.
    pub fn unnamed(self) -> Changes<'static> {
        let Changes { include_encrypted_reasoning, streams, is_frame, store, background, .. } = self;
        Changes {
            include_encrypted_reasoning,
            streams,
            is_frame,
            store,
            background,
            model: None,
            previous: None,
        }
    }
}

impl CreateRequest {
    /// Puts the upstream's body together: explicit input, `store` off, and no member that only the gateway understands.
    pub fn upstream_body(&self, input: &UpstreamInput, changes: Changes<'_>) -> UpstreamBody {
        if self.operation.passes_through() {
            return UpstreamBody { parts: vec![self.passed_body(changes.model)] };
        }
        let sends_input = self.has_input() || !input.history.is_empty();
        let (head, tail) = self.members_around_input(sends_input, changes);
        if !sends_input {
            return UpstreamBody { parts: vec![head.into()] };
        }
        let mut parts = Vec::with_capacity(4 + input.history.len() * 2);
        let plain_text = match &self.input {
            Input::Text(text) if input.history.is_empty() && input.resolved.is_none() => Some(text),
            _ => None,
        };
        parts.push(head.into());
        if let Some(text) = plain_text {
            parts.push(text.clone());
        } else {
            self.push_items(input, &mut parts);
        }
        parts.push(tail.into());
        UpstreamBody { parts }
    }

    /// The items that go upstream: an array in parts.
    pub fn upstream_items(&self, input: &UpstreamInput) -> Vec<Bytes> {
        let mut parts = Vec::with_capacity(4 + input.history.len());
        self.push_items(input, &mut parts);
        parts
    }

    fn push_items(&self, input: &UpstreamInput, parts: &mut Vec<Bytes>) {
        parts.push(Bytes::from_static(b"["));
        parts.extend_from_slice(&input.history);
        let own = match &input.resolved {
            Some(resolved) => resolved.clone(),
            None => vec![inner(&self.input.items())],
        };
        push_turn(parts, own, input.history.is_empty());
        parts.push(Bytes::from_static(b"]"));
    }

    /// The body as it came, but for the model where the account has another name for it.
    fn passed_body(&self, model: Option<&str>) -> Bytes {
        let body = self.members.text();
        let Some(model) = model else { return body.clone() };
        let (mut name, mut out) = (Vec::new(), Vec::with_capacity(body.len() + model.len()));
        json::write_string(&mut name, model);
        // The body was parsed: it is an object.
        match json::set_members(body, &[Set { name: "model", value: &name, add: false }], &mut out) {
            Ok(()) => out.into(),
            Err(_) => body.clone(),
        }
    }

    /// The members before and after the place where the input goes.
    fn members_around_input(&self, sends_input: bool, changes: Changes<'_>) -> (Vec<u8>, Vec<u8>) {
        let creates = self.operation == Operation::Create;
        let streams = creates && (changes.streams || self.is_frame) && !changes.is_frame;
        let mut head = Vec::with_capacity(256);
        let mut tail = Vec::new();
        let mut out = &mut head;
        let mut separator = b'{';
        if changes.is_frame {
            out.extend_from_slice(br#"{"type":"response.create""#);
            separator = b',';
        }
        for stretch in self.members.stretches() {
            let (field, key, value) = match stretch {
                Stretch::Known { field, key, value } => (field, key, value),
                Stretch::Others(members) => {
                    out.push(separator);
                    separator = b',';
                    out.extend_from_slice(members);
                    continue;
                }
            };
            match field {
                Field::PreviousResponseId
                | Field::Conversation
                | Field::Store
                | Field::Background
                | Field::Generate
                | Field::StreamId => continue,
                Field::Stream if !creates || streams || changes.is_frame => continue,
                Field::Type if self.is_frame || changes.is_frame => continue,
                Field::StreamOptions if changes.is_frame => continue,
                Field::Include if changes.include_encrypted_reasoning => continue,
                Field::Input if !self.has_input() => continue,
                _ => {}
            }
            out.push(separator);
            separator = b',';
            out.extend_from_slice(key);
            out.push(b':');
            if field == Field::Input {
                out = &mut tail;
            } else if let (Field::Model, Some(model)) = (field, changes.model) {
                json::write_string(out, model);
            } else {
                out.extend_from_slice(value);
            }
        }
        if sends_input && !self.has_input() {
            out.push(separator);
            out.extend_from_slice(b"\"input\":");
            out = &mut tail;
        } else if separator == b'{' {
            out.push(separator);
        }
        if streams {
            out.extend_from_slice(b",\"stream\":true");
        }
        if changes.include_encrypted_reasoning {
            let is_first = separator == b'{' && !sends_input;
            out.extend_from_slice(if is_first { b"\"include\":".as_slice() } else { b",\"include\":" });
            self.write_include(out);
        }
        if let Some(previous) = changes.previous.filter(|_| creates) {
            out.extend_from_slice(b",\"previous_response_id\":");
            json::write_string(out, previous);
        }
        if creates && changes.background {
            out.extend_from_slice(b",\"background\":true");
        }
        out.extend_from_slice(match (creates, changes.store) {
            (true, true) => b",\"store\":true}",
            (true, false) => b",\"store\":false}",
            (false, _) => b"}",
        });
        (head, tail)
    }

    /// The client's `include`, with the encrypted reasoning among it.
    fn write_include(&self, out: &mut Vec<u8>) {
        let asked = self.members.value(Field::Include).unwrap_or(b"[]");
        let asked = asked.trim_ascii();
        out.push(b'[');
        let inner = asked[1..asked.len() - 1].trim_ascii();
        out.extend_from_slice(inner);
        if !self.includes_encrypted_reasoning() {
            if !inner.is_empty() {
                out.push(b',');
            }
            json::write_string(out, ENCRYPTED_REASONING);
        }
        out.push(b']');
    }

    /// Whether the client itself asked for encrypted reasoning.
    pub fn includes_encrypted_reasoning(&self) -> bool {
        let include = self.members.value(Field::Include).unwrap_or(b"[]");
        let mut values = json::elements(include).map_while(Result::ok);
        values.any(|span| json::string(&include[span]).is_some_and(|value| value == ENCRYPTED_REASONING))
    }
}

/// What stands between an array's brackets.
fn inner(array: &Bytes) -> Bytes {
    let trimmed = array.trim_ascii();
    array.slice_ref(trimmed[1..trimmed.len() - 1].trim_ascii())
}

/// Appends the items of one turn, with a comma before them unless they are the first ones.
pub fn push_turn(parts: &mut Vec<Bytes>, items: Vec<Bytes>, is_first: bool) {
    if items.iter().all(Bytes::is_empty) {
        return;
    }
    if !is_first {
        parts.push(Bytes::from_static(b","));
    }
    parts.extend(items);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(body: &'static str, input: &UpstreamInput, include: bool) -> String {
        upstream_of(Operation::Create, body, input, include)
    }

    fn upstream_of(operation: Operation, body: &'static str, input: &UpstreamInput, include: bool) -> String {
        let request = CreateRequest::parse(operation, Bytes::from_static(body.as_bytes())).unwrap();
        let changes = Changes { include_encrypted_reasoning: include, ..Changes::default() };
        let body = request.upstream_body(input, changes);
        let text = body.parts.concat();
        json::validate(&text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn only_what_the_gateway_owns_is_left_out() {
        let body = r#"{ "store":true,"model":"m" , "x":{"n":1e999}, "input" : "hi","background":false,"generate":true, "previous_response_id":"p","top_p":0.10 }"#;
        assert_eq!(
            upstream(body, &UpstreamInput::default(), false),
            r#"{"model":"m","x":{"n":1e999},"input":"hi","top_p":0.10,"store":false}"#
        );
    }

    #[test]
    fn an_account_gets_its_own_name_of_the_model_and_a_stream_if_it_knows_nothing_else() {
        let changes = Changes { model: Some("a \"b\""), streams: true, ..Changes::default() };
        let changed = |operation, body: &'static str| {
            let request = CreateRequest::parse(operation, Bytes::from_static(body.as_bytes())).unwrap();
            String::from_utf8(request.upstream_body(&UpstreamInput::default(), changes).parts.concat())
                .unwrap()
        };
        assert_eq!(
            changed(Operation::Create, r#"{"stream":false,"model":"m","input":"x"}"#),
            r#"{"model":"a \"b\"","input":"x","stream":true,"store":false}"#
        );
        assert_eq!(
            changed(Operation::Compact, r#"{"model":"m","input":"x"}"#),
            r#"{"model":"a \"b\"","input":"x"}"#
        );
    }

    #[test]
    fn an_upstream_that_keeps_responses_gets_its_own_id() {
        let changes = Changes { store: true, previous: Some("resp_up"), ..Changes::default() };
        let body = r#"{"model":"m","previous_response_id":"ours","input":"x","store":true}"#;
        let request = CreateRequest::parse(Operation::Create, Bytes::from_static(body.as_bytes())).unwrap();
        let sent = request.upstream_body(&UpstreamInput::default(), changes).parts.concat();
        assert_eq!(
            String::from_utf8(sent).unwrap(),
            r#"{"model":"m","input":"x","previous_response_id":"resp_up","store":true}"#
        );
    }

    #[test]
    fn history_goes_before_the_turns_own_items() {
        let turn = |text: &'static str| vec![Bytes::from_static(text.as_bytes())];
        let mut history = Vec::new();
        for items in [r#"{"a":1}"#, "", r#"{"b":2},{"c":3}"#] {
            let is_first = history.is_empty();
            push_turn(&mut history, turn(items), is_first);
        }
        let input = UpstreamInput { history, resolved: None };
        assert_eq!(
            upstream(r#"{"model":"m","input":[ {"d":4} ]}"#, &input, false),
            r#"{"model":"m","input":[{"a":1},{"b":2},{"c":3},{"d":4}],"store":false}"#
        );
        assert_eq!(
            upstream(r#"{"input":[],"model":"m"}"#, &input, false),
            r#"{"input":[{"a":1},{"b":2},{"c":3}],"model":"m","store":false}"#
        );
        let resolved = UpstreamInput { history: Vec::new(), resolved: Some(turn(r#"{"r":1}"#)) };
        assert_eq!(
            upstream(r#"{"model":"m","input":[{"id":"x"}]}"#, &resolved, false),
            r#"{"model":"m","input":[{"r":1}],"store":false}"#
        );
    }

    #[test]
    fn other_operations_send_neither_store_nor_stream_and_an_input_only_if_there_is_one() {
        let history = UpstreamInput { history: vec![Bytes::from_static(b"{\"a\":1}")], resolved: None };
        let none = UpstreamInput::default();
        for (body, input, expected) in [
            (r#"{"store":true,"model":"m","stream":true,"x":1}"#, &none, r#"{"model":"m","x":1}"#),
            (r#"{"stream":false}"#, &none, "{}"),
            (r#"{"input":null}"#, &history, r#"{"input":[{"a":1}]}"#),
            (r#"{"model":"m","previous_response_id":"p"}"#, &history, r#"{"model":"m","input":[{"a":1}]}"#),
            (r#"{"input":"x","y":2}"#, &none, r#"{"input":"x","y":2}"#),
            (r#"{"input":[],"y":2}"#, &none, r#"{"input":[],"y":2}"#),
        ] {
            assert_eq!(upstream_of(Operation::Compact, body, input, false), expected, "{body}");
        }
    }

    #[test]
    fn a_body_passes_through_as_it_came_but_for_an_alias() {
        let text = r#" {"messages":[], "model" : "m","input":null,"store":true,"x":1.50}"#;
        let request =
            CreateRequest::parse(Operation::ChatCompletion, Bytes::from_static(text.as_bytes())).unwrap();
        let sent = |model| {
            let body =
                request.upstream_body(&UpstreamInput::default(), Changes { model, ..Changes::default() });
            String::from_utf8(body.parts.concat()).unwrap()
        };
        assert_eq!(sent(None), text);
        assert_eq!(sent(Some("an\"other")), text.replace(r#""m""#, r#""an\"other""#));
    }

    #[test]
    fn encrypted_reasoning_is_asked_for_once() {
        let none = UpstreamInput::default();
        for (include, expected) in [
            ("", r#"["reasoning.encrypted_content"]"#),
            (r#","include":null"#, r#"["reasoning.encrypted_content"]"#),
            (r#","include":[ ]"#, r#"["reasoning.encrypted_content"]"#),
            (r#","include":["a"]"#, r#"["a","reasoning.encrypted_content"]"#),
            (r#","include":["reasoning.encrypted_content"]"#, r#"["reasoning.encrypted_content"]"#),
        ] {
            let body: &'static str = format!(r#"{{"model":"m","input":"x"{include}}}"#).leak();
            assert_eq!(
                upstream(body, &none, true),
                format!(r#"{{"model":"m","input":"x","include":{expected},"store":false}}"#)
            );
        }
    }
}
