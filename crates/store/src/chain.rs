//! Chains as the gateway uses them: turns that share their trunk. They are in the store, and in memory while there is room.

mod cache;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use antiphon_protocol::id::{ItemId, ProjectId, ResponseId};
use antiphon_protocol::replay::Segment;
use antiphon_runtime::offload::{Aborted, is_short, offload, offload_if_long};
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::cache::Cache;
pub use self::cache::CacheStats;
use crate::{
    Appended, BackgroundEnd, BackgroundResult, ChainQuery, FoundItems, IndexedItem, ItemLocation, LogRow,
    Post, Record, Status, Store, StoreError, StoredTurn, Timestamp,
};

/// How many turns a cache miss loads before it looks for the rest of the chain in memory.
const NEWEST_TURNS: u32 = 8;

/// In memory, a turn of a conversation can't be named: only its row says how long it is visible.
const NEVER_VISIBLE: Timestamp = Timestamp::from_unix_ms(0);

/// One turn of a chain, ready for replay, with all its ancestors.
#[derive(Debug)]
pub struct Turn {
    pub id: ResponseId,
    /// The root's depth is 1.
    pub depth: u32,
    pub status: Status,
    pub account: String,
    pub boundary: String,
    pub upstream_id: Option<String>,
    pub model: String,
    pub expires_at: Option<Timestamp>,
    pub segment: Segment,
    /// Of a turn that nobody served: items of earlier turns that are not replayed with it.
    pub deletes: Box<[ItemLocation]>,
    pub parent: Option<Arc<Turn>>,
    /// Its entry in the cache, for as long as it lives.
    entry: Option<cache::Entry>,
    /// The memory reserved for it, if it is in no store.
    room: Option<OwnedSemaphorePermit>,
}

/// The store, with a cache of chains in front of it.
///
/// Where other processes share the store, [`learn_deletions`](Chains::learn_deletions) brings their deletions to the cache. A
/// response that a client names is taken from memory only if that succeeded within [`Chains::STALENESS`].
pub struct Chains {
    store: Arc<dyn Store>,
    cache: Arc<Cache>,
    /// Until when memory counts as up to date; `None` if no other process deletes anything.
    fresh_until: Option<Mutex<Instant>>,
}

// === impl Chains ===

impl Chains {
    /// `cache_bytes` bounds the memory of turns that are not in use.
    pub fn new(store: Arc<dyn Store>, cache_bytes: usize) -> Self {
        let fresh_until = store.is_shared().then(|| Mutex::new(Instant::now()));
        Self { store, cache: Arc::new(Cache::new(cache_bytes)), fresh_until }
    }

    /// How long a response that another process has deleted may still be continued here.
    pub const STALENESS: Duration = Duration::from_secs(2);

    /// Removes from memory what other processes have deleted since that time, by their clocks.
    ///
    /// # Errors
    /// A [read error](StoreError#read-errors).
    pub async fn learn_deletions(&self, since: Timestamp) -> Result<(), StoreError> {
        let Some(fresh_until) = &self.fresh_until else { return Ok(()) };
        let asked_at = Instant::now();
        for (project, id) in self.store.list_deleted(since).await? {
            self.cache.hide(&project, id);
            self.cache.forget(&project, id);
        }
        *fresh_until.lock().unwrap_or_else(PoisonError::into_inner) = asked_at + Self::STALENESS;
        Ok(())
    }

    fn is_memory_fresh(&self) -> bool {
        let until = |known: &Mutex<Instant>| *known.lock().unwrap_or_else(PoisonError::into_inner);
        self.fresh_until.as_ref().is_none_or(|known| Instant::now() < until(known))
    }

    /// The store, for everything but chains.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// A turn that is neither deleted nor expired, with all its ancestors. If it is deeper than `max_depth` it comes without
    /// them, so that the caller can refuse it.
    ///
    /// # Errors
    /// A [read error](StoreError#read-errors), or [`StoreError::BrokenChain`] when an ancestor is missing.
    pub async fn load(
        &self,
        project: &ProjectId,
        id: ResponseId,
        now: Timestamp,
        max_depth: u32,
    ) -> Result<Option<Arc<Turn>>, StoreError> {
        if self.is_memory_fresh()
            && let Some(turn) = self.cache.find(project, id, now)
        {
            return Ok(Some(turn));
        }
        self.load_from(project, id, Some(now), max_depth).await
    }

