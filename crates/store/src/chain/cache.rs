//! Which turns are in memory, and for how long.
//!
//! A weak pointer leads from an id to each live turn. A strong one holds the newest turn of each branch, and through its parents
//! the whole branch. When all live turns together are too large, the least recently used branches are released. No turn may be
//! dropped under the lock, because dropping takes the lock.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use antiphon_protocol::id::{ProjectId, ResponseId};

use super::Turn;
use crate::Timestamp;

/// Roughly what the cache itself needs for a turn.
pub(super) const BYTES_BESIDE_A_TURN: usize = 128;

type Key = (ProjectId, ResponseId);

/// Figures of the cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheStats {
    pub hits: u64,
    pub misses: u64,
    /// The size of all turns in memory, also of those that only their users hold.
    pub live_bytes: usize,
}

#[derive(Debug)]
pub(super) struct Cache {
    max_bytes: AtomicUsize,
    live_bytes: AtomicUsize,
    hits: AtomicU64,
    misses: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    turns: HashMap<Key, Weak<Turn>>,
    /// Held turns, each with its last use.
    held: HashMap<Key, (Arc<Turn>, u64)>,
    by_use: BTreeMap<u64, Key>,
    uses: u64,
    /// Responses whose deletion has begun and may not have ended, with the number of callers that delete them.
    hidden: HashMap<Key, u32>,
    deletions: Deletions,
}

/// Counts deletions by a hash of the response's id. A read that began before a deletion may return a deleted response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Deletions([u32; 64]);

/// A turn's entry in the cache. It ends when the turn is dropped.
#[derive(Debug)]
pub(super) struct Entry {
    cache: Weak<Cache>,
    key: Key,
    size_bytes: usize,
}

// === impl Cache ===

impl Cache {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes: AtomicUsize::new(max_bytes),
            live_bytes: AtomicUsize::new(0),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            state: Mutex::default(),
        }
    }

    pub(super) fn keeps_any(&self) -> bool {
        self.max_bytes.load(Ordering::Relaxed) > 0
    }

    /// Changes the size, and releases what has no room any more.
    pub(super) fn resize(&self, max_bytes: usize) {
        self.max_bytes.store(max_bytes, Ordering::Relaxed);
        self.release_surplus();
    }

    /// Call this before a read, and pass the result to [`insert`](Self::insert) with what was read.
    pub(super) fn deletions(&self) -> Deletions {
        self.lock().deletions.clone()
    }

    /// A turn that a client may name.
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

    /// A turn to replay, even if a client can't name it any more.
    pub(super) fn find_ancestor(&self, project: &ProjectId, id: ResponseId) -> Option<Arc<Turn>> {
        self.lock().turns.get(&(project.clone(), id)).and_then(Weak::upgrade)
    }

    /// Adds a turn, unless it is known already or a deletion has happened since the read.
    pub(super) fn insert(
        self: &Arc<Self>,
        project: &ProjectId,
        mut turn: Turn,
        read_at: &Deletions,
    ) -> Arc<Turn> {
        let key = (project.clone(), turn.id);
        let size_bytes = turn.size_bytes();
        turn.entry = Some(Entry { cache: Arc::downgrade(self), key: key.clone(), size_bytes });
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

    /// Holds a known turn instead of its parent, and releases others if there is no room for it.
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
        self.release_surplus();
    }

    /// Releases the least recently used branches until the others have room.
    fn release_surplus(&self) {
        while self.live_bytes.load(Ordering::Relaxed) > self.max_bytes.load(Ordering::Relaxed) {
            let Some(oldest) = self.lock().release_oldest() else { break };
            drop(oldest);
        }
    }

    /// Hides a response during its deletion, until [`forget`](Self::forget): it is neither found nor added again.
    pub(super) fn hide(&self, project: &ProjectId, id: ResponseId) {
        let key = (project.clone(), id);
        let mut state = self.lock();
        state.turns.remove(&key);
        let released = state.release(&key);
        *state.hidden.entry(key).or_default() += 1;
        drop(state);
        drop(released);
    }

    /// Ends what [`hide`](Self::hide) began, for one caller.
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

    /// Forgets every turn, and what is being read now: the database has other turns than memory.
    pub(super) fn clear(&self) {
        let mut state = self.lock();
        state.turns.clear();
        state.by_use.clear();
        let released = std::mem::take(&mut state.held);
        state.deletions.count_all();
        drop(state);
        drop(released);
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

    /// Notes the use of a held turn. `false` if it is not held.
    fn touch(&mut self, key: &Key) -> bool {
        let Some((_, used)) = self.held.get_mut(key) else { return false };
        self.uses += 1;
        if let Some(key) = self.by_use.remove(used) {
            self.by_use.insert(self.uses, key);
        }
        *used = self.uses;
        true
    }

    #[must_use = "drop it after the lock"]
    fn release(&mut self, key: &Key) -> Option<Arc<Turn>> {
        let (turn, used) = self.held.remove(key)?;
        self.by_use.remove(&used);
        Some(turn)
    }

    #[must_use = "drop it after the lock"]
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

    fn count_all(&mut self) {
        self.0.iter_mut().for_each(|count| *count = count.wrapping_add(1));
    }
}

impl Default for Deletions {
    fn default() -> Self {
        Self([0; 64])
    }
}

// === impl Entry ===

impl Drop for Entry {
    fn drop(&mut self) {
        let Some(cache) = self.cache.upgrade() else { return };
        cache.live_bytes.fetch_sub(self.size_bytes, Ordering::Relaxed);
        let mut state = cache.lock();
        // Another turn in memory may have the id by now.
        if state.turns.get(&self.key).is_some_and(|turn| turn.strong_count() == 0) {
            state.turns.remove(&self.key);
        }
    }
}
