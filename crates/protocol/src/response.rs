//! Response objects: the members that are the gateway's own are rewritten, everything else stays as it came.

use std::ops::Range;

use crate::id::{ConversationId, ResponseId};
use crate::json::{self, Malformed, Object, Set};
use crate::usage::Usage;

/// The members that describe the response as this gateway keeps it, whatever the upstream says of its own.
#[derive(Debug, Clone)]
pub struct Owned {
    id: String,
    previous_response_id: String,
    /// An object with its id; `None` for a response that is in no conversation.
    conversation: Option<String>,
    store: bool,
    /// When a background response was created; `None` for any other. Its client sees it before the upstream creates its own.
    queued_at: Option<String>,
}

/// What there is to know of a response object; borrowed from it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Parts<'a> {
    pub id: Option<String>,
    pub status: Option<String>,
    /// The array of output items.
    pub output: Option<&'a [u8]>,
    pub usage: Usage,
}

/// An event that carries a response, both taken apart.
#[derive(Debug)]
pub struct ResponseEvent<'a> {
    pub event: Object<'a>,
    pub response: Object<'a>,
}

/// An event's data, and where the response stands in it.
#[derive(Debug)]
pub struct RewrittenEvent {
    pub data: Vec<u8>,
    pub response: Range<usize>,
}

// === impl ResponseEvent ===

impl<'a> ResponseEvent<'a> {
    /// Checks that all of it is valid JSON. `None` if it is not, or carries no response.
    pub fn parse(text: &'a [u8]) -> Option<Self> {
        let event = Object::parse(text).ok()?;
        let response = Object::scan(event.get("response")?).ok()?;
        Some(Self { event, response })
    }

    /// Takes a text apart that is known to be valid JSON. `None` if it carries no response.
    pub fn scan(text: &'a [u8]) -> Option<Self> {
        let mut response = None;
        let event = Object::scan_around(text, "response", |rest| {
            let object = Object::scan_first(rest)?;
            let length = object.text.len();
            response = Some(object);
            Ok(length)
        });
        Some(Self { event: event.ok()?, response: response? })
    }
}

/// Takes an event apart if the response that it carries is this one, byte for byte.
pub fn scan_event_with<'a>(event: &'a [u8], response: &[u8]) -> Option<Object<'a>> {
    let object = Object::scan_around(event, "response", |rest| match rest.starts_with(response) {
        true => Ok(response.len()),
        false => Err(Malformed { at: 0 }),
    });
    object.ok()
}

// === impl RewrittenEvent ===

impl RewrittenEvent {
    /// Puts another response in its place, if there is one.
    pub fn replace_response(&mut self, other: impl FnOnce(&[u8]) -> Option<Vec<u8>>) {
        if let Some(other) = other(&self.data[self.response.clone()]) {
            let end = self.response.start + other.len();
            self.data.splice(self.response.clone(), other);
            self.response.end = end;
        }
    }
}

// === impl Owned ===

impl Owned {
    pub fn new(id: ResponseId, previous: Option<ResponseId>, store: bool) -> Self {
        let previous_response_id =
            previous.map_or_else(|| "null".to_owned(), |previous| format!("\"{previous}\""));
        Self { id: format!("\"{id}\""), previous_response_id, conversation: None, store, queued_at: None }
    }

