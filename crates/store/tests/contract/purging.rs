//! Purging removes what nobody can see or replay any more, and nothing else.

use std::sync::Arc;

use antiphon_protocol::id::ItemId;
use antiphon_store::{PurgeProgress, Store, StoredTurn};

use crate::fixture::{
    Fixture, NOW, after, append_all, id, log_row, numbers, project, record, record_all, record_chain,
    record_of, turn, whole,
};

async fn purge(store: &Arc<dyn Store>, seconds: u64) -> u64 {
    store.purge(&mut PurgeProgress::default(), after(seconds), None, 10_000).await.unwrap().responses
}

async fn delete(store: &Arc<dyn Store>, responses: impl IntoIterator<Item = u64>) {
    for n in responses {
        assert!(store.delete(&project("p"), id(n), NOW).await.unwrap());
    }
}

pub(crate) async fn live_responses_stay(fixture: impl Fixture) {
    let store = fixture.open().await;
    record_chain(&store, 1, 3, None).await;
    store.record(record_of("p", StoredTurn { expires_at: Some(after(10)), ..turn(9, None) })).await.unwrap();
    assert_eq!(purge(&store, 9).await, 0);
    assert_eq!(purge(&store, 10).await, 1);
    assert!(numbers(&store.load_chain(&project("p"), whole(3)).await.unwrap(), [3, 2, 1]));
}

pub(crate) async fn a_dead_ancestor_of_a_live_response_stays(fixture: impl Fixture) {
    let store = fixture.open().await;
    record_chain(&store, 1, 5, None).await;
    delete(&store, [1, 2, 3, 5]).await;
    assert_eq!(purge(&store, 0).await, 1);
    assert_eq!(purge(&store, 0).await, 0);
    assert!(numbers(&store.load_chain(&project("p"), whole(4)).await.unwrap(), [4, 3, 2, 1]));
    delete(&store, [4]).await;
    assert_eq!(purge(&store, 0).await, 4);
    assert_eq!(store.load_chain(&project("p"), whole(4)).await.unwrap(), []);
}

pub(crate) async fn a_dead_chain_is_purged_in_few_calls(fixture: impl Fixture) {
    const LEN: u64 = 1_000;
    let store = fixture.open().await;
    let dies = |n| StoredTurn {
        expires_at: Some(after(n)),
        ..turn(n, (n > 1).then(|| (n - 1, u32::try_from(n).unwrap() - 1)))
    };
    record_all(&store, (1..=LEN).map(|n| record_of("p", dies(n))).collect()).await;
    let mut removed = 0;
    for calls in 1.. {
        let purged =
            store.purge(&mut PurgeProgress::default(), after(LEN), None, 300).await.unwrap().responses;
        removed += purged;
        assert!(purged <= 300);
        let rest = store.load_chain(&project("p"), whole(LEN - removed)).await.unwrap();
        assert!(numbers(&rest, (1..=LEN - removed).rev()), "leaf first");
        if purged == 0 {
            break;
        }
        assert!(calls < 8, "too many calls");
    }
    assert_eq!(removed, LEN);
}

pub(crate) async fn a_purge_goes_on_where_it_was(fixture: impl Fixture) {
    const LEN: u64 = 1_200;
    let store = fixture.open().await;
    // More expired responses than are looked at together, all of them needed by the last one.
    let expires = |n, seconds| StoredTurn {
        expires_at: Some(after(seconds)),
        ..turn(n, (n > 1).then(|| (n - 1, u32::try_from(n).unwrap() - 1)))
    };
    let living = (1..=LEN).map(|n| record_of("p", expires(n, if n < LEN { 1 } else { 1_000 })));
    record_all(&store, living.collect()).await;
    let alone = (2_001..=2_020)
        .map(|n| record_of("p", StoredTurn { expires_at: Some(after(n - 2_000)), ..turn(n, None) }));
    record_all(&store, alone.collect()).await;

    let mut progress = PurgeProgress::default();
    let mut purge = async |seconds, max_rows| {
        store.purge(&mut progress, after(seconds), None, max_rows).await.unwrap().responses
    };
    assert_eq!(purge(10, 4).await, 4, "what goes is found behind what stays");
    assert_eq!(purge(10, 100).await, 6);
    assert_eq!(purge(10, 100).await, 0);
    assert_eq!(purge(20, 100).await, 10, "what has expired since");
    assert_eq!(purge(20, 100).await, 0);
    let mut removed = 0;
    for _ in 0..LEN.div_ceil(500) {
        removed += purge(1_000, 500).await;
    }
    assert_eq!(removed, LEN, "with the last one go all that it needed");
    assert_eq!(purge(1_000, 500).await, 0);
}

pub(crate) async fn a_dead_branch_is_purged_and_its_live_trunk_stays(fixture: impl Fixture) {
    let store = fixture.open().await;
    record_chain(&store, 1, 3, None).await;
    record_chain(&store, 10, 3, Some((2, 2))).await;
    delete(&store, [2, 10, 11, 12]).await;
    assert_eq!(purge(&store, 0).await, 3);
    assert!(numbers(&store.load_chain(&project("p"), whole(3)).await.unwrap(), [3, 2, 1]));
}

pub(crate) async fn a_dead_trunk_is_purged_after_its_branches(fixture: impl Fixture) {
    let store = fixture.open().await;
    record_chain(&store, 1, 3, None).await;
    record_chain(&store, 10, 3, Some((2, 2))).await;
    record_chain(&store, 20, 3, Some((10, 3))).await;
    delete(&store, (1..=3).chain(10..=12).chain(20..=22)).await;
    let mut removed = 0;
    for _ in 0..4 {
        removed += purge(&store, 0).await;
    }
    assert_eq!(removed, 9);
}

pub(crate) async fn items_are_purged_with_their_response(fixture: impl Fixture) {
    let store = fixture.open().await;
    store.record(record(1, None)).await.unwrap();
    // The same item again, in a live response.
    let again = StoredTurn { input: record(1, None).response.turn.output, ..turn(2, None) };
    let mine = StoredTurn { input: turn(3, None).output, ..turn(4, None) };
    store.record(record(3, None)).await.unwrap();
    store.record(record_of("p", again)).await.unwrap();
    store.record(record_of("p", mine)).await.unwrap();
    delete(&store, [1, 4]).await;
    assert_eq!(purge(&store, 0).await, 2);
    let names = ["msg_1", "msg_2", "msg_3", "msg_4"].map(|name| ItemId::new(name).unwrap());
    let found = crate::items::load(&store, "p", &names, NOW).await;
    assert_eq!(found.iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, false, false]);
}

pub(crate) async fn old_log_rows_are_purged(fixture: impl Fixture) {
    let store = fixture.open().await;
    append_all(&store, (0..10).map(|n| log_row("p", id(n), after(n)))).await;
    store.record(record(20, None)).await.unwrap();
    let purge = async |seconds, max| {
        store.purge(&mut PurgeProgress::default(), NOW, Some(after(seconds)), max).await.unwrap().log_rows
    };
    assert_eq!(purge(6, 4).await, 4);
    assert_eq!(purge(6, 4).await, 3);
    assert_eq!(purge(6, 4).await, 0);
    assert_eq!(store.list_log(100).await.unwrap().len(), 4);
}
