//! Conversations: their head moves with their turns, and their items are what was added and not deleted.

use std::sync::Arc;
use std::time::Duration;

use antiphon_protocol::id::{ConversationId, ItemId};
use antiphon_protocol::{item, json};
use antiphon_store::chain::Chains;
use antiphon_store::{
    Append, Appended, AppendedItem, ConversationLock, ConversationQuery, ItemLocation, PageEnd, Post,
    PurgeProgress, Record, Store, StoredConversation, StoredTurn, Timestamp,
};
use uuid::Uuid;

use crate::fixture::{Fixture, NOW, after, id, numbers, project, record_of, turn, whole};

pub(crate) fn conversation_id(n: u8) -> ConversationId {
    ConversationId::mint(NOW.unix_ms().unsigned_abs() + u64::from(n), &[n; 10])
}

pub(crate) async fn begin(store: &Arc<dyn Store>, n: u8) -> StoredConversation {
    let new = StoredConversation::new(conversation_id(n), &project("p"), NOW, r#"{"a":"b"}"#.into());
    store.add_conversation(new.clone()).await.unwrap();
    new
}

pub(crate) async fn load(store: &Arc<dyn Store>, n: u8) -> StoredConversation {
    store.load_conversation(&project("p"), conversation_id(n)).await.unwrap().unwrap()
}

/// A turn that continues the head of a conversation.
pub(crate) fn next(n: u64, conversation: &StoredConversation) -> StoredTurn {
    StoredTurn { parent: conversation.head, depth: conversation.depth + 1, ..turn(n, None) }
}

fn append(conversation: &StoredConversation, turns: &[&StoredTurn]) -> Append {
    let items = turns.iter().flat_map(|turn| {
        let arrays = [&turn.input, &turn.output];
        let items =
            arrays.into_iter().flat_map(|array| json::elements(array).map(|range| &array[range.unwrap()]));
        (0..).zip(items).map(|(position, item)| {
            let otherwise = item::derived_id(item, turn.id, position);
            let id = item::id(item).unwrap_or_else(|| otherwise.clone());
            AppendedItem { id, otherwise, location: ItemLocation { turn: turn.id, position } }
        })
    });
    Append {
        conversation: conversation.id,
        holder: None,
        now: NOW,
        version: conversation.version,
        first_position: conversation.next_position,
        items: items.collect(),
    }
}

/// A response in a conversation.
pub(crate) fn turn_in(conversation: &StoredConversation, turn: StoredTurn) -> Record {
    let append = append(conversation, &[&turn]);
    Record { append: Some(append), ..record_of("p", turn) }
}

/// Items that are posted, each turn with one.
pub(crate) fn post(conversation: &StoredConversation, numbers: impl IntoIterator<Item = u64>) -> Post {
    let mut turns: Vec<StoredTurn> = Vec::new();
    for n in numbers {
        let mut turn = StoredTurn { output: "[]".into(), deletes: Some(Vec::new()), ..next(n, conversation) };
        if let Some(before) = turns.last() {
            (turn.parent, turn.depth) = (Some(before.id), before.depth + 1);
        }
        turns.push(turn);
    }
    let append = append(conversation, &turns.iter().collect::<Vec<_>>());
    Post { project: project("p"), created_at: NOW, begins: None, turns, deletes: None, append }
}

pub(crate) async fn ids(store: &Arc<dyn Store>, n: u8) -> Vec<String> {
    let page = store.list_conversation_items(query(n)).await.unwrap();
    page.items.into_iter().map(|item| item.id.as_str().to_owned()).collect()
}

fn query(n: u8) -> ConversationQuery {
    ConversationQuery {
        project: project("p"),
        conversation: conversation_id(n),
        after: None,
        descending: false,
        max_items: 1_000,
        max_bytes: usize::MAX,
    }
}

fn derived(n: u64) -> String {
    ItemId::derived("msg_", id(n), 0).as_str().to_owned()
}

pub(crate) async fn a_turn_moves_the_head_and_adds_its_items(fixture: impl Fixture) {
    let store = fixture.open().await;
    let new = begin(&store, 1).await;
    assert_eq!(load(&store, 1).await, new);
    assert_eq!(store.record(turn_in(&new, next(1, &new))).await.unwrap(), Appended::Done);
    let one = load(&store, 1).await;
    assert_eq!((one.head, one.depth, one.next_position), (Some(id(1)), 1, 2));
    assert_eq!(store.post(post(&one, [2, 3])).await.unwrap(), Appended::Done);
    let two = load(&store, 1).await;
    assert_eq!((two.head, two.depth, two.next_position), (Some(id(3)), 3, 4));
    store.record(turn_in(&two, next(4, &two))).await.unwrap();
    assert_eq!(
        ids(&store, 1).await,
        [derived(1), "msg_1".into(), derived(2), derived(3), derived(4), "msg_4".into()]
    );
    assert!(numbers(&store.load_chain(&project("p"), whole(4)).await.unwrap(), [4, 3, 2, 1]));
    assert_eq!(store.load_conversation(&project("q"), conversation_id(1)).await.unwrap(), None);
}

pub(crate) async fn what_was_posted_is_no_response(fixture: impl Fixture) {
    let store = fixture.open().await;
    let new = begin(&store, 1).await;
    store.post(post(&new, [1])).await.unwrap();
    assert_eq!(store.load(&project("p"), id(1), NOW).await.unwrap(), None);
    assert!(!store.delete(&project("p"), id(1), NOW).await.unwrap());
    let chains = Chains::new(Arc::clone(&store), 1 << 20);
    assert!(chains.load_ancestor(&project("p"), id(1)).await.unwrap().is_some());
    assert!(chains.load(&project("p"), id(1), NOW, 10).await.unwrap().is_none(), "it is in memory by now");
}

pub(crate) async fn an_append_to_another_version_changes_nothing(fixture: impl Fixture) {
    let store = fixture.open().await;
    let new = begin(&store, 1).await;
    let (first, second) = (turn_in(&new, next(1, &new)), turn_in(&new, next(2, &new)));
    let together = tokio::join!(store.record(first), store.record(second), store.post(post(&new, [3])));
    let outcomes = [together.0.unwrap(), together.1.unwrap(), together.2.unwrap()];
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Appended::Done).count(), 1, "{outcomes:?}");
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Appended::Conflict).count(), 2);
    let mut stored = 0;
    for n in 1..=3 {
        stored += store.load_chain(&project("p"), whole(n)).await.unwrap().len();
    }
    assert_eq!((stored, load(&store, 1).await.version), (1, 1));
}