    /// A turn with all its ancestors, whether or not clients can name it: the newest one of a conversation, or one that a turn continues
    /// since before it was deleted.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub async fn load_ancestor(
        &self,
        project: &ProjectId,
        id: ResponseId,
    ) -> Result<Option<Arc<Turn>>, StoreError> {
        match self.cache.find_ancestor(project, id) {
            Some(turn) => {
                self.cache.hold(project, &turn);
                Ok(Some(turn))
            }
            None => self.load_from(project, id, None, u32::MAX).await,
        }
    }

    async fn load_from(
        &self,
        project: &ProjectId,
        id: ResponseId,
        visible_at: Option<Timestamp>,
        max_depth: u32,
    ) -> Result<Option<Arc<Turn>>, StoreError> {
        let read_at = self.cache.deletions();
        let query = ChainQuery { from: id, visible_at, max_turns: NEWEST_TURNS };
        let newest = self.store.load_chain(project, query).await?;
        let Some(named) = newest.first() else { return Ok(None) };
        if named.depth > max_depth {
            return Turn::new(named, None).map(|turn| Some(Arc::new(turn)));
        }
        let (mut turns, mut parent) = self.up_to_cached(project, newest);
        if parent.is_none()
            && let Some(from) = turns.last().and_then(|oldest| oldest.parent)
        {
            let query = ChainQuery { from, visible_at: None, max_turns: max_depth };
            let rest = self.store.load_chain(project, query).await?;
            if rest.is_empty() {
                return Err(StoreError::BrokenChain { response: id });
            }
            turns.extend(rest);
        }
        let size_bytes = turns.iter().map(StoredTurn::items_bytes).sum();
        let (cache, project) = (Arc::clone(&self.cache), project.clone());
        let build = move || {
            for turn in turns.iter().rev() {
                let turn = Turn::new(turn, parent)?;
                parent = Some(cache.insert(&project, turn, &read_at));
            }
            if let Some(turn) = &parent {
                cache.hold(&project, turn);
            }
            Ok(parent)
        };
        offload_if_long(size_bytes, build).await.unwrap_or_else(|Aborted| Err(StoreError::unread(id)))
    }

    /// The turns up to the first one that is in memory, newest first, and that one.
    fn up_to_cached(
        &self,
        project: &ProjectId,
        mut turns: Vec<StoredTurn>,
    ) -> (Vec<StoredTurn>, Option<Arc<Turn>>) {
        let ids: Vec<_> = turns.iter().skip(1).map(|turn| Some(turn.id)).collect();
        let parent_of_last = turns.last().and_then(|oldest| oldest.parent);
        for (n, id) in ids.into_iter().chain([parent_of_last]).enumerate() {
            if let Some(known) = id.and_then(|id| self.cache.find_ancestor(project, id)) {
                turns.truncate(n + 1);
                return (turns, Some(known));
            }
        }
        (turns, None)
    }

    /// Makes a turn durable, and keeps it in memory for its continuation. `parent` saves a lookup where the caller has it.
    ///
    /// # Errors
    /// Those of [`Responses::record`](crate::Responses::record).
    pub async fn record(&self, record: Record, parent: Option<Arc<Turn>>) -> Result<Appended, StoreError> {
        let prepared = self.prepare(&record, parent).await?;
        let project = record.project.clone();
        let appended = self.store.record(record).await?;
        self.keep(&project, prepared, appended);
        Ok(appended)
    }

    /// Ends a background turn, as [`record`](Self::record) does others. `None` if its lease has been lost.
    ///
    /// # Errors
    /// Those of [`Background::end_background`](crate::Background::end_background).
    pub async fn end_background(
        &self,
        end: BackgroundEnd,
        parent: Option<Arc<Turn>>,
    ) -> Result<Option<Appended>, StoreError> {
        let prepared = match &end.result {
            BackgroundResult::Stored(record) => self.prepare(record, parent).await?,
            BackgroundResult::Kept { .. } => None,
        };
        let project = end.lease.project.clone();
        let ended = self.store.end_background(end).await?;
        if let Some(appended) = ended {
            self.keep(&project, prepared, appended);
        }
        Ok(ended)
    }

    /// The turn for the cache, and what the cache had forgotten by now.
    async fn prepare(
        &self,
        record: &Record,
        parent: Option<Arc<Turn>>,
    ) -> Result<Option<(Turn, cache::Deletions)>, StoreError> {
        let project = &record.project;
        let stored = &record.response.turn;
        let parent = match stored.parent {
            None => None,
            Some(id) => {
                parent.filter(|parent| parent.id == id).or_else(|| self.cache.find_ancestor(project, id))
            }
        };
        let is_whole = stored.parent.is_none() || parent.is_some();
        if !is_whole || !self.cache.keeps_any() {
            return Ok(None);
        }
        let mut turn = Turn::build(stored, parent).await?;
        if record.append.is_some() {
            turn.expires_at = Some(NEVER_VISIBLE);
        }
        Ok(Some((turn, self.cache.deletions())))
    }

    fn keep(&self, project: &ProjectId, prepared: Option<(Turn, cache::Deletions)>, appended: Appended) {
        match (appended, prepared) {
            (Appended::Done | Appended::Deleted, Some((turn, read_at))) => {
                let turn = self.cache.insert(project, turn, &read_at);
                self.cache.hold(project, &turn);
            }
            (Appended::NoParent, _) => {
                tracing::warn!(
                    "the database has lost responses that are in memory, which is emptied: it may have failed over to a \
                     standby that lacked the newest turns"
                );
                self.cache.clear();
            }
            (Appended::Done | Appended::Deleted, None) | (Appended::Conflict, _) => {}
        }
    }

    /// Appends turns that nobody served to a conversation, and keeps them in memory if what they continue is there.
    ///
    /// # Errors
    /// Those of [`Conversations::post`](crate::Conversations::post).
    pub async fn post(&self, post: Post) -> Result<Appended, StoreError> {
        let project = post.project.clone();
        let parent = post.turns.first().and_then(|first| first.parent);
        let mut newest = parent.and_then(|parent| self.cache.find_ancestor(&project, parent));
        let turns = if newest.is_some() { post.turns.clone() } else { Vec::new() };
        let read_at = self.cache.deletions();
        let appended = self.store.post(post).await?;
        if appended != Appended::Done {
            return Ok(appended);
        }
        for turn in &turns {
            let mut turn = Turn::build(turn, newest).await?;
            turn.expires_at = Some(NEVER_VISIBLE);
            let turn = self.cache.insert(&project, turn, &read_at);
            self.cache.hold(&project, &turn);
            newest = Some(turn);
        }
        Ok(appended)
    }

    /// Hides a response at once. `false` if there is no live response with this id.
    ///
    /// Run it to its end: when it is dropped, the deletion may still happen, so the response stays hidden in this process.
    ///
    /// # Errors
    /// A [write error](StoreError#write-errors). After [`StoreError::Deadline`] the response stays hidden as well.
    pub async fn delete(
        &self,
        project: &ProjectId,
        id: ResponseId,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.cache.hide(project, id);
        let result = self.store.delete(project, id, now).await;
        if !matches!(result, Err(StoreError::Deadline(_))) {
            self.cache.forget(project, id);
        }
        result
    }

    /// The items with these ids, of responses and of conversations, if they come to no more than `max_bytes`.
    ///
    /// # Errors
    /// A [read error](StoreError#read-errors).
    pub async fn load_items(
        &self,
        project: &ProjectId,
        ids: &[ItemId],
        now: Timestamp,
        max_bytes: usize,
    ) -> Result<FoundItems, StoreError> {
        let mut found = match self.store.load_items(project, ids, now, max_bytes).await? {
            FoundItems::All(found) => found,
            too_large @ FoundItems::TooLarge { .. } => return Ok(too_large),
        };
        let missing: Vec<ItemId> =
            ids.iter().zip(&found).filter(|(_, found)| found.is_none()).map(|(id, _)| id.clone()).collect();
        if missing.is_empty() {
            return Ok(FoundItems::All(found));
        }
        let of_conversations =
            self.store.find_items_of_conversations(project, &missing, max_bytes.saturating_add(1)).await?;
        let of_conversations: HashMap<_, _> =
            of_conversations.into_iter().map(|found| (found.id, found.item)).collect();
        for (id, found) in ids.iter().zip(&mut found).filter(|(_, found)| found.is_none()) {
            // To an upstream, its id is like that of an output item.
            let of_conversation = |item: &Bytes| IndexedItem {
                item: item.clone(),
                is_output: true,
                expires_at: Some(now),
                maker: None,
            };
            *found = of_conversations.get(id).map(of_conversation);
        }
        let size_bytes: usize = found.iter().flatten().map(|found| found.item.len()).sum();
        match size_bytes > max_bytes {
            true => Ok(FoundItems::TooLarge { size_bytes }),
            false => Ok(FoundItems::All(found)),
        }
    }

    /// Queues a row of the request log.
    pub fn append_log(&self, row: LogRow) {
        self.store.append_log(row);
    }

    pub fn is_available(&self) -> bool {
        self.store.is_available()
    }

    /// Bounds the memory of turns that are not in use, from now on.
    pub fn set_cache_size(&self, bytes: usize) {
        self.cache.resize(bytes);
    }

    pub fn cache_stats(&self) -> CacheStats {
        self.cache.stats()
    }
}

