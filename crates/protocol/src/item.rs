//! Items: opaque JSON, of which only the top level is read.

use std::borrow::Cow;
use std::ops::Range;

use crate::id::ItemId;
use crate::json;

/// Whether an input item refers to a stored one.
#[derive(Debug, PartialEq, Eq)]
pub enum Reference<'a> {
    /// It is a complete item.
    None,
    /// It refers to the stored item with this id.
    To(Cow<'a, str>),
}

/// An item's own id.
pub fn id(item: &[u8]) -> Option<ItemId> {
    json::string_member(item, "id").and_then(|id| ItemId::new(&id))
}

/// Whether this is an item whose content replaces everything before it.
pub fn is_compaction(item: &[u8]) -> bool {
    sealed(item) == Some(Sealed::Compaction)
}

/// The kinds of items that only accounts of the same boundary can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sealed {
    /// A reasoning item with encrypted content.
    Reasoning,
    /// An item whose encrypted content replaces everything before it.
    Compaction,
}

/// Whether, and how, the item can be read only within its boundary.
pub fn sealed(item: &[u8]) -> Option<Sealed> {
    match json::string_member(item, "type")?.as_ref() {
        // Older versions of Codex use the second name.
        "compaction" | "compaction_summary" => Some(Sealed::Compaction),
        "reasoning" => {
            let content = json::string_member(item, "encrypted_content")?;
            (!content.is_empty()).then_some(Sealed::Reasoning)
        }
        _ => None,
    }
}