pub(crate) async fn a_lock_keeps_others_out_until_its_lease_ends(fixture: impl Fixture) {
    let store = fixture.open().await;
    let new = begin(&store, 1).await;
    let lock = |n: u128| ConversationLock {
        project: project("p"),
        conversation: conversation_id(1),
        holder: Uuid::from_u128(n),
    };
    let take =
        async |n, now: Timestamp, until| store.lock_conversation(&lock(n), 0, now, until).await.unwrap();
    assert!(take(1, NOW, after(30)).await);
    assert!(!take(2, after(29), after(60)).await);
    assert_eq!(store.post(post(&new, [1])).await.unwrap(), Appended::Conflict);
    store.renew_conversation_locks(vec![lock(1), lock(2)], after(40)).await.unwrap();
    assert!(!take(2, after(39), after(60)).await);
    assert!(take(2, after(40), after(60)).await);
    // The first holder has lost it, and knows nothing of that.
    let of = |holder, n| {
        let record = turn_in(&new, next(n, &new));
        Record {
            append: record.append.map(|append| Append { holder: Some(Uuid::from_u128(holder)), ..append }),
            ..record
        }
    };
    assert_eq!(store.record(of(1, 2)).await.unwrap(), Appended::Conflict);
    assert_eq!(store.record(of(2, 3)).await.unwrap(), Appended::Done);
    assert_eq!(load(&store, 1).await.locked_until, None, "the append has ended it");
    assert!(store.lock_conversation(&lock(3), 1, NOW, after(30)).await.unwrap());
    store.unlock_conversation(lock(1));
    store.unlock_conversation(lock(3));
    antiphon_testkit::eventually("it is free", async || load(&store, 1).await.locked_until.is_none()).await;
}

