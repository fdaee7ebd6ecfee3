//! The `input` of a request: what there is to know of its items before they go upstream or into the store.

use std::ops::Range;

use bytes::Bytes;

use super::fields::unknown_parameter;
use super::{Wanted, invalid, missing, wrong_type};
use crate::error::ApiError;
use crate::id::ItemId;
use crate::item::{self, Glance, Sealed};
use crate::json;

/// Of an input: what is kept for each item while a turn runs is small, and so are their rows in the index.
const MAX_ITEMS: usize = 100_000;
/// Of an input: each is looked up in the store.
const MAX_REFERENCES: usize = 10_000;

/// The `input` as the client sent it.
#[derive(Debug, Clone)]
pub enum Input {
    /// A string, with its quotes.
    Text(Bytes),
    /// An array of items.
    Items(Bytes),
}

/// What there is to know of input items.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InputScan {
    /// How many there are.
    pub items: usize,
    /// Items that stand for stored ones, in order.
    pub references: Vec<Reference>,
    /// Items with an id that was derived here, in order: no upstream knows it.
    pub derived: Vec<(u32, Range<usize>)>,
    /// Reasoning and compactions with encrypted content, in order.
    pub sealed: Vec<(u32, Range<usize>)>,
    /// Whether an item replaces everything before it.
    pub has_compaction: bool,
    /// Whether an item is reasoning that the gateway made from a chat completion.
    pub has_chat_reasoning: bool,
}

/// An item that stands for a stored one, or may do so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Among the items.
    pub position: u32,
    /// Where it stands in the array.
    pub span: Range<usize>,
    /// Of the stored item.
    pub id: String,
    /// Whether this is reasoning without its encrypted content: the client got it so if it had not asked for more. If it is
    /// not stored, it goes upstream as it is.
    pub is_partial: bool,
}

// === impl Input ===

impl Input {
    /// The input as an array of items; a string becomes one user message.
    pub fn items(&self) -> Bytes {
        match self {
            Self::Text(text) => [b"[", item::user_message(text).as_slice(), b"]"].concat().into(),
            Self::Items(items) => items.clone(),
        }
    }

    /// Looks at each item once, while that is wanted.
    pub(super) fn scan(&self, wanted: Wanted<'_>) -> Result<InputScan, ApiError> {
        match self {
            Self::Text(_) => Ok(InputScan { items: 1, ..InputScan::default() }),
            Self::Items(items) => InputScan::of("input", items, wanted),
        }
    }
}

// === impl InputScan ===

impl InputScan {
    /// `name` is the array's, for errors.
    pub(crate) fn of(name: &str, items: &[u8], wanted: Wanted<'_>) -> Result<Self, ApiError> {
        let mut scan = Self::default();
        let mut references = 0;
        for span in json::elements(items).map_while(Result::ok).take_while(|_| wanted()) {
            let position = scan.items;
            scan.items += 1;
            let glance = Glance::at(&items[span.clone()]);
            scan.has_compaction |= glance.is_compaction();
            let sealed = glance.sealed(&items[span.clone()]);
            scan.has_chat_reasoning |= sealed == Some(Sealed::ChatReasoning);
            let is_encrypted = match sealed {
                Some(Sealed::Reasoning) => true,
                Some(Sealed::Compaction) => item::is_encrypted(&items[span.clone()]),
                _ => false,
            };
            if is_encrypted && scan.items <= MAX_ITEMS {
                scan.sealed.push((u32::try_from(position).unwrap_or(u32::MAX), span.clone()));
            }
            if let Some(key) = glance.misspelled() {
                return Err(unknown_parameter(&format!("{name}[{position}].{key}")));
            }
            if !glance.is_reference() {
                let position = u32::try_from(position).unwrap_or(u32::MAX);
                let partial = glance.partial_reasoning(&items[span.clone()]);
                if let Some(id) = partial.filter(|_| scan.references.len() < MAX_REFERENCES) {
                    scan.references.push(Reference { position, span, id, is_partial: true });
                } else if scan.items <= MAX_ITEMS && glance.id().is_some_and(is_derived) {
                    scan.derived.push((position, span));
                }
                continue;
            }
            references += 1;
            if references > MAX_REFERENCES || scan.items > MAX_ITEMS {
                continue;
            }
            let position = u32::try_from(position).unwrap_or(u32::MAX);
            let id = reference_id(&glance, &format!("{name}[{position}].id"))?;
            scan.references.push(Reference { position, span, id, is_partial: false });
        }
        let what = [("items", scan.items, MAX_ITEMS), ("item references", references, MAX_REFERENCES)];
        match what.into_iter().find(|(_, count, limit)| count > limit) {
            Some((what, count, limit)) => Err(too_many(name, what, count, limit)),
            None => Ok(scan),
        }
    }
}

fn reference_id(reference: &Glance<'_>, name: &str) -> Result<String, ApiError> {
    let id = reference.id().ok_or_else(|| missing(name))?;
    json::string(id).map(Into::into).ok_or_else(|| wrong_type(name, "a string", id))
}

