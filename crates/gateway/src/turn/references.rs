//! Item references: replaces each of them by the stored item. Reasoning that a client sends back without its encrypted content
//! stands for the stored item as well.
//!
//! A stored item may be large and referenced often. What goes upstream shares its bytes, however often it is referenced. Only
//! the copy that is stored repeats them. Memory for that is reserved before anything is loaded.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use antiphon_errors::quoted;
use antiphon_protocol::id::ItemId;
use antiphon_protocol::item::{self, Sealed};
use antiphon_protocol::json::{self, Malformed};
use antiphon_protocol::replay::{Omitted, ReplayIds, Segment};
use antiphon_protocol::request::Reference;
use antiphon_runtime::offload::offload_if_long;
use antiphon_store::{FoundItems, IndexedItem, Maker, Timestamp};
use bytes::Bytes;

use super::{Failure, Turn};

/// Memory for this much is reserved first, which is enough for most. Only larger items reserve as much as they may need.
const FIRST_ALLOWANCE: usize = 1 << 20;
/// Who has made sealed items is not asked of more than this: it would take a worker too long.
const MAX_SEALED_BYTES: usize = 4 << 20;
/// How long a turn waits for memory.
const MEMORY_TIMEOUT: Duration = Duration::from_secs(30);

/// A turn's own input items.
pub struct OwnInput {
    /// An array, as the client sent it.
    sent: Bytes,
    /// The items that replace references, and those with an id that only the gateway knows, in order.
    replaced: Vec<Replacement>,
    /// Items with encrypted content that the client sent itself and that can be left out one by one, in order.
    sealed: Vec<(u32, Range<usize>)>,
}

#[derive(Clone)]
struct Replacement {
    /// The index among the items.
    position: u32,
    /// The reference's bytes in the array.
    span: Range<usize>,
    item: Bytes,
    /// The bytes of an output item's id, which is an upstream's; several if it is repeated.
    upstream_ids: Vec<Range<usize>>,
    is_output: bool,
    kind: Option<Sealed>,
    maker: Option<Arc<Maker>>,
    /// Whether it is the client's own item, and stands for itself.
    is_sent: bool,
    /// Whether the item's id leads to this copy from now on.
    is_indexed: bool,
}

impl Turn {
    /// The turn's own items, with references replaced. `has_parent` says whether it continues a chain.
    pub(super) async fn own_input(&mut self, has_parent: bool) -> Result<OwnInput, Failure> {
        let sent = self.facts.create.input.items();
        let references = std::mem::take(&mut self.facts.create.scan.references);
        let derived = std::mem::take(&mut self.facts.create.scan.derived);
        let mut sealed = std::mem::take(&mut self.facts.create.scan.sealed);
        if sealed.iter().map(|(_, span)| span.len()).sum::<usize>() > MAX_SEALED_BYTES {
            sealed.clear();
        }
        if has_parent && self.facts.create.scan.has_compaction {
            // What a compaction stands for takes its place only when all sealed items are left out.
            sealed.retain(|(_, span)| !item::is_compaction(&sent[span.clone()]));
        }
        let own = derived.into_iter().map(|(position, span)| Replacement::of_sent(position, span, &sent));
        let own: Vec<Replacement> = own.collect();
        if references.is_empty() {
            return Ok(OwnInput { sent, replaced: own, sealed });
        }
        let found = self.load_references(&references).await?;
        let found_bytes: usize = found.iter().flatten().map(|found| found.item.len()).sum();
        let size_bytes = sent.len() + found_bytes;
        let renewal =
            self.turns.settings.retention.map(|retention| self.facts.started_at.plus(retention / 2));
        let replace = move || {
            let named = references.into_iter().zip(found);
            let found =
                named.filter_map(|(reference, found)| Some(Replacement::new(reference, found?, renewal)));
            let mut input = OwnInput { sent, replaced: found.chain(own).collect(), sealed };
            input.replaced.sort_by_key(|replaced| replaced.position);
            if input.has_unnamed_reasoning() {
                input.leave_out_ids();
            }
            input
        };
        offload_if_long(size_bytes, replace).await.map_err(|_| Failure::Internal)
    }

