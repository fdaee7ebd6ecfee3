//! Locks: one turn at a time runs in a conversation.
//!
//! A lock is in the store, where all replicas see it, and lasts for a lease. A job renews the leases of the turns that run here.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use antiphon_protocol::id::ProjectId;
use antiphon_store::{ConversationLock, Store, StoreError, StoredConversation, Timestamp};
use uuid::Uuid;

use super::room::Grown;
use super::{ConversationError, Conversations, parse_id};

/// How long a lock lasts after it was renewed: until then nobody else appends to the conversation of a replica that has died.
const LEASE: Duration = Duration::from_secs(30);

/// The locks of turns that run in this process.
pub(super) struct Locks {
    store: Arc<dyn Store>,
    held: Mutex<HashMap<Uuid, ConversationLock>>,
}

/// A lock that is renewed as long as this lives, and released when it is dropped.
pub struct HeldLock {
    lock: ConversationLock,
    locks: Arc<Locks>,
    /// Nothing is left to release here.
    is_over: AtomicBool,
}

// === impl Conversations ===

impl Conversations {
    /// Waits for the turn that runs in a conversation, and locks it for another. `holder` identifies that one. Gives up when
    /// that is abandoned while it waits.
    pub async fn lock(
        &self,
        project: &ProjectId,
        name: &str,
        holder: Uuid,
        is_abandoned: impl Fn() -> bool,
    ) -> Result<(StoredConversation, HeldLock), ConversationError> {
        let mut head = self.queues.reach_head(project, parse_id(name)?).await;
        loop {
            if head.has_waited() && is_abandoned() {
                return Err(ConversationError::Locked);
            }
            let conversation = self.load(project, name).await?;
            let now = self.clock.now();
            if conversation.locked_until.is_none_or(|until| until <= now) {
                let lock =
                    ConversationLock { project: project.clone(), conversation: conversation.id, holder };
                if let Some(held) = self.take(lock, conversation.version, now).await? {
                    self.check_room(project, one_more(&conversation)).await?;
                    return Ok((conversation, held));
                }
            }
            head.pause().await?;
        }
    }

    /// Takes a lock; `None` if the conversation has another version by now, or is locked. When this future is dropped, the lock is
    /// released once the store has taken it: an earlier release could overtake that.
    async fn take(
        &self,
        lock: ConversationLock,
        version: u64,
        now: Timestamp,
    ) -> Result<Option<HeldLock>, ConversationError> {
        let (store, held) = (Arc::clone(self.store()), self.locks.hold(lock.clone()));
        let taking = async move {
            let is_taken = store.lock_conversation(&lock, version, now, now.plus(LEASE)).await;
            if let Ok(false) = is_taken {
                held.end();
            }
            is_taken.map(|is_taken| is_taken.then_some(held))
        };
        Ok(self.tasks.complete(taking).await.ok_or(ConversationError::Internal)??)
    }

    /// Renews the locks of the turns that run here.
    pub async fn renew_locks(&self) -> Result<(), StoreError> {
        let held: Vec<ConversationLock> = self.locks.held().values().cloned().collect();
        match held.is_empty() {
            true => Ok(()),
            false => self.store().renew_conversation_locks(held, self.clock.now().plus(LEASE)).await,
        }
    }
}

/// Before a turn has run, nobody knows how much it adds.
fn one_more(conversation: &StoredConversation) -> Grown {
    Grown { items: conversation.items + 1, bytes: conversation.size_bytes + 1, added_bytes: 1 }
}

// === impl Locks ===

impl Locks {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, held: Mutex::default() }
    }

    fn hold(self: &Arc<Self>, lock: ConversationLock) -> HeldLock {
        self.held().insert(lock.holder, lock.clone());
        HeldLock { lock, locks: Arc::clone(self), is_over: AtomicBool::new(false) }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<Uuid, ConversationLock>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl HeldLock ===

impl HeldLock {
    /// The lock as it is in the store.
    pub fn lock(&self) -> &ConversationLock {
        &self.lock
    }

    /// Notes that the lock has ended in the store, or that its turn was queued with it.
    pub fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

impl Drop for HeldLock {
    fn drop(&mut self) {
        self.locks.held().remove(&self.lock.holder);
        if !self.is_over.load(Ordering::Relaxed) {
            self.locks.store.unlock_conversation(self.lock.clone());
        }
    }
}
