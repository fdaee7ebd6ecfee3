//! Sealed items that clients send back themselves: which of them an account cannot read.
//!
//! Nothing in such an item says who made it. It is looked up when an account refuses it, and what was found out is remembered, so
//! that the next turn goes without it at once. When an account has refused a request until it got none of them, it may yet have made
//! some. It gets those on trial, one with each turn and the newest first: an account that takes over makes what comes last.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

use antiphon_protocol::error::UpstreamError;
use antiphon_protocol::id::{ItemId, ProjectId};
use antiphon_protocol::{item, json};
use antiphon_store::{FoundItems, Maker};
use antiphon_upstream::account::Account;

use super::Turn;
use super::references::OwnInput;

/// So many items are remembered. A project keeps at least an equal share of them, whatever others send.
const MAX_REMEMBERED: usize = 20_000;
/// The end of encrypted content tells it from all other: a cipher ends with its authentication.
const TAIL: usize = 128;
/// An error is searched so far for the item that it names.
const MAX_MESSAGE_BYTES: usize = 2048;
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
    projects: HashMap<ProjectId, KnownItems>,
    /// How many items those have together.
    count: usize,
}

/// What is known of a project's items.
#[derive(Default)]
struct KnownItems {
    readers: HashMap<u64, Readers>,
    /// The oldest first.
    order: VecDeque<u64>,
}

/// The boundaries that can read an item and those that cannot.
#[derive(Default)]
struct Readers {
    readable_at: Option<Arc<str>>,
    /// The others that have refused it, or may have.
    refused_at: Vec<(Arc<str>, Reading)>,
}