    /// Loads the referenced items, in the order of the references. Keeps the memory reserved that the stored copy takes.
    async fn load_references(
        &mut self,
        references: &[Reference],
    ) -> Result<Vec<Option<IndexedItem>>, Failure> {
        let unknown = |reference: &Reference| Failure::ItemNotFound(quoted(&reference.id));
        let ids = references.iter().map(|named| ItemId::new(&named.id).ok_or_else(|| unknown(named)));
        let ids: Vec<ItemId> = ids.collect::<Result<_, _>>()?;
        let own_bytes = self.memory.bytes();
        let settings = &self.turns.settings;
        let limit = settings.max_history_bytes.min(self.memory.max_bytes().saturating_sub(own_bytes));
        let mut allowance = limit.min(FIRST_ALLOWANCE);
        let mut found = loop {
            self.reserve_memory(own_bytes + allowance).await?;
            let (project, now) = (&self.facts.project, self.facts.started_at);
            let found = match self.turns.chains.load_items(project, &ids, now, allowance).await {
                // The turn needs none of them.
                Err(error) if references.iter().all(|named| named.is_partial) => {
                    tracing::warn!(%error, "could not look up reasoning items; they go upstream as they are");
                    FoundItems::All(vec![None; ids.len()])
                }
                found => found?,
            };
            match found {
                FoundItems::All(found) => break found,
                FoundItems::TooLarge { .. } if allowance < limit => allowance = limit,
                FoundItems::TooLarge { size_bytes } => {
                    return Err(Failure::InputTooLarge { limit, size: size_bytes });
                }
            }
        };
        self.recall_queued(references, &mut found);
        let found = references.iter().zip(found).map(|(named, found)| match found {
            // A stored item that holds no more than the client sent replaces nothing.
            found if named.is_partial => Ok(found.filter(|found| item::sealed(&found.item).is_some())),
            Some(found) => Ok(Some(found)),
            None => Err(unknown(named)),
        });
        let found: Vec<Option<IndexedItem>> = found.collect::<Result<_, _>>()?;
        let size_bytes: usize = found.iter().flatten().map(|found| found.item.len()).sum();
        self.memory.shrink_to(own_bytes + size_bytes);
        Ok(found)
    }

    /// Adds what was deleted since a background turn was queued, from the input that it was queued with.
    fn recall_queued(&self, references: &[Reference], found: &mut [Option<IndexedItem>]) {
        let Some(queued) = self.facts.door.run().and_then(|run| run.queued_input.get()) else { return };
        let mut missing = references.iter().zip(found).filter(|(_, found)| found.is_none()).peekable();
        for (position, range) in (0..).zip(json::elements(queued).map_while(Result::ok)) {
            if missing.peek().is_none() {
                return;
            }
            if let Some((_, found)) = missing.next_if(|(named, _)| named.position == position) {
                let (item, expires_at) = (queued.slice(range), Some(self.facts.started_at));
                *found = Some(IndexedItem { item, is_output: true, expires_at, maker: None });
            }
        }
    }

    /// Increases the memory that the turn has reserved to this size.
    pub(super) async fn reserve_memory(&mut self, bytes: usize) -> Result<(), Failure> {
        let missing = bytes.saturating_sub(self.memory.bytes());
        let mut patience = MEMORY_TIMEOUT;
        let growing = self.cancellation.or_cancelled(self.memory.grow(missing, &mut patience));
        growing.await.map_err(|_| Failure::ClientGone)?.map_err(Failure::Overloaded)
    }
}

// === impl OwnInput ===

impl OwnInput {
    /// Whether this is not what goes upstream as the client sent it.
    pub fn has_replaced_items(&self) -> bool {
        !self.replaced.is_empty()
    }

    /// The referenced items.
    pub fn replaced_items(&self) -> impl Iterator<Item = &[u8]> {
        self.replaced.iter().filter(|replaced| !replaced.is_sent).map(|replaced| &replaced.item[..])
    }

