//! Replay: a turn's items as bytes that are ready to be sent in the input of later turns.

use std::ops::Range;

use bytes::Bytes;

use crate::item::{self, IdSpans, Sealed};
use crate::json::{self, Malformed};

/// The items of one turn, input and then output, joined by commas.
///
/// The bytes hold every item as it was sent or received. The ids of output items are only valid at the upstream that created
/// them. Their ranges are stored beside the bytes, so that they can be left out without copying. So are the ranges of
/// items that only some accounts can read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Segment {
    bytes: Bytes,
    /// The `id` members of output items, in order, each including the comma that must be removed with it.
    ids: Box<[Range<u32>]>,
    /// The items that only some accounts can read, in order.
    sealed: Box<[(Range<u32>, Sealed)]>,
}

/// Whether replayed output items are sent with their ids.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ReplayIds {
    #[default]
    Drop,
    Keep,
}

/// How an account gets the summaries of reasoning items whose encrypted content it cannot read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Summaries {
    #[default]
    AsMessages,
    /// In their items, for a dialect that takes only what is readable in them.
    AsItems,
}

/// The items of a turn that were left out for an account that cannot read them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Omitted {
    /// Encrypted reasoning items; what is readable in them may be sent.
    pub reasoning: u32,
    /// Compaction items, instead of which the items before them are sent.
    pub compactions: u32,
    /// Compaction items at the start of the turn: the items that they replace can only be in earlier turns.
    pub leading_compactions: u32,
}

/// A segment to which items are added.
#[derive(Default)]
struct Building {
    bytes: Vec<u8>,
    ids: Vec<Range<u32>>,
    sealed: Vec<(Range<u32>, Sealed)>,
}

// === impl Building ===

impl Building {
    /// Adds the items of an array. `is_upstreams` says of each in turn whether its ids come from an upstream.
    fn add(&mut self, array: &[u8], mut is_upstreams: impl FnMut() -> bool) -> Result<(), Malformed> {
        let mut elements = json::elements(array);
        loop {
            let (mut kind, mut spans) = (None, IdSpans::default());
            let (finds_ids, known_ids) = (is_upstreams(), self.ids.len());
            let element = elements.next_showing(|member| {
                if member.is(array, "type") {
                    kind = Some(&array[member.value.clone()]);
                }
                if finds_ids {
                    self.ids.extend(spans.next(array, member).map(offsets));
                }
            });
            let Some(element) = element.transpose()? else { return Ok(()) };
            self.ids.extend(spans.end().map(offsets));
            if finds_ids && item::is_named_by_id(kind) {
                self.ids.truncate(known_ids);
            }
            if !self.bytes.is_empty() {
                self.bytes.push(b',');
            }
            let (from, to) = (offset(element.start), offset(self.bytes.len()));
            for id in &mut self.ids[known_ids..] {
                *id = id.start - from + to..id.end - from + to;
            }
            let item = &array[element];
            if let Some(kind) = item::sealed_by_type(item, kind) {
                self.sealed.push((to..to + offset(item.len()), kind));
            }
            self.bytes.extend_from_slice(item);
        }
    }
}

// === impl Segment ===

impl Segment {
    /// Joins the turn's own items. `referenced` are the positions of input items whose ids come from an upstream, in
    /// ascending order.
    pub fn build(input: &[u8], referenced: &[u32], output: &[u8]) -> Result<Self, Malformed> {
        let mut building = Building::default();
        building.bytes.reserve_exact(input.len() + output.len());
        let (mut referenced, mut positions) = (referenced.iter().copied().peekable(), 0..);
        building.add(input, || {
            let position = positions.next();
            referenced.next_if(|referenced| Some(*referenced) == position).is_some()
        })?;
        building.add(output, || true)?;
        let Building { bytes, ids, sealed } = building;
        Ok(Self { bytes: bytes.into(), ids: ids.into(), sealed: sealed.into() })
    }

