//! Replay: the segments of stored turns are the arrays of their items, one after another.

use antiphon_protocol::replay::{Omitted, ReplayIds, Segment, Summaries};
use antiphon_protocol::request::push_turn;
use bytes::Bytes;
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// A turn as the store has it.
struct Turn<'a> {
    input: &'a [u8],
    output: &'a [u8],
    /// Input items whose ids come from an upstream: every second one.
    referenced: Vec<u32>,
    /// The input items, then those of the output.
    items: Vec<Item<'a>>,
    input_items: usize,
}

struct Item<'a> {
    raw: &'a str,
    value: Value,
    has_upstream_id: bool,
}

/// Each line is an array of items: the input of a turn, then its output, then the input of the next turn. Turns whose arrays
/// are not valid can't be stored, and are skipped.
pub fn check(lines: &[u8]) {
    let lines: Vec<&[u8]> = lines.split(|&byte| byte == b'\n').collect();
    let turns = lines.chunks_exact(2).filter_map(|pair| Turn::parse(pair[0], pair[1]));
    let (mut chain, mut expected) = (Vec::new(), Vec::new());
    for turn in turns {
        let segment =
            Segment::build(turn.input, &turn.referenced, turn.output).expect("valid arrays are joined");
        turn.check(&segment);
        let is_first = chain.is_empty();
        push_turn(&mut chain, parts(&segment, ReplayIds::Keep), is_first);
        expected.extend(turn.context().iter().map(|item| item.raw));
    }
    assert_eq!(texts(&chain.concat()), expected);
}

impl<'a> Turn<'a> {
    fn parse(input: &'a [u8], output: &'a [u8]) -> Option<Self> {
        let items = |text| serde_json::from_slice::<Vec<&'a RawValue>>(text).ok();
        let (own, made) = (items(input)?, items(output)?);
        let referenced: Vec<u32> = (0..u32::try_from(own.len()).ok()?).step_by(2).collect();
        let has_upstream_id = |n: usize| n >= own.len() || n.is_multiple_of(2);
        let items = own.iter().chain(&made).enumerate().map(|(n, raw)| {
            let value = serde_json::from_str(raw.get()).ok()?;
            Some(Item { raw: raw.get(), value, has_upstream_id: has_upstream_id(n) })
        });
        let items = items.collect::<Option<_>>()?;
        Some(Self { input, output, referenced, items, input_items: own.len() })
    }

    /// What is replayed: the items from the last compaction of the output on, or all, without what asked for a compaction.
    fn context(&self) -> Vec<&Item<'a>> {
        let (input, output) = self.items.split_at(self.input_items);
        let start = output.iter().rposition(Item::is_compaction).map_or(0, |start| input.len() + start);
        self.items[start..].iter().filter(|item| !item.is_trigger()).collect()
    }

    fn check(&self, segment: &Segment) {
        let raw: Vec<&str> = self.items.iter().map(|item| item.raw).collect();
        assert_eq!(texts(segment.items()), raw);
        assert_eq!(segment.starts_context(), self.items.iter().any(Item::is_compaction));
        assert!(segment.size_bytes() >= segment.items().len());

        let kept: Vec<&str> = self.context().iter().map(|item| item.raw).collect();
        assert_eq!(texts(&parts(segment, ReplayIds::Keep).concat()), kept);
        let dropped: Vec<Value> = self.context().into_iter().map(Item::without_id).collect();
        assert_eq!(values(&parts(segment, ReplayIds::Drop).concat()), dropped);
        self.check_readable(segment);
    }

    /// An account that can't read sealed items gets what stands for them.
    fn check_readable(&self, segment: &Segment) {
        let mut omitted = Omitted::default();
        for (n, item) in self.items.iter().enumerate() {
            if item.is_compaction() && (n == 0 || n < self.input_items) {
                omitted.compactions_of_earlier += 1;
            } else if item.is_compaction() {
                omitted.compactions += 1;
            } else if item.is_sealed_reasoning() {
                omitted.reasoning += 1;
            }
        }
        for ids in [ReplayIds::Keep, ReplayIds::Drop] {
            let mut parts = Vec::new();
            assert_eq!(segment.readable_parts(ids, Summaries::AsMessages, &mut parts), omitted);
            let value = |item: &Item<'a>| match ids {
                ReplayIds::Keep => item.value.clone(),
                ReplayIds::Drop => item.without_id(),
            };
            let expected = self.items.iter().filter_map(|item| item.readable(value(item)));
            assert_eq!(values(&parts.concat()), expected.collect::<Vec<_>>());
        }
    }
}

impl Item<'_> {
    fn text(&self, name: &str) -> Option<&str> {
        self.value.get(name).and_then(Value::as_str)
    }

    fn is_compaction(&self) -> bool {
        matches!(self.text("type"), Some("compaction" | "compaction_summary"))
    }

    fn is_trigger(&self) -> bool {
        self.text("type") == Some("compaction_trigger")
    }

    fn is_sealed_reasoning(&self) -> bool {
        let is_encrypted = self.text("encrypted_content").is_some_and(|content| !content.is_empty());
        self.text("type") == Some("reasoning") && is_encrypted
    }

    fn is_bare_reasoning(&self) -> bool {
        let has_content =
            self.value.get("content").and_then(Value::as_array).is_some_and(|parts| !parts.is_empty());
        self.text("type") == Some("reasoning")
            && self.has_upstream_id
            && !self.is_sealed_reasoning()
            && !has_content
    }

    fn without_id(&self) -> Value {
        let mut value = self.value.clone();
        if let Some(members) = value.as_object_mut().filter(|_| self.has_upstream_id) {
            members.remove("id");
        }
        value
    }

    /// `value` is the item with or without its id.
    fn readable(&self, value: Value) -> Option<Value> {
        if self.is_compaction() || self.is_trigger() {
            return None;
        }
        if !self.is_sealed_reasoning() && !self.is_bare_reasoning() {
            return Some(value);
        }
        let text = |part: &Value| part.get("text").and_then(Value::as_str).map(str::to_owned);
        let texts: Option<Vec<String>> =
            self.value.get("summary").and_then(Value::as_array)?.iter().map(text).collect();
        let texts: Vec<String> = texts?.into_iter().filter(|text| !text.is_empty()).collect();
        let message = json!({"type": "message", "role": "assistant", "content": texts.join("\n\n")});
        (!texts.is_empty()).then_some(message)
    }
}

fn parts(segment: &Segment, replay_ids: ReplayIds) -> Vec<Bytes> {
    let mut parts = Vec::new();
    segment.parts(replay_ids, &mut parts);
    parts
}

/// The texts of items that are joined by commas.
fn texts(joined: &[u8]) -> Vec<String> {
    let array = [b"[", joined, b"]"].concat();
    let items: Vec<Box<RawValue>> = serde_json::from_slice(&array).expect("joined items make an array");
    items.iter().map(|item| item.get().to_owned()).collect()
}

fn values(joined: &[u8]) -> Vec<Value> {
    let array = [b"[", joined, b"]"].concat();
    serde_json::from_slice(&array).expect("joined items make an array")
}
