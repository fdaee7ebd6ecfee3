//! Items by their ids, gathered from the responses that hold them, one response after the other.

use std::collections::HashMap;
use std::sync::Arc;

use antiphon_protocol::id::ItemId;
use antiphon_protocol::{item, json};
use bytes::Bytes;
use uuid::Uuid;

use crate::{FoundItems, IndexedItem, Maker, StoreError, StoredTurn};

/// Where an item is: its response, and its position among that response's input items followed by its output items.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Location {
    response: Uuid,
    position: u32,
    /// `false` for a derived id, which contains the location.
    is_indexed: bool,
}

/// The items that are wanted, and those of them that were found. Only they are kept of a response, each once, however often it
/// is wanted.
pub(crate) struct Gathering {
    ids: Vec<ItemId>,
    /// Each location with where it was asked for, in the order of locations.
    wanted: Vec<(Location, usize)>,
    found: Vec<Option<IndexedItem>>,
    size_bytes: usize,
    max_bytes: usize,
}

// === impl Gathering ===

impl Gathering {
    /// The location of each item is known from the index or from a derived id.
    pub(crate) fn new(ids: Vec<ItemId>, indexed: &HashMap<String, (Uuid, u32)>, max_bytes: usize) -> Self {
        let location = |id: &ItemId| {
            if let Some(&(response, position)) = indexed.get(id.as_str()) {
                return Some(Location { response, position, is_indexed: true });
            }
            let (response, position) = id.as_derived()?;
            Some(Location { response: response.uuid(), position, is_indexed: false })
        };
        let locations = ids.iter().enumerate().filter_map(|(n, id)| Some((location(id)?, n)));
        let mut wanted: Vec<_> = locations.collect();
        wanted.sort_unstable();
        Self { found: vec![None; ids.len()], ids, wanted, size_bytes: 0, max_bytes }
    }

    /// The responses that hold wanted items.
    pub(crate) fn responses(&self) -> Vec<Uuid> {
        let mut responses: Vec<Uuid> = self.wanted.iter().map(|(location, _)| location.response).collect();
        responses.dedup();
        responses
    }

    /// Copies what is wanted out of a response's own items. `false` once all that is wanted would be too large.
    pub(crate) fn take(&mut self, turn: &StoredTurn) -> Result<bool, StoreError> {
        let (response, input, output) = (turn.id.uuid(), &*turn.input, &*turn.output);
        let first = self.wanted.partition_point(|(location, _)| location.response < response);
        let of_response =
            self.wanted[first..].iter().take_while(|(location, _)| location.response == response);
        let mut of_response = of_response.peekable();
        let maker = Maker { account: turn.account.clone(), boundary: turn.boundary.clone() };
        let maker = (!turn.account.is_empty()).then(|| Arc::new(maker));
        let input_items = json::elements(input).map_while(Result::ok).map(|range| (&input[range], false));
        let output_items = json::elements(output).map_while(Result::ok).map(|range| (&output[range], true));
        for (position, (item, is_output)) in (0_u32..).zip(input_items.chain(output_items)) {
            let mut shared = None;
            while let Some((location, n)) = of_response.next_if(|(location, _)| location.position == position)
            {
                // A derived id only finds input items.
                if is_output && !location.is_indexed {
                    continue;
                }
                if location.is_indexed && item::id(item).as_ref() != Some(&self.ids[*n]) {
                    return Err(misled(turn, *location));
                }
                self.size_bytes = self.size_bytes.saturating_add(item.len());
                if self.size_bytes > self.max_bytes {
                    return Ok(false);
                }
                let item = shared.get_or_insert_with(|| Bytes::copy_from_slice(item)).clone();
                let maker = maker.clone().filter(|_| is_output);
                let is_output = is_output || turn.referenced.binary_search(&position).is_ok();
                self.found[*n] = Some(IndexedItem { item, is_output, expires_at: turn.expires_at, maker });
            }
            if of_response.peek().is_none() {
                break;
            }
        }
        match of_response.find(|(location, _)| location.is_indexed) {
            Some((location, _)) => Err(misled(turn, *location)),
            None => Ok(true),
        }
    }

    pub(crate) fn finish(self) -> FoundItems {
        match self.size_bytes > self.max_bytes {
            true => FoundItems::TooLarge { size_bytes: self.size_bytes },
            false => FoundItems::All(self.found),
        }
    }
}

/// The index always leads to the item with the id, unless the database is damaged.
fn misled(turn: &StoredTurn, location: Location) -> StoreError {
    let reason = format!("the index of items leads to position {}, where another one is", location.position);
    StoreError::Corrupt(reason).of_response(turn.id)
}