    #[must_use]
    pub fn in_conversation(self, id: Option<ConversationId>) -> Self {
        Self { conversation: id.map(|id| format!(r#"{{"id":"{id}"}}"#)), ..self }
    }

    /// A turn that runs in the background has been created at this time, in unix seconds.
    #[must_use]
    pub fn in_background(self, queued_at: Option<i64>) -> Self {
        Self { queued_at: queued_at.map(|seconds| seconds.to_string()), ..self }
    }

    /// Copies a response object with the gateway's own members put in.
    pub fn rewrite(&self, response: &Object<'_>) -> Vec<u8> {
        let mut out = Vec::with_capacity(response.text.len() + 128);
        response.set(&self.members(), &mut out);
        out
    }

    /// The same with an empty output, as it is stored; `None` if it is not stored.
    pub fn stored_body(&self, response: &Object<'_>) -> Option<Vec<u8>> {
        if !self.store {
            return None;
        }
        let mut members = self.members();
        members.push(Set { name: "output", value: b"[]", add: true });
        let left_out = response.get("output").map_or(0, <[u8]>::len);
        let mut out = Vec::with_capacity(response.text.len() - left_out + 128);
        response.set(&members, &mut out);
        Some(out)
    }

    /// Copies an event with the gateway's own members put into the response that it carries.
    pub fn rewrite_event(&self, ResponseEvent { event, response }: &ResponseEvent<'_>) -> RewrittenEvent {
        let span = event.find("response").map_or(0..0, |member| member.value.clone());
        let mut data = Vec::with_capacity(event.text.len() + 128);
        data.extend_from_slice(&event.text[..span.start]);
        response.set(&self.members(), &mut data);
        let rewritten = span.start..data.len();
        data.extend_from_slice(&event.text[span.end..]);
        RewrittenEvent { data, response: rewritten }
    }

    fn members(&self) -> Vec<Set<'_>> {
        let is_background: &[u8] = if self.queued_at.is_some() { b"true" } else { b"false" };
        let mut members = Vec::with_capacity(7);
        members.extend([
            Set { name: "id", value: self.id.as_bytes(), add: true },
            Set { name: "previous_response_id", value: self.previous_response_id.as_bytes(), add: true },
            Set { name: "store", value: if self.store { b"true" } else { b"false" }, add: true },
            Set { name: "background", value: is_background, add: true },
            Set {
                name: "conversation",
                value: self.conversation.as_deref().unwrap_or("null").as_bytes(),
                add: self.conversation.is_some(),
            },
        ]);
        let queued_at = self.queued_at.iter();
        members.extend(queued_at.map(|at| Set { name: "created_at", value: at.as_bytes(), add: true }));
        members
    }

    /// A response object for a turn whose upstream never sent one.
    pub fn skeleton(&self, model: &str, created_at: i64) -> Vec<u8> {
        let mut out = br#"{"id":"","object":"response","created_at":"#.to_vec();
        out.extend_from_slice(created_at.to_string().as_bytes());
        out.extend_from_slice(br#","status":"in_progress","background":false,"completed_at":null,"error":null,"incomplete_details":null,"instructions":null,"max_output_tokens":null,"metadata":{},"model":"#);
        json::write_string(&mut out, model);
        out.extend_from_slice(br#","output":[],"parallel_tool_calls":true,"previous_response_id":null,"prompt_cache_key":null,"reasoning":{"effort":null,"summary":null},"safety_identifier":null,"store":false,"temperature":null,"text":{"format":{"type":"text"}},"tool_choice":"auto","tools":[],"top_p":null,"truncation":"disabled","usage":null}"#);
        self.rewrite(&Object::scan(&out).expect("the skeleton is an object"))
    }
}

// === impl Parts ===

impl<'a> Parts<'a> {
    /// Takes the top level of a response object apart.
    pub fn of(response: &Object<'a>) -> Self {
        let text = |name| response.get(name).and_then(json::string).map(Into::into);
        Self {
            id: text("id").filter(|id: &String| !id.contains('\0')),
            status: text("status"),
            output: response.get("output").filter(|value| value.first() == Some(&b'[')),
            usage: response.get("usage").map(Usage::parse).unwrap_or_default(),
        }
    }
}

/// How a response ended that the upstream did not end itself.
#[derive(Debug, Clone, Copy)]
pub struct Ending<'a> {
    /// `failed` or `cancelled`.
    pub status: &'static str,
    /// Code and message of the response's `error`.
    pub error: Option<(&'a str, &'a str)>,
}

/// Ends a response: its last snapshot with status, error and the items that were finished.
pub fn end(snapshot: &[u8], ending: Ending<'_>, output: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut error = Vec::new();
    match ending.error {
        None => error.extend_from_slice(b"null"),
        Some((code, message)) => {
            error.extend_from_slice(b"{\"code\":");
            json::write_string(&mut error, code);
            error.extend_from_slice(b",\"message\":");
            json::write_string(&mut error, message);
            error.push(b'}');
        }
    }
    let status = format!("\"{}\"", ending.status);
    let mut out = Vec::with_capacity(snapshot.len() + output.len() + error.len());
    let set = [
        Set { name: "status", value: status.as_bytes(), add: true },
        Set { name: "error", value: &error, add: true },
        Set { name: "output", value: output, add: true },
    ];
    json::set_members(snapshot, &set, &mut out)?;
    Ok(out)
}

/// Copies a response object with another `output`.
pub fn with_output(response: &[u8], output: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut out = Vec::with_capacity(response.len() + output.len());
    json::set_members(response, &[Set { name: "output", value: output, add: true }], &mut out)?;
    Ok(out)
}

/// An array of these items.
pub fn array<T: AsRef<[u8]>>(items: impl IntoIterator<Item = T>) -> Vec<u8> {
    let mut out = Vec::new();
    write_array(&mut out, items);
    out
}

/// Appends an array of these items.
pub fn write_array<T: AsRef<[u8]>>(out: &mut Vec<u8>, items: impl IntoIterator<Item = T>) {
    out.push(b'[');
    for (number, item) in items.into_iter().enumerate() {
        if number > 0 {
            out.push(b',');
        }
        out.extend_from_slice(item.as_ref());
    }
    out.push(b']');
}

/// Whether an array has no elements.
pub fn is_empty_array(array: &[u8]) -> bool {
    json::elements(array).next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned() -> Owned {
        Owned::new(ResponseId::mint(1, &[1; 10]), Some(ResponseId::mint(1, &[2; 10])), true)
    }

    #[test]
    fn only_the_gateways_own_members_change() {
        let event = r#"{"sequence_number":3, "response": {"id":"up","x":1.50,"store":false,"conversation":{"id":"c"},"output":[{"id":"up"}]} ,"type":"response.created"}"#;
        let rewritten = owned().rewrite_event(&ResponseEvent::parse(event.as_bytes()).unwrap());
        let response = &rewritten.data[rewritten.response.clone()];
        assert!(response.starts_with(b"{") && response.ends_with(b"}"));
        let (id, previous) = (ResponseId::mint(1, &[1; 10]), ResponseId::mint(1, &[2; 10]));
        assert_eq!(
            String::from_utf8(rewritten.data).unwrap(),
            format!(
                r#"{{"sequence_number":3, "response": {{"id":"{id}","x":1.50,"store":true,"conversation":null,"output":[{{"id":"up"}}],"previous_response_id":"{previous}","background":false}} ,"type":"response.created"}}"#
            )
        );
    }

    #[test]
    fn an_event_and_its_response_are_taken_apart_in_one_pass_or_two() {
        for event in [
            r#"{"type":"x","response":{"id":"a","output":[{"id":"b"}]} , "n":1}"#,
            r#"{"response": { } }"#,
            r#"{"r\u0065sponse":{"a":{"b":[]}}}"#,
            r#"{"response":{"a":1},"response":{"b":2}}"#,
        ] {
            let scanned = ResponseEvent::scan(event.as_bytes()).unwrap();
            let parsed = ResponseEvent::parse(event.as_bytes()).unwrap();
            assert_eq!(scanned.event.members, parsed.event.members, "{event}");
            assert_eq!(scanned.response.text, parsed.response.text, "{event}");
            assert_eq!(scanned.response.members, parsed.response.members, "{event}");
        }
        for event in [r#"{"response":null}"#, r#"{"other":{}}"#, r#"{"response":{"a":1"#, "[]", ""] {
            assert!(ResponseEvent::scan(event.as_bytes()).is_none(), "{event}");
            assert!(ResponseEvent::parse(event.as_bytes()).is_none(), "{event}");
        }
    }

    #[test]
    fn an_event_is_taken_apart_if_it_carries_a_known_response() {
        let event = br#"{"n":1, "response": {"id":"a"} ,"type":"x"}"#;
        let object = scan_event_with(event, br#"{"id":"a"}"#).unwrap();
        assert_eq!(object.members, Object::scan(event).unwrap().members);
        assert!(scan_event_with(event, br#"{"id":"b"}"#).is_none());
        assert!(scan_event_with(br#"{"response":{"id":"a""#, br#"{"id":"a"}"#).is_none());
    }

    #[test]
    fn a_response_shows_its_conversation() {
        let id = ConversationId::mint(1, &[3; 10]);
        let owned = owned().in_conversation(Some(id));
        let expected = format!(r#""conversation":{{"id":"{id}"}}"#);
        for response in [r#"{"id":"up"}"#, r#"{"conversation":{"id":"c"},"id":"up"}"#] {
            let rewritten =
                String::from_utf8(owned.rewrite(&Object::parse(response.as_bytes()).unwrap())).unwrap();
            assert_eq!(rewritten.matches("\"conversation\"").count(), 1);
            assert!(rewritten.contains(&expected), "{rewritten}");
        }
    }

    #[test]
    fn a_background_response_shows_when_it_was_queued() {
        let upstream = Object::parse(br#"{"id":"up","created_at":1,"background":false}"#).unwrap();
        let text = |owned: Owned| String::from_utf8(owned.rewrite(&upstream)).unwrap();
        assert!(text(owned().in_background(Some(7))).contains(r#""created_at":7,"background":true"#));
        assert!(text(owned().in_background(None)).contains(r#""created_at":1,"background":false"#));
    }

    #[test]
    fn a_response_is_taken_apart() {
        let response = br#"{"id":"r","status":"completed","output":[1],"usage":{"input_tokens":4}}"#;
        let parts = Parts::of(&Object::parse(response).unwrap());
        assert_eq!(parts.id.as_deref(), Some("r"));
        assert_eq!(parts.output, Some(&b"[1]"[..]));
        assert_eq!(parts.usage.input_tokens, 4);
    }

    #[test]
    fn an_ended_response_keeps_what_its_snapshot_said() {
        let ending = Ending { status: "failed", error: Some(("server_error", "broke off")) };
        let ended = end(&owned().skeleton("m", 7), ending, br#"[{"id":"a"}]"#).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&ended).unwrap();
        assert_eq!(value["status"], "failed");
        assert_eq!(value["error"]["code"], "server_error");
        assert_eq!(value["output"][0]["id"], "a");
        assert_eq!(value["created_at"], 7);
        assert_eq!(value["store"], true);
    }
}
