//! Waiting for a conversation: of those who wait in this process, the first to come is served first.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use antiphon_protocol::id::{ConversationId, ProjectId};
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use super::ConversationError;

/// How long a turn waits for those before it. Clients retry after one second, then two and four.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two attempts. It does not grow: who has waited longest, here or in another process, must not ask most rarely.
const PAUSE: Duration = Duration::from_millis(20);

type Key = (ProjectId, ConversationId);

/// Those who wait for a conversation, or are about to change it.
#[derive(Default)]
pub(super) struct Queues(Mutex<HashMap<Key, Queue>>);

#[derive(Default)]
struct Queue {
    len: usize,
    /// The first holds it; it passes to the others in their order.
    head: Arc<tokio::sync::Mutex<()>>,
}

/// The first place in a queue: who has it asks the store for the conversation.
pub(super) struct Head<'a> {
    place: Place<'a>,
    has_waited: bool,
    /// `None` for one who is out of patience.
    _first: Option<OwnedMutexGuard<()>>,
}

/// Any place in a queue.
struct Place<'a> {
    queues: &'a Queues,
    key: Key,
    gives_up_at: Instant,
}

// === impl Queues ===

impl Queues {
    /// Waits for those who came earlier. Who is out of patience asks the store once: the first may not go on, as its client
    /// does not read.
    pub(super) async fn reach_head(&self, project: &ProjectId, conversation: ConversationId) -> Head<'_> {
        let (place, head) = self.enter((project.clone(), conversation));
        let (first, has_waited) = match Arc::clone(&head).try_lock_owned() {
            Ok(first) => (Some(first), false),
            Err(_taken) => (tokio::time::timeout_at(place.gives_up_at, head.lock_owned()).await.ok(), true),
        };
        Head { place, has_waited, _first: first }
    }

    fn enter(&self, key: Key) -> (Place<'_>, Arc<tokio::sync::Mutex<()>>) {
        let mut queues = self.lock();
        let queue = queues.entry(key.clone()).or_default();
        queue.len += 1;
        let head = Arc::clone(&queue.head);
        drop(queues);
        (Place { queues: self, key, gives_up_at: Instant::now() + PATIENCE }, head)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Queue>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Head ===

impl Head<'_> {
    /// Waits for a moment; fails once that has taken too long.
    pub(super) async fn pause(&mut self) -> Result<(), ConversationError> {
        let (now, gives_up_at) = (Instant::now(), self.place.gives_up_at);
        if now >= gives_up_at {
            return Err(ConversationError::Locked);
        }
        tokio::time::sleep_until(gives_up_at.min(now + PAUSE)).await;
        self.has_waited = true;
        Ok(())
    }

    pub(super) fn has_waited(&self) -> bool {
        self.has_waited
    }
}

// === impl Place ===

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut queues = self.queues.lock();
        if let Some(queue) = queues.get_mut(&self.key) {
            queue.len -= 1;
            if queue.len == 0 {
                queues.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt;

    use super::*;

    fn project() -> ProjectId {
        ProjectId::new("p")
    }

    fn conversation() -> ConversationId {
        ConversationId::from_uuid(uuid::Uuid::nil())
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_to_come_is_the_first_and_nobody_overtakes() {
        let (queues, project, conversation) = (Queues::default(), project(), conversation());
        let reach_head = || queues.reach_head(&project, conversation);
        let first = reach_head().await;
        assert!(!first.has_waited());
        let (mut second, mut third) = (pin!(reach_head()), pin!(reach_head()));
        assert!(second.as_mut().now_or_never().is_none());
        assert!(third.as_mut().now_or_never().is_none());
        drop(first);
        assert!(reach_head().now_or_never().is_none(), "it would overtake");
        assert!(third.as_mut().now_or_never().is_none());
        let second = second.await;
        assert!(second.has_waited());
        drop(second);
        drop(third.await);
        assert!(queues.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_out_of_patience_asks_once_and_leaves() {
        let (queues, project, conversation) = (Queues::default(), project(), conversation());
        let reach_head = || queues.reach_head(&project, conversation);
        let mut first = reach_head().await;
        let mut second = reach_head().await;
        assert!(second.has_waited());
        for head in [&mut second, &mut first] {
            assert!(matches!(head.pause().await, Err(ConversationError::Locked)));
        }
        drop((first, second));
        assert!(queues.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_one_who_has_left() {
        let (queues, project, conversation) = (Queues::default(), project(), conversation());
        let reach_head = || queues.reach_head(&project, conversation);
        let first = reach_head().await;
        let (mut leaves, mut next) = (Box::pin(reach_head()), pin!(reach_head()));
        assert!(leaves.as_mut().now_or_never().is_none());
        assert!(next.as_mut().now_or_never().is_none());
        drop(leaves);
        drop(first);
        assert!(next.await._first.is_some());
        assert!(queues.lock().is_empty());
    }

    #[tokio::test]
    async fn projects_and_conversations_do_not_wait_for_each_other() {
        let (queues, conversation) = (Queues::default(), conversation());
        let _first = queues.reach_head(&project(), conversation).await;
        let other = ConversationId::from_uuid(uuid::Uuid::max());
        assert!(queues.reach_head(&project(), other).now_or_never().is_some());
        assert!(queues.reach_head(&ProjectId::new("q"), conversation).now_or_never().is_some());
    }
}