    /// Copies the turn without the items at these positions, in ascending order.
    pub fn without(&self, positions: &[u32]) -> Self {
        let mut array = Vec::with_capacity(self.bytes.len() + 2);
        array.push(b'[');
        array.extend_from_slice(&self.bytes);
        array.push(b']');
        let mut bytes = Vec::with_capacity(self.bytes.len());
        let (mut ids, mut sealed) = (Vec::new(), Vec::new());
        let (mut old_ids, mut old_sealed) = (self.ids.iter().peekable(), self.sealed.iter().peekable());
        for (position, range) in (0_u32..).zip(json::elements(&array).map_while(Result::ok)) {
            let (start, end) = (offset(range.start - 1), offset(range.end - 1));
            let is_left_out = positions.binary_search(&position).is_ok();
            if !is_left_out && !bytes.is_empty() {
                bytes.push(b',');
            }
            let to = offset(bytes.len());
            let moved = |span: &Range<u32>| span.start - start + to..span.end - start + to;
            while let Some(id) = old_ids.next_if(|id| id.start < end) {
                ids.extend((!is_left_out).then(|| moved(id)));
            }
            while let Some((span, kind)) = old_sealed.next_if(|(span, _)| span.start < end) {
                sealed.extend((!is_left_out).then(|| (moved(span), *kind)));
            }
            if !is_left_out {
                bytes.extend_from_slice(&array[range]);
            }
        }
        Self { bytes: bytes.into(), ids: ids.into(), sealed: sealed.into() }
    }

    /// Whether the context starts in this turn for accounts that can read it, so that its ancestors are not replayed.
    pub fn starts_context(&self) -> bool {
        self.context_start().is_some()
    }

    /// The start of the last compaction item: everything before it is not replayed.
    fn context_start(&self) -> Option<u32> {
        let last = self.sealed.iter().rfind(|(_, kind)| *kind == Sealed::Compaction);
        last.map(|(span, _)| span.start)
    }

    /// The items, joined by commas.
    pub fn items(&self) -> &[u8] {
        &self.bytes
    }

    /// The memory that this uses.
    pub fn size_bytes(&self) -> usize {
        self.bytes.len() + size_of_val(&*self.ids) + size_of_val(&*self.sealed)
    }

    /// Appends the items for an account that can read the turn, without copying them.
    pub fn parts(&self, replay_ids: ReplayIds, out: &mut Vec<Bytes>) {
        let from = self.context_start().unwrap_or(0) as usize;
        self.slices(from..self.bytes.len(), replay_ids, out);
    }

    /// Like [`parts`](Self::parts), for an account of the Responses API: reasoning of chat completions becomes its summary.
    pub fn accepted_parts(&self, replay_ids: ReplayIds, out: &mut Vec<Bytes>) -> Omitted {
        let from = self.context_start().unwrap_or(0);
        let is_left_out =
            |(span, kind): &&(Range<u32>, Sealed)| *kind == Sealed::ChatReasoning && span.start >= from;
        let sealed = self.sealed.iter().filter(is_left_out);
        self.parts_without(from as usize, sealed, replay_ids, Summaries::AsMessages, out)
    }

    /// Like [`parts`](Self::parts), for an account that cannot read sealed items: reasoning becomes its summary, and a compaction
    /// item the items before it.
    pub fn readable_parts(
        &self,
        replay_ids: ReplayIds,
        summaries: Summaries,
        out: &mut Vec<Bytes>,
    ) -> Omitted {
        self.parts_without(0, self.sealed.iter(), replay_ids, summaries, out)
    }