// === impl Turn ===

impl Turn {
    fn new(stored: &StoredTurn, parent: Option<Arc<Self>>) -> Result<Self, StoreError> {
        let segment =
            Segment::build(&stored.input, &stored.referenced, &stored.output).map_err(|malformed| {
                StoreError::Corrupt(format!("the items of response {}: {malformed}", stored.id))
            })?;
        Ok(Self {
            id: stored.id,
            depth: stored.depth,
            status: stored.status,
            account: stored.account.clone(),
            boundary: stored.boundary.clone(),
            upstream_id: stored.upstream_id.clone(),
            model: stored.model.clone(),
            expires_at: stored.expires_at,
            segment,
            deletes: stored.deletes.as_deref().unwrap_or_default().into(),
            parent,
            entry: None,
            room: None,
        })
    }

    /// As [`new`](Self::new), but on another thread if that takes long.
    async fn build(stored: &StoredTurn, parent: Option<Arc<Self>>) -> Result<Self, StoreError> {
        if is_short(stored.items_bytes()) {
            return Self::new(stored, parent);
        }
        let (id, stored) = (stored.id, stored.clone());
        let building = Box::pin(offload(move || Self::new(&stored, parent)));
        building.await.unwrap_or_else(|Aborted| Err(StoreError::unread(id)))
    }