pub(crate) async fn a_deleted_item_is_left_out_from_then_on(fixture: impl Fixture) {
    let store = fixture.open().await;
    let mut now = begin(&store, 1).await;
    for n in 1..=3 {
        store.record(turn_in(&now, next(n, &now))).await.unwrap();
        now = load(&store, 1).await;
    }
    let found =
        store.find_conversation_items(&project("p"), now.id, &[ItemId::new("msg_2").unwrap()]).await.unwrap();
    let tombstone = StoredTurn {
        input: "[]".into(),
        output: "[]".into(),
        deletes: Some(vec![found[0].location]),
        ..next(4, &now)
    };
    let deletion = Post {
        append: append(&now, &[]),
        turns: vec![tombstone.clone()],
        deletes: Some(found[0].position),
        ..post(&now, [])
    };
    assert_eq!(store.post(deletion).await.unwrap(), Appended::Done);
    assert_eq!(ids(&store, 1).await, [derived(1), "msg_1".into(), derived(2), derived(3), "msg_3".into()]);
    let chain = store.load_chain(&project("p"), whole(4)).await.unwrap();
    assert_eq!(chain[0].deletes, tombstone.deletes);
    assert!(numbers(&chain, [4, 3, 2, 1]), "the row of the item is what it was");
    assert_eq!(load(&store, 1).await.next_position, 6, "no position comes back");
}

pub(crate) async fn items_come_in_pages_both_ways(fixture: impl Fixture) {
    let store = fixture.open().await;
    let new = begin(&store, 1).await;
    store.post(post(&new, 1..=25)).await.unwrap();
    for descending in [false, true] {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let query = ConversationQuery { after, descending, max_items: 7, ..query(1) };
            let page = store.list_conversation_items(query).await.unwrap();
            seen.extend(page.items.iter().map(|item| item.position));
            after = page.items.last().map(|item| item.position);
            if page.end == PageEnd::Last {
                break;
            }
        }
        let expected: Vec<u64> = if descending { (0..25).rev().collect() } else { (0..25).collect() };
        assert_eq!(seen, expected);
    }
    let small = ConversationQuery { max_bytes: 1, ..query(1) };
    let page = store.list_conversation_items(small).await.unwrap();
    assert_eq!((page.items.len(), page.end), (1, PageEnd::More));
    let exact = ConversationQuery { max_items: 25, ..query(1) };
    assert_eq!(store.list_conversation_items(exact).await.unwrap().end, PageEnd::Last);
}

pub(crate) async fn an_id_that_comes_again_is_replaced(fixture: impl Fixture) {
    let store = fixture.open().await;
    let new = begin(&store, 1).await;
    store.record(turn_in(&new, next(1, &new))).await.unwrap();
    let one = load(&store, 1).await;
    let again = StoredTurn { output: turn(1, None).output, ..next(2, &one) };
    store.record(turn_in(&one, again)).await.unwrap();
    let second = ItemId::derived("msg_", id(2), 1).as_str().to_owned();
    assert_eq!(ids(&store, 1).await, [derived(1), "msg_1".into(), derived(2), second]);
}