    /// Whether one of the items that do not go upstream as the client sent them is of this kind.
    pub fn has_replaced(&self, kind: Sealed) -> bool {
        self.replaced.iter().any(|replaced| replaced.kind == Some(kind))
    }

    /// Positions of items whose ids are an upstream's, ascending.
    pub fn referenced(&self) -> Vec<u32> {
        self.replaced.iter().filter(|replaced| replaced.is_output).map(|replaced| replaced.position).collect()
    }

    /// Positions of copies whose ids lead to their originals, ascending.
    pub fn unindexed(&self) -> Vec<u32> {
        self.replaced
            .iter()
            .filter(|replaced| !replaced.is_indexed)
            .map(|replaced| replaced.position)
            .collect()
    }

    /// Who made the newest of the referenced items, as far as that is known.
    pub fn maker(&self) -> Option<&Maker> {
        self.replaced.iter().rev().find_map(|replaced| replaced.maker.as_deref())
    }

    /// The sealed items that the client sent itself and that can be left out one by one, with their positions, ascending.
    pub fn sealed_items(&self) -> impl Iterator<Item = (u32, &[u8])> {
        self.sealed.iter().map(|(position, span)| (*position, &self.sent[span.clone()]))
    }

    /// The items for the accounts of a boundary, if some can be read only elsewhere: instead of reasoning, its summaries. Also says
    /// how many items those were. `unreadable` are the positions of those among the client's own, ascending.
    pub fn readable_at(
        &self,
        boundary: &str,
        unreadable: &[u32],
    ) -> Result<Option<(Segment, Omitted)>, Malformed> {
        let is_foreign = |replaced: &Replacement| {
            let is_made_elsewhere = replaced.kind == Some(Sealed::Reasoning)
                && replaced.maker.as_ref().is_some_and(|maker| maker.boundary != boundary);
            is_made_elsewhere || unreadable.binary_search(&replaced.position).is_ok()
        };
        if unreadable.is_empty() && !self.replaced.iter().any(is_foreign) {
            return Ok(None);
        }
        let mut own = self.without_ids();
        own.stand_for_themselves(unreadable);
        let (mut omitted, mut left_out) = (Omitted::default(), Vec::new());
        for replaced in own.replaced.iter_mut().filter(|replaced| is_foreign(replaced)) {
            match item::is_compaction(&replaced.item) {
                true => omitted.compactions += 1,
                false => omitted.reasoning += 1,
            }
            match item::summary_message(&replaced.item) {
                Some(summary) => {
                    replaced.item = summary.into();
                    replaced.is_output = false;
                    replaced.is_sent = false;
                }
                None => left_out.push(replaced.position),
            }
        }
        Ok(Some((own.segment()?.without(&left_out), omitted)))
    }

    /// The items without their ids, for accounts that do not get all of the reasoning.
    pub fn without_ids(&self) -> Self {
        let (sent, sealed) = (self.sent.clone(), self.sealed.clone());
        let mut own = Self { sent, replaced: self.replaced.clone(), sealed };
        own.leave_out_ids();
        own
    }

    /// Whether reasoning goes upstream without its id.
    fn has_unnamed_reasoning(&self) -> bool {
        let is_reasoning = |kind| matches!(kind, Some(Sealed::Reasoning | Sealed::BareReasoning));
        self.replaced.iter().any(|replaced| replaced.is_output && is_reasoning(replaced.kind))
    }

    /// Prepares sealed items of the client's own to be replaced.
    fn stand_for_themselves(&mut self, positions: &[u32]) {
        let replaced = &self.replaced;
        let is_new = |position: &u32| replaced.binary_search_by_key(position, |item| item.position).is_err();
        let own = self.sealed.iter().filter(|(position, _)| positions.binary_search(position).is_ok());
        let own = own.filter(|(position, _)| is_new(position));
        let new: Vec<Replacement> =
            own.map(|(position, span)| Replacement::of_sent(*position, span.clone(), &self.sent)).collect();
        self.replaced.extend(new);
        self.replaced.sort_by_key(|replaced| replaced.position);
    }

