//! Items: opaque JSON of which only the top level is ever looked at.

use std::borrow::Cow;
use std::ops::Range;

use crate::id::{ItemId, ResponseId};
use crate::json::{self, Member};
use crate::tool::shown_tools;

/// What an input item says of itself, in one look at its members.
#[derive(Debug, Default)]
pub struct Glance<'a> {
    /// The value of `id`; of several the last one.
    id: Option<&'a [u8]>,
    /// The value of `type`; of several the last one.
    kind: Option<&'a [u8]>,
    /// Whether any `type` says so: another parser may go by the first.
    is_named_reference: bool,
    has_role: bool,
    /// A key that is `id` or `type` in another case.
    misspelled: Option<Cow<'a, str>>,
}

/// Finds the spans that [`id_spans`] yields, of an object whose members somebody else walks.
#[derive(Debug, Default)]
pub struct IdSpans {
    previous_end: usize,
    /// Whether a member that is no id has come.
    keeps_any: bool,
    /// An id before which no member stays: the comma after it goes with it.
    leading: Option<Range<usize>>,
}

/// An item's own id.
pub fn id(item: &[u8]) -> Option<ItemId> {
    json::string_member(item, "id").and_then(|id| ItemId::new(&id))
}

/// The id of an item without one: by its type, its turn and its position among that turn's items.
pub fn derived_id(item: &[u8], turn: ResponseId, position: u32) -> ItemId {
    let kind = json::string_member(item, "type").unwrap_or_default();
    ItemId::derived(id_prefix(&kind), turn, position)
}

/// As the API's own ids begin.
fn id_prefix(kind: &str) -> &'static str {
    match kind {
        "" | "message" => "msg_",
        "reasoning" => "rs_",
        "compaction" => "cmp_",
        "function_call" => "fc_",
        "function_call_output" => "fco_",
        "custom_tool_call" => "ctc_",
        "custom_tool_call_output" => "ctco_",
        "web_search_call" => "ws_",
        "file_search_call" => "fs_",
        "image_generation_call" => "ig_",
        "code_interpreter_call" => "ci_",
        "computer_call" => "cu_",
        "computer_call_output" => "cuo_",
        "local_shell_call" => "lsh_",
        "local_shell_call_output" => "lsho_",
        "shell_call" => "sh_",
        "shell_call_output" => "sho_",
        "apply_patch_call" => "apc_",
        "apply_patch_call_output" => "apco_",
        "mcp_list_tools" => "mcpl_",
        "mcp_approval_request" => "mcpr_",
        "mcp_approval_response" => "mcpa_",
        "mcp_call" => "mcp_",
        _ => "item_",
    }
}

/// Whether this is an item whose content replaces everything before it.
pub fn is_compaction(item: &[u8]) -> bool {
    sealed(item) == Some(Sealed::Compaction)
}

/// What an account of another boundary can't read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sealed {
    /// A reasoning item with encrypted content.
    Reasoning,
    /// A reasoning item that the gateway made from a chat completion: no upstream of the Responses API accepts it.
    ChatReasoning,
    /// A reasoning item with a summary at most: only the upstream that keeps it accepts it, by its id.
    BareReasoning,
    /// Asks for a compaction. It can only be the last item of a request.
    CompactionTrigger,
    /// An item that stands for everything before it.
    Compaction,
}

/// Whether the item can be read only where it was made.
pub fn sealed(item: &[u8]) -> Option<Sealed> {
    sealed_by_type(item, json::member(item, "type"))
}

/// As [`sealed`], for an item whose type is known.
pub fn sealed_by_type(item: &[u8], kind: Option<&[u8]>) -> Option<Sealed> {
    match json::string(kind?)?.as_ref() {
        kind if names_compaction(kind) => Some(Sealed::Compaction),
        "reasoning" if is_encrypted(item) => Some(Sealed::Reasoning),
        "reasoning" => has_minted_id(item).then_some(Sealed::ChatReasoning),
        _ => None,
    }
}