pub(crate) async fn turns_of_a_conversation_live_as_long_as_it_does(fixture: impl Fixture) {
    let store = fixture.open().await;
    let mut now = begin(&store, 1).await;
    for n in [1, 3] {
        let turn = StoredTurn { expires_at: Some(after(10)), ..next(n, &now) };
        store.record(turn_in(&now, turn)).await.unwrap();
        store.post(post(&load(&store, 1).await, [n + 1])).await.unwrap();
        now = load(&store, 1).await;
    }
    assert!(store.delete(&project("p"), id(3), NOW).await.unwrap());
    assert_eq!(
        store.purge(&mut PurgeProgress::default(), after(1_000), None, 100).await.unwrap().responses,
        0
    );
    assert!(store.load(&project("p"), id(1), after(1_000)).await.unwrap().is_some());
    assert_eq!(ids(&store, 1).await.len(), 6);

    let kept = Some(Duration::from_secs(2_000));
    assert!(store.delete_conversation(&project("p"), now.id, after(1_000), kept).await.unwrap());
    assert!(!store.delete_conversation(&project("p"), now.id, after(1_000), kept).await.unwrap());
    assert_eq!(store.load_conversation(&project("p"), now.id).await.unwrap(), None);
    assert_eq!(store.post(post(&now, [9])).await.unwrap(), Appended::Deleted);
    assert_eq!(store.record(turn_in(&now, next(5, &now))).await.unwrap(), Appended::Deleted);
    assert!(!store.purge_conversations(after(999), 100).await.unwrap(), "a turn may run in it");
    let mut calls = 0;
    while store.purge_conversations(after(1_000), 2).await.unwrap() {
        calls += 1;
    }
    assert!((4..=6).contains(&calls), "{calls}");
    assert!(store.load(&project("p"), id(1), after(1_999)).await.unwrap().is_some());
    assert!(store.load(&project("p"), id(1), after(2_000)).await.unwrap().is_none());
    assert!(numbers(&store.load_chain(&project("p"), whole(5)).await.unwrap(), [5, 4, 3, 2, 1]));
    assert_eq!(
        store.purge(&mut PurgeProgress::default(), after(3_000), None, 100).await.unwrap().responses,
        0,
        "the last one was recorded without it"
    );
    assert!(store.delete(&project("p"), id(5), after(3_000)).await.unwrap());
    assert_eq!(
        store.purge(&mut PurgeProgress::default(), after(3_000), None, 100).await.unwrap().responses,
        5
    );
}

pub(crate) async fn conversations_are_listed_by_project(fixture: impl Fixture) {
    let store = fixture.open().await;
    for n in 1..=5 {
        begin(&store, n).await;
    }
    store.delete_conversation(&project("p"), conversation_id(4), NOW, None).await.unwrap();
    let listed = async |after: Option<u8>, max| {
        let rows = store.list_conversations(&project("p"), after.map(conversation_id), max).await.unwrap();
        rows.into_iter().map(|row| row.id).collect::<Vec<_>>()
    };
    assert_eq!(listed(None, 2).await, [5, 3].map(conversation_id));
    assert_eq!(listed(Some(3), 9).await, [2, 1].map(conversation_id));
    assert_eq!(store.list_conversations(&project("q"), None, 9).await.unwrap(), []);
    let metadata = r#"{"c":"d"}"#;
    assert!(
        store
            .set_conversation_metadata(&project("p"), conversation_id(1), metadata.into(), NOW)
            .await
            .unwrap()
    );
    assert_eq!(load(&store, 1).await.metadata, metadata);
    assert!(
        !store
            .set_conversation_metadata(&project("p"), conversation_id(4), metadata.into(), NOW)
            .await
            .unwrap()
    );
    let stats = store.stats(NOW).await.unwrap();
    assert_eq!((stats.len(), stats[0].conversations, stats[0].responses), (1, 4, 0));
}

