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
    /// Where the output begins.
    output: u32,
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
    /// Compaction items that replace items of earlier turns only: those of the input, and one at the start of the turn.
    pub compactions_of_earlier: u32,
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
            if finds_ids && item::links_by_id(&array[element.clone()], kind) {
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
            if let Some(kind) = item::sealed_in_history(item, kind, !finds_ids) {
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
        let start_of_output = offset(building.bytes.len());
        building.add(output, || true)?;
        let Building { bytes, ids, sealed } = building;
        Ok(Self { bytes: bytes.into(), output: start_of_output, ids: ids.into(), sealed: sealed.into() })
    }

    /// The items of a new turn: it may ask for a compaction.
    pub fn of_request(mut self) -> Self {
        let is_kept = |(_, kind): &(Range<u32>, Sealed)| *kind != Sealed::CompactionTrigger;
        self.sealed = self.sealed.into_iter().filter(is_kept).collect();
        self
    }

    /// Copies the turn without the items at these positions, in ascending order.
    pub fn without(&self, positions: &[u32]) -> Self {
        let mut array = Vec::with_capacity(self.bytes.len() + 2);
        array.push(b'[');
        array.extend_from_slice(&self.bytes);
        array.push(b']');
        let mut bytes = Vec::with_capacity(self.bytes.len());
        let (mut ids, mut sealed, mut output) = (Vec::new(), Vec::new(), 0);
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
            if end <= self.output {
                output = offset(bytes.len());
            }
        }
        Self { bytes: bytes.into(), output, ids: ids.into(), sealed: sealed.into() }
    }

    /// Whether the context starts in this turn for accounts that can read it, so that its ancestors are not replayed.
    pub fn starts_context(&self) -> bool {
        self.context_start().is_some()
    }

    /// The first byte that is replayed. A model's compaction stands for all that came before it. A client sends the items beside it
    /// that a compaction keeps: the whole input starts the context.
    fn context_start(&self) -> Option<u32> {
        let last = self.sealed.iter().rfind(|(_, kind)| *kind == Sealed::Compaction);
        last.map(|(span, _)| if self.is_of_input(span) { 0 } else { span.start })
    }

    fn is_of_input(&self, span: &Range<u32>) -> bool {
        span.start < self.output
    }

    /// The items, joined by commas.
    pub fn items(&self) -> &[u8] {
        &self.bytes
    }

    /// The memory that this uses.
    pub fn size_bytes(&self) -> usize {
        self.bytes.len() + size_of_val(&*self.ids) + size_of_val(&*self.sealed)
    }

    /// Appends the items for an account that can read the turn, without copying them. What asked for a compaction has been answered.
    pub fn parts(&self, replay_ids: ReplayIds, out: &mut Vec<Bytes>) {
        let from = self.context_start().unwrap_or(0);
        let is_left_out =
            |(span, kind): &&(Range<u32>, Sealed)| *kind == Sealed::CompactionTrigger && span.start >= from;
        let triggers = self.sealed.iter().filter(is_left_out);
        self.parts_without(from as usize, triggers, replay_ids, Summaries::AsItems, out);
    }

    /// Like [`parts`](Self::parts), for an account of the Responses API: reasoning of chat completions becomes its summary, and so does
    /// bare reasoning whose id is left out.
    pub fn accepted_parts(&self, replay_ids: ReplayIds, out: &mut Vec<Bytes>) -> Omitted {
        let from = self.context_start().unwrap_or(0);
        let is_left_out = |(span, kind): &&(Range<u32>, Sealed)| match kind {
            Sealed::ChatReasoning | Sealed::CompactionTrigger => span.start >= from,
            Sealed::BareReasoning => span.start >= from && replay_ids == ReplayIds::Drop,
            Sealed::Reasoning | Sealed::Compaction => false,
        };
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
                Sealed::Compaction if start == 0 || self.is_of_input(span) => {
                    omitted.compactions_of_earlier += 1;
                }
                Sealed::Compaction => omitted.compactions += 1,
                Sealed::CompactionTrigger => {}
                _ if summaries == Summaries::AsItems => {
                    omitted.reasoning += u32::from(item::is_encrypted(&self.bytes[start..end]));
                    separate(out);
                    self.slices(start..end, replay_ids, out);
                }
                _ => {
                    omitted.reasoning += u32::from(*kind != Sealed::BareReasoning);
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
        self.compactions_of_earlier += other.compactions_of_earlier;
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
mod tests;