/// Whether a reasoning item has a part that only its boundary can read.
pub fn is_encrypted(item: &[u8]) -> bool {
    json::string_member(item, "encrypted_content").is_some_and(|text| !text.is_empty())
}

/// As [`sealed_by_type`], and what no upstream accepts in the history of a request. `has_id` tells whether it goes there with its id.
pub fn sealed_in_history(item: &[u8], kind: Option<&[u8]>, has_id: bool) -> Option<Sealed> {
    let has_content = || {
        let content = json::member(item, "content");
        content.is_some_and(|content| matches!(json::elements(content).next(), Some(Ok(_))))
    };
    sealed_by_type(item, kind).or_else(|| match json::string(kind?)?.as_ref() {
        "compaction_trigger" => Some(Sealed::CompactionTrigger),
        "reasoning" if !has_id && !has_content() => Some(Sealed::BareReasoning),
        _ => None,
    })
}

/// Whether a reasoning item's id was minted by the gateway: the hex digits of its response, and its place in the output.
fn has_minted_id(item: &[u8]) -> bool {
    let id = json::string_member(item, "id").unwrap_or_default();
    id.strip_prefix("rs_").is_some_and(|hex| {
        (36..40).contains(&hex.len()) && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

fn names_compaction(kind: &str) -> bool {
    // The second is what an older Codex calls it.
    matches!(kind, "compaction" | "compaction_summary")
}

/// The summary of a reasoning item as a message of the model; `None` if it has none.
///
/// An upstream refuses a reasoning item that has neither encrypted content nor an id that it knows, so this is how a
/// summary gets to where the item itself can't be read.
pub fn summary_message(reasoning: &[u8]) -> Option<Vec<u8>> {
    let summary = json::member(reasoning, "summary").filter(|summary| summary.first() == Some(&b'['))?;
    let mut texts: Vec<&[u8]> = Vec::new();
    for range in json::elements(summary) {
        let text = json::member(&summary[range.ok()?], "text").filter(|text| text.first() == Some(&b'"'))?;
        // Escapes stay as they are: texts are joined without being read.
        texts.push(&text[1..text.len() - 1]);
    }
    texts.retain(|text| !text.is_empty());
    (!texts.is_empty()).then(|| {
        let mut out = br#"{"type":"message","role":"assistant","content":""#.to_vec();
        out.extend_from_slice(&texts.join(&b"\\n\\n"[..]));
        out.extend_from_slice(b"\"}");
        out
    })
}

/// Whether the API lists items of this type with a status, though a client may send them without.
fn is_listed_with_status(item: &[u8]) -> bool {
    let kind = json::string_member(item, "type").unwrap_or_default();
    matches!(
        &*kind,
        "function_call"
            | "function_call_output"
            | "custom_tool_call"
            | "custom_tool_call_output"
            | "file_search_call"
            | "web_search_call"
            | "image_generation_call"
            | "code_interpreter_call"
            | "computer_call"
            | "computer_call_output"
            | "local_shell_call"
            | "shell_call"
            | "shell_call_output"
            | "apply_patch_call"
            | "apply_patch_call_output"
            | "tool_search_call"
            | "tool_search_output"
            | "program_output"
    )
}

/// Whether the item's `type` is this.
pub fn is_type(item: &[u8], name: &str) -> bool {
    json::string_member(item, "type").is_some_and(|kind| kind == name)
}

/// Where each top-level `id` of an item stands, with the comma that has to go with it. There is more than one if it is repeated.
pub fn id_spans(item: &[u8]) -> Vec<Range<usize>> {
    let mut ids = IdSpans::default();
    let members = json::members(item).map_while(Result::ok);
    let mut spans: Vec<_> = members.filter_map(|member| ids.next(item, &member)).collect();
    spans.extend(ids.end());
    spans
}

/// Whether the id of an item is not only its own: what answers a request for approval has no `call_id` and names that id, and the
/// output of a local shell without a `call_id` has the id of its call. `kind` is the value of `type`.
pub fn links_by_id(item: &[u8], kind: Option<&[u8]>) -> bool {
    match kind.and_then(json::string).as_deref() {
        Some("mcp_approval_request" | "program" | "program_output") => true,
        Some("local_shell_call_output") => json::member(item, "call_id").is_none_or(|id| id == b"null"),
        _ => false,
    }
}

/// Where the id of an upstream's item stands that means nothing to another one; nowhere if it links the item to others.
pub fn upstream_id_spans(item: &[u8]) -> Vec<Range<usize>> {
    if links_by_id(item, json::member(item, "type")) { Vec::new() } else { id_spans(item) }
}

/// The one input item that a string as `input` stands for. `text` is the string's JSON, quotes included.
pub fn user_message(text: &[u8]) -> Vec<u8> {
    const BEFORE: &[u8] = br#"{"type":"message","role":"user","content":[{"type":"input_text","text":"#;
    const AFTER: &[u8] = b"}]}";
    [BEFORE, text, AFTER].concat()
}

/// An item with this id in place of its own.
pub fn with_id(item: &[u8], id: &ItemId) -> Vec<u8> {
    let mut rest = Vec::with_capacity(item.len());
    let mut kept = 0;
    for span in id_spans(item) {
        rest.extend_from_slice(&item[kept..span.start]);
        kept = span.end;
    }
    rest.extend_from_slice(&item[kept..]);
    let members = rest.trim_ascii().strip_prefix(b"{").unwrap_or_default().trim_ascii_start();
    let mut out = Vec::with_capacity(item.len() + 64);
    out.extend_from_slice(b"{\"id\":");
    json::write_string(&mut out, id.as_str());
    if members != b"}" {
        out.push(b',');
    }
    out.extend_from_slice(members);
    out
}

/// An item as the API lists it: with this id, with a status if its type has one, and a short-hand message written out.
pub fn listed(item: &[u8], shown_id: &ItemId) -> Vec<u8> {
    let own_id = id(item);
    let type_missing = json::member(item, "type").is_none_or(|kind| kind == b"null");
    let is_message = json::member(item, "role").is_some() && (type_missing || is_type(item, "message"));
    let has_status = json::member(item, "status").is_some_and(|status| status != b"null");
    let lacks_status = !has_status && (is_message || is_listed_with_status(item));
    let has_tools = json::member(item, "tools").is_some();
    if own_id.as_ref() == Some(shown_id) && !is_message && !lacks_status && !has_tools {
        return item.to_vec();
    }
    let mut out = Vec::with_capacity(item.len() + 160);
    out.push(b'{');
    out.extend_from_slice(b"\"id\":");
    json::write_string(&mut out, shown_id.as_str());
    if is_message {
        out.extend_from_slice(br#","type":"message""#);
    }
    if lacks_status {
        out.extend_from_slice(br#","status":"completed""#);
    }
    for member in json::members(item).map_while(Result::ok) {
        let value = &item[member.value.clone()];
        if member.is(item, "id")
            || (is_message && member.is(item, "type"))
            || (lacks_status && member.is(item, "status"))
        {
            continue;
        }
        out.push(b',');
        out.extend_from_slice(&item[member.key.clone()]);
        out.push(b':');
        if is_message && member.is(item, "content") && value.first() == Some(&b'"') {
            write_text_content(&mut out, item, value);
        } else if member.is(item, "tools") {
            out.extend_from_slice(&shown_tools(value));
        } else {
            out.extend_from_slice(value);
        }
    }
    out.push(b'}');
    out
}

// === impl IdSpans ===

impl IdSpans {
    /// Takes the next member. Yields the span of an id that is known now.
    pub fn next(&mut self, text: &[u8], member: &Member) -> Option<Range<usize>> {
        let leading = self.leading.take().map(|id| id.start..member.key.start);
        let before = std::mem::replace(&mut self.previous_end, member.value.end);
        if !member.is(text, "id") {
            self.keeps_any = true;
            return leading;
        }
        if self.keeps_any {
            return Some(before..member.value.end);
        }
        self.leading = Some(member.span());
        leading
    }

    /// After the last member: the span that is left.
    pub fn end(self) -> Option<Range<usize>> {
        self.leading
    }
}

// === impl Glance ===

impl<'a> Glance<'a> {
    pub fn at(item: &'a [u8]) -> Self {
        const LONGEST: usize = "type".len();
        let mut glance = Self::default();
        for member in json::members(item).map_while(Result::ok) {
            let value = &item[member.value.clone()];
            match member.short_key(item, LONGEST).as_deref() {
                Some("id") => glance.id = Some(value),
                Some("type") => {
                    glance.kind = Some(value);
                    glance.is_named_reference |=
                        json::string(value).is_some_and(|kind| kind == "item_reference");
                }
                Some("role") => glance.has_role = value != b"null",
                Some(key) if ["id", "type"].iter().any(|name| json::differ_by_case(key, name)) => {
                    glance.misspelled = member.short_key(item, LONGEST);
                }
                _ => {}
            }
        }
        glance
    }

    /// Whether the item stands for a stored one, whatever else it says: its type is `item_reference`, or it has an id and
    /// neither a type nor a role. An upstream that keeps items would take it for one, too.
    pub fn is_reference(&self) -> bool {
        let has_type = self.kind.is_some_and(|kind| kind.first() == Some(&b'"'));
        let has_id = self.id.is_some_and(|id| id.first() == Some(&b'"'));
        self.is_named_reference || (has_id && !has_type && !self.has_role)
    }

    pub fn is_compaction(&self) -> bool {
        self.kind.and_then(json::string).is_some_and(|kind| names_compaction(&kind))
    }

    /// Whether the item can be read only where it was made. `item` is what was looked at.
    pub fn sealed(&self, item: &[u8]) -> Option<Sealed> {
        sealed_by_type(item, self.kind)
    }

    /// The id of reasoning that has neither encrypted content nor text. `item` is what was looked at.
    pub fn partial_reasoning(&self, item: &[u8]) -> Option<String> {
        let is_reasoning = self.kind.and_then(json::string).is_some_and(|kind| kind == "reasoning");
        let id = self.id.filter(|_| is_reasoning).and_then(json::string)?;
        let is_empty = |name| json::member(item, name).is_none_or(|value| matches!(value, b"null" | b"[]"));
        let is_partial = is_empty("content") && sealed(item).is_none() && ItemId::new(&id).is_some();
        is_partial.then(|| id.into_owned())
    }

    /// The value of its `id`, unless it is null.
    pub fn id(&self) -> Option<&'a [u8]> {
        self.id.filter(|id| *id != b"null")
    }

    /// A key that an upstream which ignores case would take for `id` or `type`.
    pub fn misspelled(&self) -> Option<&str> {
        self.misspelled.as_deref()
    }
}

fn write_text_content(out: &mut Vec<u8>, item: &[u8], text: &[u8]) {
    let by_model = json::string_member(item, "role").is_some_and(|role| role == "assistant");
    out.extend_from_slice(if by_model {
        br#"[{"type":"output_text","annotations":[],"logprobs":[],"text":"#
    } else {
        br#"[{"type":"input_text","text":"#
    });
    out.extend_from_slice(text);
    out.extend_from_slice(b"}]");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn without_id(item: &str) -> String {
        let span = id_spans(item.as_bytes()).swap_remove(0);
        format!("{}{}", &item[..span.start], &item[span.end..])
    }

    #[test]
    fn the_id_goes_with_one_comma_wherever_it_stands() {
        assert_eq!(without_id(r#"{"id":"a","b":1}"#), r#"{"b":1}"#);
        assert_eq!(without_id(r#"{"a":1,"id":"a","b":1}"#), r#"{"a":1,"b":1}"#);
        assert_eq!(without_id(r#"{"a":1 , "id" : "a" }"#), r#"{"a":1 }"#);
        assert_eq!(without_id(r#"{"id":null}"#), "{}");
        assert!(id_spans(br#"{"a":{"id":1}}"#).is_empty());
        assert!(id_spans(b"7").is_empty());
        assert_eq!(id_spans(br#"{"id":1,"id":2,"a":1,"id":3,"id":4}"#), [1..8, 8..15, 20..27, 27..34]);
    }

    #[test]
    fn a_reference_is_what_its_type_says_or_a_bare_id() {
        for item in [
            r#"{"type":"item_reference","id":"x"}"#,
            r#"{"type":"item_reference","id":"x","status":null}"#,
            r#"{"type":"item_refer\u0065nce","id":"x","role":"user"}"#,
            r#"{"ty\u0070e":"item_reference","id":"x"}"#,
            r#"{"type":"message","type":"item_reference","id":"x"}"#,
            r#"{"type":"item_reference","type":"message","id":"x"}"#,
            r#"{"type":"item_reference"}"#,
            r#"{"id":"x"}"#,
            r#"{"id":"x","type":null}"#,
            r#"{"id":"x","type":5}"#,
            r#"{"id":"x","status":null,"role":null}"#,
        ] {
            assert!(Glance::at(item.as_bytes()).is_reference(), "{item}");
        }
        for item in [
            r#"{"type":"reasoning","id":"x"}"#,
            r#"{"id":"x","role":"user"}"#,
            r#"{"id":null}"#,
            r#"{"x":{"type":"item_reference","id":"x"}}"#,
            "3",
        ] {
            assert!(!Glance::at(item.as_bytes()).is_reference(), "{item}");
        }
    }

    #[test]
    fn a_shorthand_message_is_listed_written_out_and_a_call_with_a_status() {
        let turn = ResponseId::mint(1, &[1; 10]);
        let list = |item: &str| {
            let shown_id = id(item.as_bytes()).unwrap_or_else(|| derived_id(item.as_bytes(), turn, 0));
            String::from_utf8(listed(item.as_bytes(), &shown_id)).unwrap()
        };
        let id = ItemId::derived("msg_", turn, 0);
        assert_eq!(
            list(r#"{"role":"user","content":"p\n0"}"#),
            format!(
                r#"{{"id":"{id}","type":"message","status":"completed","role":"user","content":[{{"type":"input_text","text":"p\n0"}}]}}"#
            )
        );
        assert_eq!(
            list(r#"{"type":"function_call_output","call_id":"c","output":"x"}"#),
            format!(
                r#"{{"id":"{}","status":"completed","type":"function_call_output","call_id":"c","output":"x"}}"#,
                ItemId::derived("fco_", turn, 0)
            )
        );
        for (item, expected) in [
            (
                r#"{"type":"custom_tool_call","id":"a","status":null}"#,
                r#"{"id":"a","status":"completed","type":"custom_tool_call"}"#,
            ),
            (
                r#"{"type":"function_call","id":"a","status":"incomplete"}"#,
                r#"{"type":"function_call","id":"a","status":"incomplete"}"#,
            ),
            (r#"{"type":"item_of_tomorrow","id":"a"}"#, r#"{"type":"item_of_tomorrow","id":"a"}"#),
        ] {
            assert_eq!(list(item), expected);
        }
        let own = r#"{"type":"reasoning","id":"rs_1","big":1e999}"#;
        assert_eq!(list(own), own);
    }

    #[test]
    fn an_item_gets_an_id_in_place_of_its_own() {
        let id = ItemId::new("a").unwrap();
        for (item, expected) in [
            (r#"{"x":1e999}"#, r#"{"id":"a","x":1e999}"#),
            (r#"{ "id" : null , "x":1 }"#, r#"{"id":"a","x":1 }"#),
            (r#"{"x":1,"id":null}"#, r#"{"id":"a","x":1}"#),
            (r#"{"id":null}"#, r#"{"id":"a"}"#),
            ("{ }", r#"{"id":"a"}"#),
        ] {
            assert_eq!(String::from_utf8(with_id(item.as_bytes(), &id)).unwrap(), expected);
        }
    }
}
