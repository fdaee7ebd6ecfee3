//! `include`: the parts of items that only those clients get that ask for them.

use std::borrow::Cow;

use crate::json::{self, Set};
use crate::response::{array, with_output};

/// A part that `include` names.
struct Part {
    /// Its name in `include`.
    name: &'static str,
    /// The `type` of the items that have it.
    item: &'static str,
    place: Place,
    /// The member's name in quotes: a text without it has no such part.
    marker: &'static str,
    /// What stands in its place; `None` leaves the member out.
    left: Option<&'static [u8]>,
}

/// Where an item holds a part.
#[derive(Clone, Copy)]
enum Place {
    Item,
    /// In the object of this name.
    Object(&'static str),
    /// In the content parts of this type.
    Content(&'static str),
}

const ENCRYPTED_CONTENT: Part = Part {
    name: "reasoning.encrypted_content",
    item: "reasoning",
    place: Place::Item,
    marker: "\"encrypted_content\"",
    left: None,
};

/// What stands in the place of a part is what the schema of the API asks for.
const PARTS: [Part; 8] = [
    ENCRYPTED_CONTENT,
    Part {
        name: "message.input_image.image_url",
        item: "message",
        place: Place::Content("input_image"),
        marker: "\"image_url\"",
        left: None,
    },
    Part {
        name: "message.output_text.logprobs",
        item: "message",
        place: Place::Content("output_text"),
        marker: "\"logprobs\"",
        left: Some(b"[]"),
    },
    Part {
        name: "computer_call_output.output.image_url",
        item: "computer_call_output",
        place: Place::Object("output"),
        marker: "\"image_url\"",
        left: None,
    },
    Part {
        name: "web_search_call.action.sources",
        item: "web_search_call",
        place: Place::Object("action"),
        marker: "\"sources\"",
        left: None,
    },
    Part {
        name: "web_search_call.results",
        item: "web_search_call",
        place: Place::Item,
        marker: "\"results\"",
        left: None,
    },
    Part {
        name: "file_search_call.results",
        item: "file_search_call",
        place: Place::Item,
        marker: "\"results\"",
        left: None,
    },
    Part {
        name: "code_interpreter_call.outputs",
        item: "code_interpreter_call",
        place: Place::Item,
        marker: "\"outputs\"",
        left: Some(b"null"),
    },
];

/// The parts of items that a client does not get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HiddenParts {
    /// One bit for each of [`PARTS`].
    bits: u8,
}

// === impl HiddenParts ===

impl HiddenParts {
    pub const NOTHING: Self = Self { bits: 0 };
    /// The first of [`PARTS`].
    pub const ENCRYPTED_REASONING: Self = Self { bits: 1 };

    /// All parts but those that an `include` names.
    pub fn unless_included<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut bits = u8::MAX;
        for name in names {
            if let Some(index) = PARTS.iter().position(|part| part.name == name) {
                bits &= !(1 << index);
            }
        }
        Self { bits }
    }

    /// Whether a text may hold one of the parts. This costs one search of the text for each of them.
    pub fn may_be_in(self, text: &[u8]) -> bool {
        self.parts().any(|part| memchr::memmem::find(text, part.marker.as_bytes()).is_some())
    }

    /// The item without the parts; borrowed if it has none.
    pub fn hide<'a>(self, item: &'a [u8]) -> Cow<'a, [u8]> {
        let mut shown = Cow::Borrowed(item);
        for part in self.parts() {
            if let Some(without) = part.hide(&shown) {
                shown = Cow::Owned(without);
            }
        }
        shown
    }

    /// An array of items without the parts.
    pub fn hide_in_array<'a>(self, items: &'a [u8]) -> Cow<'a, [u8]> {
        if !self.may_be_in(items) {
            return Cow::Borrowed(items);
        }
        let items = json::elements(items).map_while(Result::ok).map(|range| self.hide(&items[range]));
        Cow::Owned(array(items))
    }

    /// A response object without the parts in its output; `None` if it has none.
    pub fn hide_in_response(self, response: &[u8]) -> Option<Vec<u8>> {
        if !self.may_be_in(response) {
            return None;
        }
        let output = json::member(response, "output").filter(|output| output.first() == Some(&b'['))?;
        match self.hide_in_array(output) {
            Cow::Borrowed(_) => None,
            Cow::Owned(shown) => with_output(response, &shown).ok(),
        }
    }

    fn parts(self) -> impl Iterator<Item = &'static Part> {
        (0..).zip(&PARTS).filter(move |(index, _)| self.bits & (1 << index) != 0).map(|(_, part)| part)
    }
}

// === impl Part ===

impl Part {
    /// The item without this part; `None` if it does not have it.
    fn hide(&self, item: &[u8]) -> Option<Vec<u8>> {
        memchr::memmem::find(item, self.marker.as_bytes())?;
        if !self.is_of(item) {
            return None;
        }
        match self.place {
            Place::Item => self.hide_in_object(item),
            Place::Object(name) => {
                let object = self.hide_in_object(json::member(item, name)?)?;
                replaced(item, name, &object)
            }
            Place::Content(kind) => {
                let content =
                    json::member(item, "content").filter(|content| content.first() == Some(&b'['))?;
                let mut is_changed = false;
                let parts = json::elements(content).map_while(Result::ok).map(|range| {
                    let part = &content[range];
                    let is_kind = json::string_member(part, "type").is_some_and(|name| name == kind);
                    let hidden = if is_kind { self.hide_in_object(part) } else { None };
                    is_changed |= hidden.is_some();
                    hidden.map_or(Cow::Borrowed(part), Cow::Owned)
                });
                let shown = array(parts);
                if is_changed { replaced(item, "content", &shown) } else { None }
            }
        }
    }