/// The summary of a reasoning item as a message of the model; `None` if it has none.
///
/// An upstream rejects a reasoning item that has neither encrypted content nor an id that it knows. So this message takes
/// the summary to an account that cannot read the item itself.
pub fn summary_message(reasoning: &[u8]) -> Option<Vec<u8>> {
    let summary = json::member(reasoning, "summary").filter(|summary| summary.first() == Some(&b'['))?;
    let mut texts: Vec<&[u8]> = Vec::new();
    for range in json::elements(summary) {
        let text = json::member(&summary[range.ok()?], "text").filter(|text| text.first() == Some(&b'"'))?;
        // Texts are joined without decoding them, so escapes are kept.
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

/// Whether the item has this `type`.
pub fn is_type(item: &[u8], name: &str) -> bool {
    json::string_member(item, "type").is_some_and(|kind| kind == name)
}

/// Whether the item is `{"type":"item_reference","id":…}`; the type may be null or left out.
pub fn reference(item: &[u8]) -> Reference<'_> {
    let (mut id, mut kind) = (None, None);
    for member in json::members(item) {
        let Ok(member) = member else { return Reference::None };
        let value = &item[member.value.clone()];
        if member.is(item, "id") {
            id = json::string(value);
        } else if member.is(item, "type") {
            kind = (value != b"null").then(|| json::string(value)).flatten();
        } else {
            return Reference::None;
        }
    }
    match (id, kind.as_deref()) {
        (Some(id), None | Some("item_reference")) => Reference::To(id),
        _ => Reference::None,
    }
}

/// The range of an item's top-level `id` member, including the comma that must be removed with it.
pub fn id_span(item: &[u8]) -> Option<Range<usize>> {
    let mut previous_end = None;
    let mut found: Option<(Range<usize>, Option<usize>)> = None;
    for member in json::members(item) {
        let member = member.ok()?;
        if let Some((span, _)) = &found {
            return Some(span.start..member.key.start);
        }
        if member.is(item, "id") {
            found = Some((member.span(), previous_end));
        }
        previous_end = Some(member.value.end);
    }
    let (span, previous_end) = found?;
    Some(previous_end.unwrap_or(span.start)..span.end)
}

/// The input item for an `input` that is a string. `text` is the string's JSON, including its quotes.
pub fn user_message(text: &[u8]) -> Vec<u8> {
    const BEFORE: &[u8] = br#"{"type":"message","role":"user","content":[{"type":"input_text","text":"#;
    const AFTER: &[u8] = b"}]}";
    [BEFORE, text, AFTER].concat()
}

/// An input item as the API lists it: with an id, and with a shorthand message expanded.
pub fn listed(item: &[u8], derived_id: impl FnOnce() -> ItemId) -> Vec<u8> {
    let own_id = id(item);
    let type_missing = json::member(item, "type").is_none_or(|kind| kind == b"null");
    let is_message = json::member(item, "role").is_some() && (type_missing || is_type(item, "message"));
    if own_id.is_some() && !is_message {
        return item.to_vec();
    }
    let mut out = Vec::with_capacity(item.len() + 160);
    out.push(b'{');
    let id = own_id.unwrap_or_else(derived_id);
    out.extend_from_slice(b"\"id\":");
    json::write_string(&mut out, id.as_str());
    if is_message {
        out.extend_from_slice(br#","type":"message""#);
        if json::member(item, "status").is_none_or(|status| status == b"null") {
            out.extend_from_slice(br#","status":"completed""#);
        }
    }
    for member in json::members(item).map_while(Result::ok) {
        let value = &item[member.value.clone()];
        if member.is(item, "id")
            || (is_message && (member.is(item, "type") || (member.is(item, "status") && value == b"null")))
        {
            continue;
        }
        out.push(b',');
        out.extend_from_slice(&item[member.key.clone()]);
        out.push(b':');
        if is_message && member.is(item, "content") && value.first() == Some(&b'"') {
            write_text_content(&mut out, item, value);
        } else {
            out.extend_from_slice(value);
        }
    }
    out.push(b'}');
    out
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
    use crate::id::ResponseId;

    fn without_id(item: &str) -> String {
        let span = id_span(item.as_bytes()).unwrap();
        format!("{}{}", &item[..span.start], &item[span.end..])
    }

    #[test]
    fn the_id_is_removed_with_one_comma_at_any_position() {
        assert_eq!(without_id(r#"{"id":"a","b":1}"#), r#"{"b":1}"#);
        assert_eq!(without_id(r#"{"a":1,"id":"a","b":1}"#), r#"{"a":1,"b":1}"#);
        assert_eq!(without_id(r#"{"a":1 , "id" : "a" }"#), r#"{"a":1 }"#);
        assert_eq!(without_id(r#"{"id":null}"#), "{}");
        assert_eq!(id_span(br#"{"a":{"id":1}}"#), None);
        assert_eq!(id_span(b"7"), None);
    }

    #[test]
    fn references_and_items_are_distinguished() {
        let to = |id: &'static str| Reference::To(Cow::Borrowed(id));
        assert_eq!(reference(br#"{"type":"item_reference","id":"x"}"#), to("x"));
        assert_eq!(reference(br#"{"id":"x"}"#), to("x"));
        assert_eq!(reference(br#"{"id":"x","type":null}"#), to("x"));
        assert_eq!(reference(br#"{"type":"reasoning","id":"x"}"#), Reference::None);
        assert_eq!(reference(br#"{"id":"x","role":"user"}"#), Reference::None);
        assert_eq!(reference(br#"{"type":"item_reference"}"#), Reference::None);
        assert_eq!(reference(b"3"), Reference::None);
    }

    #[test]
    fn a_shorthand_message_is_listed_expanded() {
        let derived = || ItemId::derived(ResponseId::mint(1, &[1; 10]), 0);
        let list = |item: &str| String::from_utf8(listed(item.as_bytes(), derived)).unwrap();
        let id = derived();
        assert_eq!(
            list(r#"{"role":"user","content":"p\n0"}"#),
            format!(
                r#"{{"id":"{id}","type":"message","status":"completed","role":"user","content":[{{"type":"input_text","text":"p\n0"}}]}}"#
            )
        );
        assert_eq!(
            list(r#"{"type":"function_call_output","call_id":"c","output":"x"}"#),
            format!(r#"{{"id":"{id}","type":"function_call_output","call_id":"c","output":"x"}}"#)
        );
        let own = r#"{"type":"reasoning","id":"rs_1","big":1e999}"#;
        assert_eq!(list(own), own);
    }
}
