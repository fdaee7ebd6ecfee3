//! Background turns in conversations: the lock that they are queued with, and what their end appends.

use std::sync::Arc;

use antiphon_store::{
    Append, Appended, BackgroundEnd, BackgroundResult, BackgroundStatus, ConversationLock, NewBackgroundTurn,
    Status, Store, StoredConversation, TurnLease,
};

use crate::background::{end, limits, queued, status};
use crate::conversations::{begin, conversation_id, ids, load, next, post, turn_in};
use crate::fixture::{Fixture, NOW, after, id, project};

fn lock(n: u64) -> ConversationLock {
    ConversationLock { project: project("p"), conversation: conversation_id(1), holder: id(n).uuid() }
}

/// Queues a turn that has locked the conversation.
async fn queue(store: &Arc<dyn Store>, n: u64, now: &StoredConversation) -> TurnLease {
    assert!(store.lock_conversation(&lock(n), now.version, NOW, after(30)).await.unwrap());
    let turn = NewBackgroundTurn { lock: Some(lock(n)), ..queued(n) };
    let lease = turn.lease.clone();
    assert!(store.queue_background(turn, limits(100)).await.unwrap());
    lease
}

/// The end of a turn that is appended to the conversation as it was then.
fn appending(lease: &TurnLease, n: u64, to: &StoredConversation) -> BackgroundEnd {
    let mut record = turn_in(to, next(n, to));
    record.append = record.append.map(|append| Append { holder: Some(lock(n).holder), ..append });
    BackgroundEnd { result: BackgroundResult::Stored(Box::new(record)), ..end(lease, n, Status::Completed) }
}

pub(crate) async fn a_queued_turn_keeps_its_lock_until_its_deadline_or_its_end(fixture: impl Fixture) {
    let store = fixture.open().await;
    let new = begin(&store, 1).await;
    let lease = queue(&store, 1, &new).await;
    assert_eq!(load(&store, 1).await.locked_until, Some(after(3_600)));
    // A renewal that was on its way when the turn was queued.
    store.renew_conversation_locks(vec![lock(1)], after(40)).await.unwrap();
    assert_eq!(load(&store, 1).await.locked_until, Some(after(3_600)));
    assert_eq!(store.post(post(&new, [7])).await.unwrap(), Appended::Conflict);
    let ended = store.end_background(appending(&lease, 1, &new)).await.unwrap();
    assert_eq!(ended, Some(Appended::Done));
    let one = load(&store, 1).await;
    assert_eq!((one.head, one.depth, one.locked_until), (Some(id(1)), 1, None));
    assert_eq!(ids(&store, 1).await.len(), 2);
    assert!(
        store.load(&project("p"), id(1), after(1_000_000)).await.unwrap().is_some(),
        "it does not expire"
    );

    let lease = queue(&store, 2, &one).await;
    let failed = BackgroundEnd { unlocks: Some(lock(2)), ..end(&lease, 2, Status::Failed) };
    assert_eq!(store.end_background(failed).await.unwrap(), Some(Appended::Done));
    let two = load(&store, 1).await;
    assert_eq!((two.head, two.version, two.locked_until), (Some(id(1)), 1, None));
}

pub(crate) async fn an_end_that_can_not_append_writes_nothing(fixture: impl Fixture) {
    let store = fixture.open().await;
    let new = begin(&store, 1).await;
    let lease = queue(&store, 1, &new).await;
    store.unlock_conversation(lock(1));
    antiphon_testkit::eventually("it is free", async || load(&store, 1).await.locked_until.is_none()).await;
    assert_eq!(store.post(post(&new, [7])).await.unwrap(), Appended::Done);
    let between = load(&store, 1).await;
    let other = end(&queue_elsewhere(&store).await, 9, Status::Completed);
    let (refused, beside) =
        tokio::join!(store.end_background(appending(&lease, 1, &new)), store.end_background(other));
    assert_eq!((refused.unwrap(), beside.unwrap()), (Some(Appended::Conflict), Some(Appended::Done)));
    assert_eq!(status(&store, id(1)).await, Some(BackgroundStatus::Queued));
    assert_eq!(store.load(&project("p"), id(1), NOW).await.unwrap(), None);
    assert_eq!(store.list_log(9).await.unwrap().len(), 1);
    assert_eq!(load(&store, 1).await, between);
    // It goes on after what has come between.
    let ended = store.end_background(appending(&lease, 1, &between)).await.unwrap();
    assert_eq!(ended, Some(Appended::Done));
    assert_eq!(ids(&store, 1).await.len(), 3);
}

async fn queue_elsewhere(store: &Arc<dyn Store>) -> TurnLease {
    let turn = queued(9);
    let lease = turn.lease.clone();
    assert!(store.queue_background(turn, limits(100)).await.unwrap());
    lease
}

pub(crate) async fn an_end_without_the_parent_that_it_needs_writes_nothing(fixture: impl Fixture) {
    let store = fixture.open().await;
    for n in [1, 2] {
        assert!(store.queue_background(queued(n), limits(100)).await.unwrap());
    }
    let continuing = |n| {
        let mut end = end(&queued(n).lease, n, Status::Completed);
        if let BackgroundResult::Stored(record) = &mut end.result {
            record.response.turn.parent = Some(id(9));
            record.needs_parent = n == 1;
        }
        end
    };
    let ends = [1, 2].map(|n| store.end_background(continuing(n)));
    let [gone, unconcerned] = ends;
    let (gone, unconcerned) = tokio::join!(gone, unconcerned);
    assert_eq!((gone.unwrap(), unconcerned.unwrap()), (Some(Appended::NoParent), Some(Appended::Done)));
    assert_eq!(status(&store, id(1)).await, Some(BackgroundStatus::Queued));
    assert_eq!(store.load(&project("p"), id(1), NOW).await.unwrap(), None);
    assert_eq!(store.list_log(9).await.unwrap().len(), 1);
}

pub(crate) async fn an_end_is_stored_without_its_deleted_conversation(fixture: impl Fixture) {
    let store = fixture.open().await;
    let new = begin(&store, 1).await;
    let lease = queue(&store, 1, &new).await;
    assert!(store.delete_conversation(&project("p"), new.id, after(1), None).await.unwrap());
    assert_eq!(store.load_conversation(&project("p"), new.id).await.unwrap(), None);
    let deleted = store.load_conversation_of_turn(&project("p"), new.id).await.unwrap().unwrap();
    assert_eq!((deleted.head, deleted.version), (new.head, new.version));
    let ended = store.end_background(appending(&lease, 1, &deleted)).await.unwrap();
    assert_eq!(ended, Some(Appended::Deleted));
    assert!(store.load(&project("p"), id(1), NOW).await.unwrap().is_some());
    while store.purge_conversations(after(1), 9).await.unwrap() {}
    assert_eq!(store.load_conversation_of_turn(&project("p"), new.id).await.unwrap(), None);
}