    fn is_of(&self, item: &[u8]) -> bool {
        match json::string_member(item, "type") {
            Some(kind) => kind == self.item,
            // The type of a message may be left out.
            None => self.item == "message" && json::member(item, "role").is_some(),
        }
    }

    fn hide_in_object(&self, object: &[u8]) -> Option<Vec<u8>> {
        let name = self.marker.trim_matches('"');
        let value = json::member(object, name)?;
        if value == b"null" || self.left == Some(value) {
            return None;
        }
        match self.left {
            Some(left) => replaced(object, name, left),
            None => Some(without(object, name)),
        }
    }
}

fn replaced(object: &[u8], name: &str, value: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(object.len());
    json::set_members(object, &[Set { name, value, add: false }], &mut out).ok()?;
    Some(out)
}

fn without(object: &[u8], name: &str) -> Vec<u8> {
    let mut out = vec![b'{'];
    for member in json::members(object).map_while(Result::ok).filter(|member| !member.is(object, name)) {
        if out.len() > 1 {
            out.push(b',');
        }
        out.extend_from_slice(&object[member.span()]);
    }
    out.push(b'}');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One item for each part, with the value of the part marked.
    const ITEMS: [(&str, &str, &str); 8] = [
        (
            "reasoning.encrypted_content",
            r#"{"id":"rs_1","encrypted_content":"SECRET","type":"reasoning","summary":[]}"#,
            r#"{"id":"rs_1","type":"reasoning","summary":[]}"#,
        ),
        (
            "message.input_image.image_url",
            r#"{"role":"user","content":[{"type":"input_text","text":"image_url"},{"type":"input_image","image_url":"SECRET","detail":"auto"}]}"#,
            r#"{"role":"user","content":[{"type":"input_text","text":"image_url"},{"type":"input_image","detail":"auto"}]}"#,
        ),
        (
            "message.output_text.logprobs",
            r#"{"type":"message","content":[{"type":"output_text","text":"x","logprobs":["SECRET"]}] ,"n":1.50}"#,
            r#"{"type":"message","content":[{"type":"output_text","text":"x","logprobs":[]}] ,"n":1.50}"#,
        ),
        (
            "computer_call_output.output.image_url",
            r#"{"type":"computer_call_output","output":{"type":"computer_screenshot","image_url":"SECRET"}}"#,
            r#"{"type":"computer_call_output","output":{"type":"computer_screenshot"}}"#,
        ),
        (
            "web_search_call.action.sources",
            r#"{"type":"web_search_call","action":{"sources":["SECRET"],"type":"search"}}"#,
            r#"{"type":"web_search_call","action":{"type":"search"}}"#,
        ),
        (
            "web_search_call.results",
            r#"{"type":"web_search_call","results":["SECRET"]}"#,
            r#"{"type":"web_search_call"}"#,
        ),
        (
            "file_search_call.results",
            r#"{"type":"file_search_call","results":["SECRET"],"queries":[]}"#,
            r#"{"type":"file_search_call","queries":[]}"#,
        ),
        (
            "code_interpreter_call.outputs",
            r#"{"type":"code_interpreter_call","outputs":["SECRET"]}"#,
            r#"{"type":"code_interpreter_call","outputs":null}"#,
        ),
    ];

    #[test]
    fn each_part_is_hidden_unless_it_is_included() {
        for (name, item, without) in ITEMS {
            let all = HiddenParts::unless_included([]);
            assert_eq!(String::from_utf8_lossy(&all.hide(item.as_bytes())), without, "{name}");
            let others = HiddenParts::unless_included([name, "another"]);
            assert!(matches!(others.hide(item.as_bytes()), Cow::Borrowed(_)), "{name}");
            assert!(matches!(all.hide(without.as_bytes()), Cow::Borrowed(_)), "{name} is hidden already");
        }
    }

    #[test]
    fn only_encrypted_reasoning_is_hidden_from_who_did_not_ask_for_it() {
        let hidden = HiddenParts::ENCRYPTED_REASONING;
        for (name, item, without) in ITEMS {
            let expected = if name == "reasoning.encrypted_content" { without } else { item };
            assert_eq!(String::from_utf8_lossy(&hidden.hide(item.as_bytes())), expected);
        }
        let compaction = br#"{"type":"compaction","encrypted_content":"x"}"#;
        assert!(matches!(hidden.hide(compaction), Cow::Borrowed(_)));
        assert!(!HiddenParts::NOTHING.may_be_in(ITEMS[0].1.as_bytes()));
    }

    #[test]
    fn parts_are_hidden_in_the_output_of_a_response() {
        let response =
            format!(r#"{{"id":"r", "output":[{}, {{"type":"odd","n":1e999}}],"x":1.0}}"#, ITEMS[0].1);
        let shown = HiddenParts::ENCRYPTED_REASONING.hide_in_response(response.as_bytes()).unwrap();
        assert_eq!(
            String::from_utf8(shown).unwrap(),
            format!(r#"{{"id":"r", "output":[{},{{"type":"odd","n":1e999}}],"x":1.0}}"#, ITEMS[0].2)
        );
        let none = br#"{"output":[{"type":"message"}]}"#;
        assert_eq!(HiddenParts::ENCRYPTED_REASONING.hide_in_response(none), None);
        let twice = br#"{"type":"reasoning","encrypted_content":"a","encrypted_content":"b"}"#;
        assert_eq!(&*HiddenParts::ENCRYPTED_REASONING.hide(twice), br#"{"type":"reasoning"}"#);
    }
}