    /// A turn that is in no store, for callers that keep chains themselves. It takes a permit of `room` for each KiB of memory;
    /// `None` if too few are left.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if its items are no JSON arrays.
    pub async fn unstored(
        stored: &StoredTurn,
        parent: Option<Arc<Self>>,
        room: &Arc<Semaphore>,
    ) -> Result<Option<Arc<Self>>, StoreError> {
        let mut turn = Self::build(stored, parent).await?;
        turn.expires_at = None;
        let kib = u32::try_from(turn.size_bytes().div_ceil(1024)).unwrap_or(u32::MAX);
        turn.room = Arc::clone(room).try_acquire_many_owned(kib).ok();
        Ok(turn.room.is_some().then(|| Arc::new(turn)))
    }

    /// Whether it is in the store.
    pub fn is_stored(&self) -> bool {
        self.room.is_none()
    }

    /// From the parent to the root.
    pub fn ancestors(&self) -> impl Iterator<Item = &Arc<Self>> {
        std::iter::successors(self.parent.as_ref(), |turn| turn.parent.as_ref())
    }

    pub fn is_visible_at(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|expires_at| expires_at > now)
    }

    fn size_bytes(&self) -> usize {
        let names = self.account.len() + self.boundary.len() + self.model.len();
        let upstream_id = self.upstream_id.as_ref().map_or(0, String::len);
        size_of::<Self>()
            + cache::BYTES_BESIDE_A_TURN
            + self.segment.size_bytes()
            + names
            + upstream_id
            + size_of_val(&*self.deletes)
    }
}

/// Drops the ancestors in a loop: recursion over a long chain would overflow the stack.
impl Drop for Turn {
    fn drop(&mut self) {
        let mut parent = self.parent.take();
        while let Some(mut turn) = parent.and_then(Arc::into_inner) {
            parent = turn.parent.take();
        }
    }
}
