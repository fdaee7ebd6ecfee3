//! Response objects: the members that are the gateway's own are rewritten, everything else stays as it came.

use crate::id::ResponseId;
use crate::item;
use crate::json::{self, Malformed, Set};
use crate::usage::Usage;

/// The members that describe the response as this gateway keeps it, whatever the upstream says of its own.
#[derive(Debug, Clone)]
pub struct Owned {
    id: String,
    previous_response_id: String,
    store: bool,
}

/// What there is to know of a response object; borrowed from it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Parts<'a> {
    pub id: Option<String>,
    pub status: Option<String>,
    pub model: Option<String>,
    /// The array of output items.
    pub output: Option<&'a [u8]>,
    pub usage: Usage,
}

// === impl Owned ===

impl Owned {
    pub fn new(id: ResponseId, previous: Option<ResponseId>, store: bool) -> Self {
        let previous_response_id =
            previous.map_or_else(|| "null".to_owned(), |previous| format!("\"{previous}\""));
        Self { id: format!("\"{id}\""), previous_response_id, store }
    }

    /// Copies a response object with the gateway's own members put in.
    pub fn rewrite(&self, response: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
        json::set_members(response, &self.members(), out)
    }

    /// Copies an event with the gateway's own members put into the response that it carries.
    pub fn rewrite_event(&self, data: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
        let response = json::member(data, "response").ok_or(Malformed { at: 0 })?;
        let start = response.as_ptr() as usize - data.as_ptr() as usize;
        out.extend_from_slice(&data[..start]);
        self.rewrite(response, out)?;
        out.extend_from_slice(&data[start + response.len()..]);
        Ok(())
    }

    fn members(&self) -> [Set<'_>; 5] {
        [
            Set { name: "id", value: self.id.as_bytes(), add: true },
            Set { name: "previous_response_id", value: self.previous_response_id.as_bytes(), add: true },
            Set { name: "store", value: if self.store { b"true" } else { b"false" }, add: true },
            Set { name: "background", value: b"false", add: true },
            Set { name: "conversation", value: b"null", add: false },
        ]
    }

    /// A response object for a turn whose upstream never sent one.
    pub fn skeleton(&self, model: &str, created_at: i64) -> Vec<u8> {
        let mut out = br#"{"id":"","object":"response","created_at":"#.to_vec();
        out.extend_from_slice(created_at.to_string().as_bytes());
        out.extend_from_slice(br#","status":"in_progress","background":false,"completed_at":null,"error":null,"incomplete_details":null,"instructions":null,"max_output_tokens":null,"metadata":{},"model":"#);
        json::write_string(&mut out, model);
        out.extend_from_slice(br#","output":[],"parallel_tool_calls":true,"previous_response_id":null,"store":false,"temperature":null,"tool_choice":"auto","tools":[],"top_p":null,"truncation":"disabled","usage":null}"#);
        let mut rewritten = Vec::with_capacity(out.len() + 64);
        self.rewrite(&out, &mut rewritten).expect("the skeleton is an object");
        rewritten
    }
}

// === impl Parts ===

impl<'a> Parts<'a> {
    /// Takes the top level of a response object apart.
    pub fn of(response: &'a [u8]) -> Result<Self, Malformed> {
        let mut parts = Self::default();
        for member in json::members(response) {
            let member = member?;
            let value = &response[member.value.clone()];
            let text = || json::string(value).map(Into::into);
            if member.is(response, "id") {
                parts.id = text();
            } else if member.is(response, "status") {
                parts.status = text();
            } else if member.is(response, "model") {
                parts.model = text();
            } else if member.is(response, "output") {
                parts.output = (value.first() == Some(&b'[')).then_some(value);
            } else if member.is(response, "usage") {
                parts.usage = Usage::parse(value);
            }
        }
        Ok(parts)
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
    let mut out = vec![b'['];
    for item in items {
        if out.len() > 1 {
            out.push(b',');
        }
        out.extend_from_slice(item.as_ref());
    }
    out.push(b']');
    out
}

/// Whether an array has no elements.
pub fn is_empty_array(array: &[u8]) -> bool {
    json::elements(array).next().is_none()
}

/// Whether the array holds an item whose content starts the context anew.
pub fn has_compaction(items: &[u8]) -> bool {
    json::elements(items).map_while(Result::ok).any(|range| item::is_compaction(&items[range]))
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
        let mut out = Vec::new();
        owned().rewrite_event(event.as_bytes(), &mut out).unwrap();
        let (id, previous) = (ResponseId::mint(1, &[1; 10]), ResponseId::mint(1, &[2; 10]));
        assert_eq!(
            String::from_utf8(out).unwrap(),
            format!(
                r#"{{"sequence_number":3, "response": {{"id":"{id}","x":1.50,"store":true,"conversation":null,"output":[{{"id":"up"}}],"previous_response_id":"{previous}","background":false}} ,"type":"response.created"}}"#
            )
        );
    }

    #[test]
    fn a_response_is_taken_apart() {
        let parts = Parts::of(
            br#"{"id":"r","status":"completed","model":"m","output":[1],"usage":{"input_tokens":4}}"#,
        );
        let parts = parts.unwrap();
        assert_eq!(parts.id.as_deref(), Some("r"));
        assert_eq!(parts.output, Some(&b"[1]"[..]));
        assert_eq!(parts.usage.input_tokens, 4);
        assert!(Parts::of(b"[]").is_err());
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
