//! Sealed reasoning that clients send back themselves: which of it an account cannot read.
//!
//! Nothing in such an item says who made it. It is looked up when an account refuses it, and what was found out is remembered, so
//! that the next turn goes without it at once.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

use antiphon_protocol::error::UpstreamError;
use antiphon_protocol::id::ItemId;
use antiphon_protocol::{item, json};
use antiphon_store::{FoundItems, Maker};
use antiphon_upstream::account::Account;

use super::Turn;
use super::references::OwnInput;

/// So many items are remembered.
const MAX_REMEMBERED: usize = 20_000;
/// The end of encrypted content tells it from all other: a cipher ends with its authentication.
const TAIL: usize = 128;
/// An error names encrypted content by so many characters of its start and of its end.
const SHOWN: usize = 4;

/// Where items could be read and where not. Only chains are remembered in which an account has refused one.
#[derive(Default)]
pub struct SealedItems {
    hasher: RandomState,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    items: HashMap<u64, Readers>,
    /// The oldest first.
    order: VecDeque<u64>,
}

/// The boundaries that can read an item and those that cannot.
#[derive(Default)]
struct Readers {
    readable_at: Option<Arc<str>>,
    unreadable_at: Vec<Arc<str>>,
}

impl Turn {
    /// The positions of the items that a refusal is about, as far as that can be told: those that others have made, and the one
    /// that the error names.
    pub(super) async fn find_unreadable(
        &mut self,
        account: &Account,
        own: &OwnInput,
        error: &UpstreamError,
    ) -> Vec<u32> {
        let boundary = account.boundary();
        let makers = self.makers_of(own).await;
        let message = error.message.as_deref().unwrap_or_default();
        let sealed = &self.turns.sealed_items;
        let is_foreign = |(position, item): &(u32, &[u8])| {
            let maker = makers.get(position);
            let is_made_elsewhere = maker.is_some_and(|maker| maker.boundary != boundary);
            is_made_elsewhere || sealed.is_read_elsewhere(item, boundary) || names(message, item)
        };
        own.sealed_reasoning().filter(is_foreign).map(|(position, _)| position).collect()
    }

    /// Who made the items, as far as the store knows. It has them if their turns were stored, each until it is sent again.
    async fn makers_of(&mut self, own: &OwnInput) -> HashMap<u32, Arc<Maker>> {
        let named = own.sealed_reasoning().filter_map(|(position, item)| Some((position, item::id(item)?)));
        let (positions, ids): (Vec<u32>, Vec<ItemId>) = named.unzip();
        if ids.is_empty() {
            return HashMap::new();
        }
        // Stored copies are about as large as those that the client sent.
        let allowance = 2 * own.sealed_reasoning().map(|(_, item)| item.len()).sum::<usize>();
        let own_bytes = self.memory.bytes();
        if self.reserve_memory(own_bytes + allowance).await.is_err() {
            return HashMap::new();
        }
        let found =
            self.turns.chains.load_items(&self.facts.project, &ids, self.facts.started_at, allowance).await;
        self.memory.shrink_to(own_bytes);
        match found {
            Ok(FoundItems::All(found)) => {
                let makers = found.into_iter().map(|found| found?.maker);
                positions
                    .into_iter()
                    .zip(makers)
                    .filter_map(|(position, maker)| Some((position, maker?)))
                    .collect()
            }
            Ok(FoundItems::TooLarge { .. }) => HashMap::new(),
            Err(error) => {
                tracing::warn!(%error, "could not look up who made the reasoning items that an upstream refuses");
                HashMap::new()
            }
        }
    }
}

/// Whether an error's message names this item, by its id or by its encrypted content.
fn names(message: &str, item: &[u8]) -> bool {
    if json::string_member(item, "id").is_some_and(|id| !id.is_empty() && message.contains(&*id)) {
        return true;
    }
    let content = json::string_member(item, "encrypted_content").unwrap_or_default();
    let ends = content.get(..SHOWN).zip(content.len().checked_sub(SHOWN).and_then(|end| content.get(end..)));
    ends.is_some_and(|(first, last)| message.contains(&format!("{first}...{last}")))
}