    /// Appends the items from this place on, but for those that are given in order.
    fn parts_without<'a>(
        &self,
        mut from: usize,
        sealed: impl Iterator<Item = &'a (Range<u32>, Sealed)>,
        replay_ids: ReplayIds,
        summaries: Summaries,
        out: &mut Vec<Bytes>,
    ) -> Omitted {
        let mut omitted = Omitted::default();
        let mut is_first = true;
        let mut separate = |out: &mut Vec<Bytes>| {
            if !std::mem::take(&mut is_first) {
                out.push(Bytes::from_static(b","));
            }
        };
        for (span, kind) in sealed {
            let (start, end) = (span.start as usize, span.end as usize);
            if from < start {
                separate(out);
                self.slices(from..start - 1, replay_ids, out);
            }
            from = end + 1;
            match kind {
                Sealed::Compaction if start == 0 => omitted.leading_compactions += 1,
                Sealed::Compaction => omitted.compactions += 1,
                Sealed::Reasoning | Sealed::ChatReasoning if summaries == Summaries::AsItems => {
                    omitted.reasoning += u32::from(item::is_encrypted(&self.bytes[start..end]));
                    separate(out);
                    self.slices(start..end, replay_ids, out);
                }
                Sealed::Reasoning | Sealed::ChatReasoning => {
                    omitted.reasoning += 1;
                    if let Some(summary) = item::summary_message(&self.bytes[start..end]) {
                        separate(out);
                        out.push(summary.into());
                    }
                }
            }
        }
        if from < self.bytes.len() {
            separate(out);
            self.slices(from..self.bytes.len(), replay_ids, out);
        }
        omitted
    }

    /// Appends whole items, with or without the ids of output items.
    fn slices(&self, range: Range<usize>, replay_ids: ReplayIds, out: &mut Vec<Bytes>) {
        let mut from = range.start;
        if replay_ids == ReplayIds::Drop {
            let first = self.ids.partition_point(|id| (id.start as usize) < from);
            for id in self.ids[first..].iter().take_while(|id| id.end as usize <= range.end) {
                out.push(self.bytes.slice(from..id.start as usize));
                from = id.end as usize;
            }
        }
        if from < range.end {
            out.push(self.bytes.slice(from..range.end));
        }
    }
}

impl std::ops::AddAssign for Omitted {
    fn add_assign(&mut self, other: Self) {
        self.reasoning += other.reasoning;
        self.compactions += other.compactions;
        self.leading_compactions += other.leading_compactions;
    }
}

fn offsets(range: Range<usize>) -> Range<u32> {
    offset(range.start)..offset(range.end)
}

