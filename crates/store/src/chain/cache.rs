//! Which turns are in memory, and for how long.
//!
//! Every live turn is found by its id through a weak pointer. The newest turn of each branch is held by a strong one,
//! and with it, through the parents, the whole branch; of these the least recently used are let go when all live turns
//! together are too large. A turn is never dropped while the lock is held: dropping takes the lock.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use antiphon_protocol::id::{ProjectId, ResponseId};

use super::Turn;
use crate::Timestamp;

/// What the cache itself spends on a turn, about.
pub(super) const BYTES_BESIDE_A_TURN: usize = 128;

type Key = (ProjectId, ResponseId);

/// What the cache did and holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheStats {
    pub hits: u64,
    pub misses: u64,
    /// Of all turns in memory, also those that are only held by their users.
    pub live_bytes: usize,
}

#[derive(Debug)]
pub(super) struct Cache {
    max_bytes: usize,
    live_bytes: AtomicUsize,
    hits: AtomicU64,
    misses: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    turns: HashMap<Key, Weak<Turn>>,
    /// Held turns, and when each was last used.
    held: HashMap<Key, (Arc<Turn>, u64)>,
    by_use: BTreeMap<u64, Key>,
    uses: u64,
    /// Responses whose deletion has begun and is not known to have ended, by how many callers.
    hidden: HashMap<Key, u32>,
    deletions: Deletions,
}

/// Counts deletions, of responses with ids alike: what was read before one may show what is deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Deletions([u32; 64]);

/// A turn's place in the cache, given up when the turn is dropped.
#[derive(Debug)]
pub(super) struct Place {
    cache: Weak<Cache>,
    key: Key,
    size_bytes: usize,
}

// === impl Cache ===

impl Cache {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            live_bytes: AtomicUsize::new(0),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            state: Mutex::default(),
        }
    }

    pub(super) fn keeps_any(&self) -> bool {
        self.max_bytes > 0
    }

    /// To be asked for before a read, and handed back with what was read.
    pub(super) fn deletions(&self) -> Deletions {
        self.lock().deletions.clone()
    }

    /// A turn that may be named by a client.
    pub(super) fn find(&self, project: &ProjectId, id: ResponseId, now: Timestamp) -> Option<Arc<Turn>> {
        let key = (project.clone(), id);
        let found = {
            let mut state = self.lock();
            let found = state.turns.get(&key).and_then(Weak::upgrade);
            if found.is_some() {
                state.touch(&key);
            }
            found
        };
        let found = found.filter(|turn| turn.is_visible_at(now));
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// A turn to be replayed, whether or not it can still be named.
    pub(super) fn find_ancestor(&self, project: &ProjectId, id: ResponseId) -> Option<Arc<Turn>> {
        self.lock().turns.get(&(project.clone(), id)).and_then(Weak::upgrade)
    }

    /// Makes the turn known, unless the same one is already, or a deletion has come in between.
    pub(super) fn insert(
        self: &Arc<Self>,
        project: &ProjectId,
        mut turn: Turn,
        read_at: &Deletions,
    ) -> Arc<Turn> {
        let key = (project.clone(), turn.id);
        let size_bytes = turn.size_bytes();
        turn.place = Some(Place { cache: Arc::downgrade(self), key: key.clone(), size_bytes });
        self.live_bytes.fetch_add(size_bytes, Ordering::Relaxed);
        let turn = Arc::new(turn);
        let mut state = self.lock();
        if state.deletions.of(turn.id) != read_at.of(turn.id) || state.hidden.contains_key(&key) {
            return turn;
        }
        if let Some(known) = state.turns.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        state.turns.insert(key, Arc::downgrade(&turn));
        turn
    }

    /// Holds a known turn in its parent's stead, and lets go of others if there is no room for it.
    pub(super) fn hold(&self, project: &ProjectId, turn: &Arc<Turn>) {
        let key = (project.clone(), turn.id);
        let released = {
            let mut state = self.lock();
            let is_known = state.turns.get(&key).is_some_and(|known| known.as_ptr() == Arc::as_ptr(turn));
            let parent = turn.parent.as_ref().filter(|_| is_known);
            let parent = parent.and_then(|parent| state.release(&(project.clone(), parent.id)));
            if is_known && !state.touch(&key) {
                state.hold(key, Arc::clone(turn));
            }
            parent
        };
        drop(released);
        while self.live_bytes.load(Ordering::Relaxed) > self.max_bytes {
            let Some(oldest) = self.lock().release_oldest() else { break };
            drop(oldest);
        }
    }

    /// From here on the response is not found, nor made known again, until [`forget`](Self::forget) says that its
    /// deletion has come to an end.
    pub(super) fn hide(&self, project: &ProjectId, id: ResponseId) {
        let key = (project.clone(), id);
        let mut state = self.lock();
        state.turns.remove(&key);
        let released = state.release(&key);
        *state.hidden.entry(key).or_default() += 1;
        drop(state);
        drop(released);
    }

    pub(super) fn forget(&self, project: &ProjectId, id: ResponseId) {
        let key = (project.clone(), id);
        let mut state = self.lock();
        state.deletions.count(id);
        if let Some(callers) = state.hidden.get_mut(&key) {
            *callers -= 1;
            if *callers == 0 {
                state.hidden.remove(&key);
            }
        }
    }

    pub(super) fn stats(&self) -> CacheStats {
        CacheStats {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            live_bytes: self.live_bytes.load(Ordering::Relaxed),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    fn hold(&mut self, key: Key, turn: Arc<Turn>) {
        self.uses += 1;
        self.by_use.insert(self.uses, key.clone());
        self.held.insert(key, (turn, self.uses));
    }

    /// Notes that a held turn is used; `false` if it is not held.
    fn touch(&mut self, key: &Key) -> bool {
        let Some((_, used)) = self.held.get_mut(key) else { return false };
        self.uses += 1;
        if let Some(key) = self.by_use.remove(used) {
            self.by_use.insert(self.uses, key);
        }
        *used = self.uses;
        true
    }

    #[must_use = "to be dropped after the lock"]
    fn release(&mut self, key: &Key) -> Option<Arc<Turn>> {
        let (turn, used) = self.held.remove(key)?;
        self.by_use.remove(&used);
        Some(turn)
    }

    #[must_use = "to be dropped after the lock"]
    fn release_oldest(&mut self) -> Option<Arc<Turn>> {
        let (_, key) = self.by_use.pop_first()?;
        self.held.remove(&key).map(|(turn, _)| turn)
    }
}

// === impl Deletions ===

impl Deletions {
    fn slot(id: ResponseId) -> usize {
        let [.., last] = id.uuid().into_bytes();
        usize::from(last) % 64
    }

    fn of(&self, id: ResponseId) -> u32 {
        self.0[Self::slot(id)]
    }

    fn count(&mut self, id: ResponseId) {
        let count = &mut self.0[Self::slot(id)];
        *count = count.wrapping_add(1);
    }
}

impl Default for Deletions {
    fn default() -> Self {
        Self([0; 64])
    }
}

// === impl Place ===

impl Drop for Place {
    fn drop(&mut self) {
        let Some(cache) = self.cache.upgrade() else { return };
        cache.live_bytes.fetch_sub(self.size_bytes, Ordering::Relaxed);
        let mut state = cache.lock();
        // The id may be known again, for another turn in memory.
        if state.turns.get(&self.key).is_some_and(|turn| turn.strong_count() == 0) {
            state.turns.remove(&self.key);
        }
    }
}