// === impl SealedItems ===

impl SealedItems {
    /// The positions of the items that the accounts of a boundary have refused before, ascending.
    pub fn unreadable_at(&self, boundary: &str, own: &OwnInput) -> Vec<u32> {
        if self.with_known(|known| known.items.is_empty()) {
            return Vec::new();
        }
        let keys: Vec<(u32, u64)> =
            own.sealed_reasoning().map(|(position, item)| (position, self.key(item))).collect();
        self.with_known(|known| {
            let is_unreadable = |key| known.items.get(key).is_some_and(|readers| readers.lacks(boundary));
            keys.iter().filter(|(_, key)| is_unreadable(key)).map(|(position, _)| *position).collect()
        })
    }

    /// Whether accounts of another boundary have read this item.
    fn is_read_elsewhere(&self, item: &[u8], boundary: &str) -> bool {
        let key = self.key(item);
        self.with_known(|known| {
            let reader = known.items.get(&key).and_then(|readers| readers.readable_at.as_deref());
            reader.is_some_and(|reader| reader != boundary)
        })
    }

    /// Remembers what an account has accepted after it had refused items: those that it got can be read there, and those that
    /// were left out cannot, unless it has read them before.
    pub fn remember(&self, boundary: &str, own: &OwnInput, is_left_out: impl Fn(u32) -> bool) {
        let boundary: Arc<str> = boundary.into();
        for (position, item) in own.sealed_reasoning().take(MAX_REMEMBERED) {
            let key = self.key(item);
            self.with_known(|known| {
                let readers = known.readers_of(key);
                if !is_left_out(position) {
                    readers.readable_at = Some(Arc::clone(&boundary));
                } else if readers.readable_at.as_ref() != Some(&boundary) && !readers.lacks(&boundary) {
                    readers.unreadable_at.push(Arc::clone(&boundary));
                }
            });
        }
    }

    fn key(&self, item: &[u8]) -> u64 {
        let content = json::member(item, "encrypted_content").unwrap_or_default();
        self.hasher.hash_one((content.len(), &content[content.len().saturating_sub(TAIL)..]))
    }

    fn with_known<T>(&self, act: impl FnOnce(&mut Known) -> T) -> T {
        act(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

// === impl Known ===

impl Known {
    /// Forgets the oldest item when there are too many.
    fn readers_of(&mut self, key: u64) -> &mut Readers {
        if !self.items.contains_key(&key) {
            if self.order.len() >= MAX_REMEMBERED
                && let Some(oldest) = self.order.pop_front()
            {
                self.items.remove(&oldest);
            }
            self.order.push_back(key);
        }
        self.items.entry(key).or_default()
    }
}

// === impl Readers ===

impl Readers {
    /// Whether the accounts of a boundary are known not to read the item.
    fn lacks(&self, boundary: &str) -> bool {
        self.unreadable_at.iter().any(|unable| &**unable == boundary)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_an_item_by_its_id_or_by_both_ends_of_its_content() {
        let item = br#"{"id":"rs_12","type":"reasoning","encrypted_content":"gAAAAABsome=="}"#;
        for (message, expected) in [
            ("The encrypted content for item rs_12 could not be verified.", true),
            ("The encrypted content gAAA...me== could not be verified.", true),
            ("The encrypted content gAAA...xx== could not be verified.", false),
            ("", false),
        ] {
            assert_eq!(names(message, item), expected, "{message}");
        }
        for item in [
            &br#"{"id":"","encrypted_content":"gAA"}"#[..],
            b"{}",
            br#"{"encrypted_content":"\u00e9\u00e9x"}"#,
        ] {
            assert!(!names("gAA...gAA", item));
        }
    }

    #[test]
    fn the_oldest_items_are_forgotten_when_there_are_too_many() {
        let mut known = Known::default();
        for key in 0..MAX_REMEMBERED as u64 + 2 {
            known.readers_of(key).readable_at = Some("one".into());
        }
        assert_eq!((known.items.len(), known.order.len()), (MAX_REMEMBERED, MAX_REMEMBERED));
        assert!(!known.items.contains_key(&1) && known.items.contains_key(&2));
    }
}