    /// Leaves out the ids of all items. An upstream that has stored an item accepts its id only together with that of the
    /// reasoning before it.
    fn leave_out_ids(&mut self) {
        let replaced = &self.replaced;
        let is_sent = |position: &u32| replaced.binary_search_by_key(position, |item| item.position).is_err();
        let sent = (0..).zip(json::elements(&self.sent).map_while(Result::ok));
        let own = sent.filter(|(position, _)| is_sent(position));
        let own = own.map(|(position, span)| Replacement::of_sent(position, span, &self.sent));
        let named: Vec<Replacement> = own.filter(|item| !item.upstream_ids.is_empty()).collect();
        for replaced in &mut self.replaced {
            replaced.leave_out_id();
        }
        self.replaced.extend(named);
        self.replaced.sort_by_key(|replaced| replaced.position);
    }

    /// The items as they are replayed.
    pub fn segment(&self) -> Result<Segment, Malformed> {
        Segment::build(&self.array(), &self.referenced(), b"[]").map(Segment::of_request)
    }

    /// The whole array in one piece, to be stored.
    pub fn array(&self) -> Bytes {
        if self.replaced.iter().all(|replaced| replaced.is_sent) {
            return self.sent.clone();
        }
        let (open, close) = (Bytes::from_static(b"["), Bytes::from_static(b"]"));
        let parts = [open].into_iter().chain(self.parts(ReplayIds::Keep)).chain([close]);
        parts.collect::<Vec<_>>().concat().into()
    }

    /// The contents of the array without its brackets, not copied.
    pub fn parts(&self, replay_ids: ReplayIds) -> Vec<Bytes> {
        let mut parts = Vec::with_capacity(self.replaced.len() * 3 + 1);
        let mut from = 1;
        for Replacement { span, item, upstream_ids, .. } in &self.replaced {
            parts.push(self.sent.slice(from..span.start));
            let mut kept = 0;
            for id in upstream_ids.iter().filter(|_| replay_ids == ReplayIds::Drop) {
                parts.push(item.slice(kept..id.start));
                kept = id.end;
            }
            parts.push(item.slice(kept..));
            from = span.end;
        }
        parts.push(self.sent.slice(from..self.sent.len() - 1));
        parts.retain(|part| !part.is_empty());
        parts
    }
}

// === impl Replacement ===

impl Replacement {
    /// An item's id leads to the response that it came from, so that it stays found when a response that only references it is
    /// deleted. It leads to this copy only if that one expires before `renewal`, or items would expire in spite of their use.
    fn new(reference: Reference, found: IndexedItem, renewal: Option<Timestamp>) -> Self {
        let Reference { position, span, is_partial, .. } = reference;
        let IndexedItem { item, is_output, expires_at, maker } = found;
        let is_indexed = expires_at.is_some_and(|at| renewal.is_none_or(|renewal| at < renewal));
        // The client named partial reasoning as it did the items after it, whose ids it sends as well.
        let is_output = is_output && !is_partial;
        let kind = item::sealed_in_history(&item, json::member(&item, "type"), !is_output);
        let upstream_ids = if is_output { item::upstream_id_spans(&item) } else { Vec::new() };
        Self { position, span, item, upstream_ids, is_output, kind, maker, is_sent: false, is_indexed }
    }

    /// Marks the id as an upstream's, which is left out.
    fn leave_out_id(&mut self) {
        self.is_output = true;
        self.upstream_ids = item::upstream_id_spans(&self.item);
    }

    /// An item with an id that the gateway derived: it goes upstream as if it came from there.
    fn of_sent(position: u32, span: Range<usize>, sent: &Bytes) -> Self {
        let item = sent.slice(span.clone());
        let upstream_ids = item::upstream_id_spans(&item);
        let kind = item::sealed_in_history(&item, json::member(&item, "type"), false);
        Self {
            position,
            span,
            item,
            upstream_ids,
            is_output: true,
            kind,
            maker: None,
            is_sent: true,
            is_indexed: true,
        }
    }
}