/// What is known of an account and an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    Read,
    Refused,
    /// It was left out with all others.
    Doubtful,
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
        let message = &message[..message.floor_char_boundary(MAX_MESSAGE_BYTES)];
        let (sealed, project) = (&self.turns.sealed_items, &self.facts.project);
        let is_foreign = |(position, item): &(u32, &[u8])| {
            let maker = makers.get(position);
            let is_made_elsewhere = maker.is_some_and(|maker| maker.boundary != boundary);
            is_made_elsewhere || sealed.is_read_elsewhere(project, item, boundary) || names(message, item)
        };
        own.sealed_items().filter(is_foreign).map(|(position, _)| position).collect()
    }

    /// Who made the items, as far as the store knows. It has them if their turns were stored, each until it is sent again.
    async fn makers_of(&mut self, own: &OwnInput) -> HashMap<u32, Arc<Maker>> {
        let named = own.sealed_items().filter_map(|(position, item)| Some((position, item::id(item)?)));
        let (positions, ids): (Vec<u32>, Vec<ItemId>) = named.unzip();
        if ids.is_empty() {
            return HashMap::new();
        }
        // Stored copies are about as large as those that the client sent.
        let allowance = 2 * own.sealed_items().map(|(_, item)| item.len()).sum::<usize>();
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
                tracing::warn!(%error, "could not look up who made the encrypted items that an upstream refuses");
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
    /// The positions of the items that the accounts of a boundary have refused before, and of those that they may have, ascending.
    pub fn unreadable_at(&self, project: &ProjectId, boundary: &str, own: &OwnInput) -> (Vec<u32>, Vec<u32>) {
        let (mut refused, mut doubtful) = (Vec::new(), Vec::new());
        let is_known = || self.with_known(|known| known.projects.contains_key(project));
        if own.sealed_items().next().is_none() || !is_known() {
            return (refused, doubtful);
        }
        let keys: Vec<(u32, u64)> =
            own.sealed_items().map(|(position, item)| (position, self.key(item))).collect();
        self.with_known(|known| {
            for (position, key) in keys {
                match known.readers(project, key).and_then(|readers| readers.refusal_at(boundary)) {
                    Some(Reading::Refused) => refused.push(position),
                    Some(Reading::Doubtful) => doubtful.push(position),
                    Some(Reading::Read) | None => {}
                }
            }
        });
        (refused, doubtful)
    }

    /// Whether accounts of another boundary have read this item.
    fn is_read_elsewhere(&self, project: &ProjectId, item: &[u8], boundary: &str) -> bool {
        let key = self.key(item);
        self.with_known(|known| {
            let reader = known.readers(project, key).and_then(|readers| readers.readable_at.as_deref());
            reader.is_some_and(|reader| reader != boundary)
        })
    }

    /// Remembers what an account's success says of the items, after it had refused some.
    pub fn remember(
        &self,
        project: &ProjectId,
        boundary: &str,
        own: &OwnInput,
        reading_of: impl Fn(u32) -> Reading,
    ) {
        let boundary: Arc<str> = boundary.into();
        for (position, item) in own.sealed_items().take(MAX_REMEMBERED) {
            let key = self.key(item);
            let reading = reading_of(position);
            self.with_known(|known| known.readers_mut(project, key).note(&boundary, reading));
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
    fn readers(&self, project: &ProjectId, key: u64) -> Option<&Readers> {
        self.projects.get(project)?.readers.get(&key)
    }

    fn readers_mut(&mut self, project: &ProjectId, key: u64) -> &mut Readers {
        if self.readers(project, key).is_none() {
            if self.count >= MAX_REMEMBERED {
                self.forget_one_for(project);
            }
            self.count += 1;
            self.projects.entry(project.clone()).or_default().order.push_back(key);
        }
        self.projects.entry(project.clone()).or_default().readers.entry(key).or_default()
    }

    /// Forgets the oldest item of a project: of this one if it has its share, or else of the one that has most.
    fn forget_one_for(&mut self, project: &ProjectId) {
        let share = MAX_REMEMBERED / self.projects.len().max(1);
        let has_share = self.projects.get(project).is_some_and(|own| own.order.len() >= share);
        let largest = || self.projects.iter().max_by_key(|(_, items)| items.order.len());
        let from = if has_share { Some(project.clone()) } else { largest().map(|(name, _)| name.clone()) };
        let Some(from) = from else { return };
        let Some(items) = self.projects.get_mut(&from) else { return };
        if let Some(oldest) = items.order.pop_front() {
            items.readers.remove(&oldest);
            self.count -= 1;
        }
        if items.order.is_empty() {
            self.projects.remove(&from);
        }
    }
}

// === impl Readers ===

impl Readers {
    /// Whether the accounts of a boundary have refused the item, or may have.
    fn refusal_at(&self, boundary: &str) -> Option<Reading> {
        let known = self.refused_at.iter().find(|(refused_at, _)| &**refused_at == boundary);
        known.map(|(_, reading)| *reading)
    }

    /// What an account has read it can read: a later refusal is about another item.
    fn note(&mut self, boundary: &Arc<str>, reading: Reading) {
        if reading == Reading::Read {
            self.readable_at = Some(Arc::clone(boundary));
            self.refused_at.retain(|(refused_at, _)| refused_at != boundary);
        } else if self.readable_at.as_ref() != Some(boundary)
            && self.refusal_at(boundary) != Some(Reading::Refused)
        {
            self.refused_at.retain(|(refused_at, _)| refused_at != boundary);
            self.refused_at.push((Arc::clone(boundary), reading));
        }
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

    fn counts(known: &Known) -> Vec<usize> {
        let counts = known.projects.values().map(|items| {
            assert_eq!(items.order.len(), items.readers.len());
            items.order.len()
        });
        let mut counts: Vec<usize> = counts.collect();
        assert_eq!(counts.iter().sum::<usize>(), known.count);
        counts.sort_unstable();
        counts
    }

    #[test]
    fn the_oldest_items_are_forgotten_when_there_are_too_many() {
        let (mut known, project) = (Known::default(), ProjectId::new("one"));
        for key in 0..MAX_REMEMBERED as u64 + 2 {
            known.readers_mut(&project, key);
        }
        assert_eq!(counts(&known), [MAX_REMEMBERED]);
        assert!(known.readers(&project, 1).is_none() && known.readers(&project, 2).is_some());
    }

    #[test]
    fn no_project_is_forgotten_for_another_that_has_more_items() {
        let mut known = Known::default();
        let [few, many, other] = ["few", "many", "other"].map(ProjectId::new);
        for key in 0..100 {
            known.readers_mut(&few, key);
        }
        for key in 0..MAX_REMEMBERED as u64 * 2 {
            known.readers_mut(&many, key);
        }
        assert_eq!(counts(&known), [100, MAX_REMEMBERED - 100]);
        for key in 0..MAX_REMEMBERED as u64 {
            known.readers_mut(&other, key);
        }
        let share = MAX_REMEMBERED / 3;
        assert_eq!(counts(&known), [100, share, MAX_REMEMBERED - 100 - share]);
        assert!((0..100).all(|key| known.readers(&few, key).is_some()));
    }
}