pub(crate) async fn a_conversation_counts_its_items_and_bytes(fixture: impl Fixture) {
    let store = fixture.open().await;
    let new = begin(&store, 1).await;
    let size = async || store.size_of_conversations(&project("p")).await.unwrap();
    assert_eq!((new.items, new.size_bytes, size().await), (0, 1024 + 9, 1024 + 9));
    let (response, record) = (next(1, &new), turn_in(&new, next(1, &new)));
    let added = response.input.len() + response.output.len() + record.response.body.len();
    let later = Append { now: after(5), ..record.append.clone().unwrap() };
    store.record(Record { append: Some(later), ..record }).await.unwrap();
    let one = load(&store, 1).await;
    assert_eq!((one.items, one.used_at), (2, after(5)));
    assert_eq!(one.size_bytes - new.size_bytes, 1024 + added as u64);

    let deletion = Post { deletes: Some(0), ..post(&one, []) };
    let turn =
        StoredTurn { input: "[]".into(), output: "[]".into(), deletes: Some(Vec::new()), ..next(2, &one) };
    store.post(Post { turns: vec![turn], ..deletion }).await.unwrap();
    let two = load(&store, 1).await;
    assert_eq!((two.items, two.size_bytes - one.size_bytes), (1, 1024 + 4), "what it takes on disk stays");
    begin(&store, 2).await;
    assert_eq!(size().await, two.size_bytes + new.size_bytes);
    assert_eq!(store.size_of_conversations(&project("q")).await.unwrap(), 0);
    let longer = r#"{"a":"bcd"}"#;
    store
        .set_conversation_metadata(&project("p"), conversation_id(2), longer.into(), after(7))
        .await
        .unwrap();
    let changed = load(&store, 2).await;
    assert_eq!((changed.size_bytes, changed.used_at), (1024 + 11, after(7)));
    assert_eq!(store.stats(NOW).await.unwrap()[0].conversation_bytes, size().await);
    store.delete_conversation(&project("p"), conversation_id(1), NOW, None).await.unwrap();
    assert_eq!(size().await, 1024 + 11);
}

pub(crate) async fn an_unused_conversation_expires_with_its_trunk(fixture: impl Fixture) {
    let store = fixture.open().await;
    for n in 1..=3 {
        let new = begin(&store, n).await;
        store.post(post(&new, [u64::from(n)])).await.unwrap();
    }
    // A turn in it has ended, and another one runs.
    let used = load(&store, 2).await;
    let turn = StoredTurn { expires_at: Some(after(10)), ..next(20, &used) };
    let record = turn_in(&used, turn);
    let later = Append { now: after(100), ..record.append.clone().unwrap() };
    store.record(Record { append: Some(later), ..record }).await.unwrap();
    let busy = load(&store, 3).await;
    let lock = ConversationLock { project: project("p"), conversation: busy.id, holder: Uuid::from_u128(1) };
    assert!(store.lock_conversation(&lock, busy.version, after(50), after(80)).await.unwrap());

    let expire = async |unused_since: Timestamp, now| {
        let kept = Some(Duration::from_secs(1));
        while store.expire_conversations(unused_since, after(now), kept, 1).await.unwrap() {}
        let listed = store.list_conversations(&project("p"), None, 9).await.unwrap();
        listed.into_iter().map(|row| row.id).collect::<Vec<_>>()
    };
    assert_eq!(
        expire(NOW.minus(Duration::from_secs(1)), 60).await,
        [3, 2, 1].map(conversation_id),
        "none is as old as that"
    );
    assert_eq!(expire(after(20), 60).await, [3, 2].map(conversation_id));
    assert_eq!(expire(after(20), 90).await, [2].map(conversation_id), "its lock has ended");
    assert_eq!(expire(after(150), 200).await, []);
    while store.purge_conversations(after(200), 100).await.unwrap() {}
    assert_eq!(store.purge(&mut PurgeProgress::default(), after(200), None, 100).await.unwrap().responses, 4);
    assert!(store.stats(NOW).await.unwrap().is_empty());
}