fn is_derived(id: &[u8]) -> bool {
    let id = json::string(id).and_then(|id| ItemId::new(&id));
    id.is_some_and(|id| id.as_derived().is_some())
}

fn too_many(name: &str, what: &str, count: usize, limit: usize) -> ApiError {
    let message = format!(
        "Invalid '{name}': array too long. Expected at most {limit} {what}, but got {count} instead."
    );
    invalid("array_above_max_length", Some(name), message)
}

/// The ids that items of an array came with, and their positions counted from `first`. An upstream may send any number: items
/// beyond the bound of an input can't be referenced.
pub fn item_ids(items: &[u8], first: u32) -> Vec<(ItemId, u32)> {
    let positions = (first..).zip(json::elements(items).map_while(Result::ok).take(MAX_ITEMS));
    positions.filter_map(|(position, range)| Some((item::id(&items[range])?, position))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(items: &str) -> Result<InputScan, ApiError> {
        Input::Items(Bytes::copy_from_slice(items.as_bytes())).scan(&|| true)
    }

    fn refused(items: &str) -> (String, String, String) {
        let error = scan(items).unwrap_err();
        (error.code.unwrap().into(), error.param.unwrap().into(), error.message)
    }

    #[test]
    fn references_and_compaction_are_found_among_the_items() {
        let items = r#"[{"role":"user","content":"x"}, {"type":"item_reference","id":"a"},{"type":"compaction","id":"c"},{"id":"b"}]"#;
        let found = scan(items).unwrap();
        let places: Vec<_> =
            found.references.iter().map(|found| (found.position, found.id.as_str())).collect();
        assert_eq!((found.items, places), (4, vec![(1, "a"), (3, "b")]));
        assert_eq!(&items[found.references[0].span.clone()], r#"{"type":"item_reference","id":"a"}"#);
        assert!(found.has_compaction);
        assert_eq!(item_ids(items.as_bytes(), 5).len(), 3);
    }

    #[test]
    fn reasoning_without_its_content_may_stand_for_a_stored_item() {
        let items = r#"[{"type":"reasoning","id":"a","summary":[]},
            {"type":"reasoning","id":"b","encrypted_content":null,"content":[]},
            {"type":"reasoning","id":"c","encrypted_content":"x"},
            {"type":"reasoning","id":"d","content":[{"type":"reasoning_text","text":"x"}]},
            {"type":"reasoning","id":""},{"type":"reasoning"},{"type":"message","id":"e"},
            {"type":"compaction","id":"f","encrypted_content":"y"},{"type":"compaction","id":"g"}]"#;
        let found = scan(items).unwrap();
        let sealed: Vec<_> =
            found.sealed.iter().map(|(position, span)| (*position, &items[span.clone()])).collect();
        let reasoning = r#"{"type":"reasoning","id":"c","encrypted_content":"x"}"#;
        let compaction = r#"{"type":"compaction","id":"f","encrypted_content":"y"}"#;
        assert_eq!(sealed, [(2, reasoning), (7, compaction)]);
        let ids: Vec<_> =
            found.references.iter().map(|found| (found.id.as_str(), found.is_partial)).collect();
        assert_eq!(ids, [("a", true), ("b", true)]);
    }

    #[test]
    fn a_reference_without_a_usable_id_is_refused() {
        for (items, code, param) in [
            (r#"[1,{"type":"item_reference"}]"#, "missing_required_parameter", "input[1].id"),
            (r#"[{"type":"item_reference","id":null}]"#, "missing_required_parameter", "input[0].id"),
            (r#"[{"type":"item_reference","id":7}]"#, "invalid_type", "input[0].id"),
            (r#"[{"type":"item_reference","ID":"x"}]"#, "unknown_parameter", "input[0].ID"),
            (r#"[{"Type":"item_reference","id":"x","status":null}]"#, "unknown_parameter", "input[0].Type"),
        ] {
            let (got, got_param, _) = refused(items);
            assert_eq!((got.as_str(), got_param.as_str()), (code, param), "{items}");
        }
    }

    #[test]
    fn items_and_references_have_a_limit_that_the_error_states() {
        let many = |item: &str, count: usize| format!("[{}]", vec![item; count].join(","));
        assert_eq!(scan(&many("1", MAX_ITEMS)).unwrap().items, MAX_ITEMS);
        let (code, param, message) = refused(&many("1", MAX_ITEMS + 3));
        assert_eq!((code.as_str(), param.as_str()), ("array_above_max_length", "input"));
        assert!(message.contains("at most 100000 items, but got 100003"), "{message}");
        let reference = r#"{"id":"a"}"#;
        assert_eq!(scan(&many(reference, MAX_REFERENCES)).unwrap().references.len(), MAX_REFERENCES);
        let (_, _, message) = refused(&many(reference, MAX_REFERENCES + 1));
        assert!(message.contains("at most 10000 item references, but got 10001"), "{message}");
    }
}
