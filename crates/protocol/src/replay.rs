//! What a turn contributes to the input of the turns that continue it, as bytes ready to be sent.

use std::ops::Range;

use bytes::Bytes;

use crate::item;
use crate::json::{self, Malformed};

/// The items of one turn, input and then output, joined by commas.
///
/// The bytes hold every item as it was sent or received. The ids of output items name things in a store that another
/// upstream does not have; where they stand is remembered beside the bytes, so that they can be left out without
/// copying anything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Segment {
    bytes: Bytes,
    /// The `id` members of output items, in order, each with the comma that goes with it.
    ids: Box<[Range<u32>]>,
    /// Where the last compaction item begins: everything before it is not replayed.
    context_start: Option<u32>,
}

/// Whether the ids of replayed output items go upstream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ReplayIds {
    #[default]
    Drop,
    Keep,
}

// === impl Segment ===

impl Segment {
    /// Joins the turn's own items. `referenced` are the positions of input items whose ids are an upstream's.
    pub fn build(input: &[u8], referenced: &[u32], output: &[u8]) -> Result<Self, Malformed> {
        let mut bytes = Vec::with_capacity(input.len() + output.len());
        let mut ids = Vec::new();
        let mut context_start = None;
        let mut append = |item: &[u8], ids_are_upstreams: bool| {
            if !bytes.is_empty() {
                bytes.push(b',');
            }
            let start = offset(bytes.len());
            if ids_are_upstreams && let Some(id) = item::id_span(item) {
                ids.push(start + offset(id.start)..start + offset(id.end));
            }
            if item::is_compaction(item) {
                context_start = Some(start);
            }
            bytes.extend_from_slice(item);
        };
        for (position, range) in json::elements(input).enumerate() {
            let upstreams = referenced.iter().any(|&r| r as usize == position);
            append(&input[range?], upstreams);
        }
        for range in json::elements(output) {
            append(&output[range?], true);
        }
        Ok(Self { bytes: bytes.into(), ids: ids.into(), context_start })
    }

    /// Whether the context starts in this turn, so that its ancestors are not replayed.
    pub fn starts_context(&self) -> bool {
        self.context_start.is_some()
    }

    /// How much memory this holds.
    pub fn size_bytes(&self) -> usize {
        self.bytes.len() + std::mem::size_of_val(&*self.ids)
    }

    /// Appends what is to be sent upstream, without copying it.
    pub fn parts(&self, replay_ids: ReplayIds, out: &mut Vec<Bytes>) {
        let mut from = self.context_start.unwrap_or(0) as usize;
        if replay_ids == ReplayIds::Drop {
            for id in &self.ids {
                let (start, end) = (id.start as usize, id.end as usize);
                if start >= from {
                    out.push(self.bytes.slice(from..start));
                    from = end;
                }
            }
        }
        if from < self.bytes.len() {
            out.push(self.bytes.slice(from..));
        }
    }
}

/// Limits on bodies keep a turn far below 4 GiB.
fn offset(n: usize) -> u32 {
    u32::try_from(n).expect("a turn is smaller than 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(segment: &Segment, replay_ids: ReplayIds) -> String {
        let mut parts = Vec::new();
        segment.parts(replay_ids, &mut parts);
        String::from_utf8(parts.concat()).unwrap()
    }

    #[test]
    fn ids_of_output_items_are_left_out_and_those_of_input_items_stay() {
        let segment = Segment::build(
            br#"[ {"id":"a","n":1e400} , {"id" : "b" } ]"#,
            &[1],
            br#"[{"id":"c","x":"\u00e9"},{"y":1, "id":"d"},{"z":[{"id":"kept"}]}]"#,
        )
        .unwrap();
        assert_eq!(
            joined(&segment, ReplayIds::Drop),
            r#"{"id":"a","n":1e400},{ },{"x":"\u00e9"},{"y":1},{"z":[{"id":"kept"}]}"#
        );
        assert_eq!(
            joined(&segment, ReplayIds::Keep),
            r#"{"id":"a","n":1e400},{"id" : "b" },{"id":"c","x":"\u00e9"},{"y":1, "id":"d"},{"z":[{"id":"kept"}]}"#
        );
    }

    #[test]
    fn items_before_the_last_compaction_item_are_not_replayed() {
        let segment = Segment::build(
            br#"[{"type":"compaction","id":"1"},{"a":1}]"#,
            &[],
            br#"[{"id":"x","a":2},{"id":"2","type":"compaction"},{"id":"y","a":3}]"#,
        )
        .unwrap();
        assert!(segment.starts_context());
        assert_eq!(joined(&segment, ReplayIds::Drop), r#"{"type":"compaction"},{"a":3}"#);
        assert_eq!(joined(&segment, ReplayIds::Keep), r#"{"id":"2","type":"compaction"},{"id":"y","a":3}"#);
    }

    #[test]
    fn a_turn_without_items_contributes_nothing() {
        let segment = Segment::build(b"[]", &[], b" [ ] ").unwrap();
        assert_eq!(joined(&segment, ReplayIds::Drop), "");
        assert_eq!(segment.size_bytes(), 0);
    }
}