/// Limits on bodies keep a turn far below 4 GiB.
fn offset(n: usize) -> u32 {
    u32::try_from(n).expect("a turn is smaller than 4 GiB")
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::{Strategy, any, prop_assert_eq, proptest};
    use serde_json::{Value, json};

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
    fn an_input_of_only_references_takes_about_as_long_as_any_other() {
        const ITEMS: u32 = 100_000;
        let input = format!("[{}]", vec![r#"{"id":"a"}"#; ITEMS as usize].join(","));
        let build = |referenced: &[u32]| {
            let started = Instant::now();
            let segment = Segment::build(input.as_bytes(), referenced, b"[]").unwrap();
            (segment.ids.len(), started.elapsed())
        };
        let (none, without) = build(&[]);
        let (all, with) = build(&Vec::from_iter(0..ITEMS));
        assert_eq!((none, all), (0, ITEMS as usize));
        assert!(with < without * 10 + Duration::from_secs(1), "{with:?}, and {without:?} without references");
    }

    #[test]
    fn a_turn_of_only_sealed_items_is_rendered_about_as_fast_as_built() {
        let item = r#"{"id":"r","type":"reasoning","encrypted_content":"x"},{"id":"m"}"#;
        let output = format!("[{}]", [item; 50_000].join(","));
        let started = Instant::now();
        let segment = Segment::build(b"[]", &[], output.as_bytes()).unwrap();
        let building = started.elapsed();
        let started = Instant::now();
        let (text, omitted) = readable(&segment, ReplayIds::Drop);
        let rendering = started.elapsed();
        assert_eq!((text, omitted.reasoning), ([r#"{}"#; 50_000].join(","), 50_000));
        assert!(rendering < building * 10 + Duration::from_secs(1), "{rendering:?}, built in {building:?}");
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

    fn readable(segment: &Segment, replay_ids: ReplayIds) -> (String, Omitted) {
        let mut parts = Vec::new();
        let omitted = segment.readable_parts(replay_ids, Summaries::AsMessages, &mut parts);
        (String::from_utf8(parts.concat()).unwrap(), omitted)
    }

    #[test]
    fn unreadable_items_are_replaced_by_a_summary_or_by_earlier_items() {
        let segment = Segment::build(
            br#"[{"a":1},{"type":"compaction","encrypted_content":"x"},{"b":2}]"#,
            &[],
            br#"[{"id":"rs_1","type":"reasoning","summary":[{"type":"summary_text","text":"one \u00e9\""},{"text":""},{"text":"two"}],"encrypted_content":"x"},
                {"id":"rs_2","type":"reasoning","summary":[],"encrypted_content":"x"},
                {"id":"msg","c":3},
                {"id":"rs_3","type":"reasoning","summary":[],"encrypted_content":"x"}]"#,
        )
        .unwrap();
        let summary = r#"{"type":"message","role":"assistant","content":"one \u00e9\"\n\ntwo"}"#;
        let omitted = Omitted { reasoning: 3, compactions: 1, ..Omitted::default() };
        assert_eq!(
            readable(&segment, ReplayIds::Drop),
            (format!(r#"{{"a":1}},{{"b":2}},{summary},{{"c":3}}"#), omitted)
        );
        assert_eq!(
            readable(&segment, ReplayIds::Keep),
            (format!(r#"{{"a":1}},{{"b":2}},{summary},{{"id":"msg","c":3}}"#), omitted)
        );
    }

    #[test]
    fn unencrypted_reasoning_is_sent_to_every_account() {
        let items = br#"[{"type":"reasoning","id":"r","content":[{"type":"reasoning_text","text":"t"}]},{"type":"reasoning","encrypted_content":null},{"type":"reasoning","encrypted_content":""}]"#;
        let segment = Segment::build(items, &[], b"[]").unwrap();
        assert_eq!(
            readable(&segment, ReplayIds::Keep),
            (joined(&segment, ReplayIds::Keep), Omitted::default())
        );
    }

    #[test]
    fn a_dialect_that_takes_what_is_readable_gets_whole_reasoning_items() {
        let output = br#"[{"id":"rs_1","type":"reasoning","summary":[],"encrypted_content":"x"},
            {"id":"rs_00000000000000000000000000000000001f","type":"reasoning","content":[]},{"id":"m","c":3}]"#;
        let segment = Segment::build(br#"[{"a":1}]"#, &[], output).unwrap();
        let mut parts = Vec::new();
        let omitted = segment.readable_parts(ReplayIds::Drop, Summaries::AsItems, &mut parts);
        assert_eq!(
            String::from_utf8(parts.concat()).unwrap(),
            r#"{"a":1},{"type":"reasoning","summary":[],"encrypted_content":"x"},{"type":"reasoning","content":[]},{"c":3}"#
        );
        assert_eq!(omitted, Omitted { reasoning: 1, ..Omitted::default() });
    }

    #[test]
    fn a_turn_of_only_unreadable_items_contributes_nothing() {
        let sealed = br#"[{"type":"compaction"},{"type":"reasoning","encrypted_content":"x"}]"#;
        let segment = Segment::build(b"[]", &[], sealed).unwrap();
        assert_eq!(
            readable(&segment, ReplayIds::Drop),
            (String::new(), Omitted { reasoning: 1, leading_compactions: 1, ..Omitted::default() })
        );
    }

    fn items() -> impl Strategy<Value = Vec<Value>> {
        let text = || "[a-z\u{e9}\"\\\\ \n]{0,6}";
        let item = (0..6_u8, text(), proptest::option::of(text())).prop_map(|(kind, text, id)| {
            let mut item = match kind {
                0 => json!({"type": "compaction", "encrypted_content": text}),
                1 => json!({"type": "reasoning", "encrypted_content": "x", "summary": [{"text": text}]}),
                2 => json!({"type": "reasoning", "encrypted_content": "x", "summary": [{"text": text}, {"text": "b"}]}),
                3 => json!({"type": "reasoning", "encrypted_content": text, "summary": []}),
                4 => json!({"type": "reasoning", "content": [{"text": text}]}),
                _ => json!({"type": "message", "content": [{"id": text, "type": "compaction"}]}),
            };
            if let Some(id) = id {
                item["id"] = json!(id);
            }
            item
        });
        proptest::collection::vec(item, 0..7)
    }

    /// The expected rendering for an account that cannot read sealed items, computed from parsed items.
    fn model(item: &Value) -> Option<Value> {
        let is_encrypted = item["encrypted_content"].as_str().is_some_and(|content| !content.is_empty());
        match item["type"].as_str().unwrap() {
            "compaction" => None,
            "reasoning" if is_encrypted => {
                let summary = item["summary"].as_array().unwrap();
                let texts: Vec<_> = summary
                    .iter()
                    .filter_map(|part| part["text"].as_str())
                    .filter(|text| !text.is_empty())
                    .collect();
                let content = texts.join("\n\n");
                let message = json!({"type": "message", "role": "assistant", "content": content});
                (!content.is_empty()).then_some(message)
            }
            _ => Some(item.clone()),
        }
    }

    proptest! {
        #[test]
        fn a_turn_without_some_items_is_as_if_it_never_had_them(
            input in items(), output in items(), is_kept in proptest::collection::vec(any::<bool>(), 14),
        ) {
            let build = |input: &[Value], output: &[Value]| {
                let text = |items: &[Value]| serde_json::to_string(items).unwrap();
                Segment::build(text(input).as_bytes(), &[], text(output).as_bytes()).unwrap()
            };
            let kept = |items: &[Value], is_kept: &[bool]| -> Vec<Value> {
                items.iter().zip(is_kept).filter(|(_, kept)| **kept).map(|(item, _)| item.clone()).collect()
            };
            let left_out: Vec<u32> =
                (0..14).filter(|n| !is_kept[*n as usize] && (*n as usize) < input.len() + output.len()).collect();
            let expected = build(&kept(&input, &is_kept), &kept(&output, &is_kept[input.len()..]));
            prop_assert_eq!(build(&input, &output).without(&left_out), expected);
        }

        #[test]
        fn any_turn_is_rendered_as_its_parsed_items_say(input in items(), output in items()) {
            let text = |items: &[Value]| serde_json::to_string(items).unwrap();
            let segment = Segment::build(text(&input).as_bytes(), &[], text(&output).as_bytes()).unwrap();
            let parsed = |joined: String| -> Vec<Value> { serde_json::from_str(&format!("[{joined}]")).unwrap() };
            let all: Vec<Value> = input.iter().chain(&output).cloned().collect();
            let start = all.iter().rposition(|item| item["type"] == "compaction").unwrap_or(0);
            prop_assert_eq!(parsed(joined(&segment, ReplayIds::Keep)), &all[start..]);
            let (rendered, _) = readable(&segment, ReplayIds::Keep);
            prop_assert_eq!(parsed(rendered), all.iter().filter_map(model).collect::<Vec<_>>());
            let without_ids = |items: &[Value]| -> Vec<Value> {
                items
                    .iter()
                    .cloned()
                    .map(|mut item| {
                        item.as_object_mut().unwrap().remove("id");
                        item
                    })
                    .collect()
            };
            let dropped: Vec<Value> =
                input.iter().cloned().chain(without_ids(&output)).filter_map(|item| model(&item)).collect();
            prop_assert_eq!(parsed(readable(&segment, ReplayIds::Drop).0), dropped);
        }
    }

    #[test]
    fn a_turn_without_items_contributes_nothing() {
        let segment = Segment::build(b"[]", &[], b" [ ] ").unwrap();
        assert_eq!(joined(&segment, ReplayIds::Drop), "");
        assert_eq!(segment.size_bytes(), 0);
    }
}
