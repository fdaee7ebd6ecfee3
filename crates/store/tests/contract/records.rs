//! A recorded response is there, only for its project, and stays.

use antiphon_protocol::id::ItemId;
use antiphon_store::{Appended, FoundItems, PurgeProgress, Record, Status, StoreError, StoredTurn};
use antiphon_testkit::eventually;
use bytes::Bytes;

use crate::fixture::{Fixture, NOW, after, id, project, record, record_all, record_of, turn, whole};
use crate::limits::{counters_of, of, reservation, settlement, usual_holds};

pub(crate) async fn a_record_comes_back_byte_for_byte(fixture: impl Fixture) {
    let store = fixture.open().await;
    for (n, status) in (1..).zip([Status::Completed, Status::Incomplete, Status::Failed, Status::Cancelled]) {
        let odd = StoredTurn {
            status,
            account: "Ünï 'quoted' \"name\"".into(),
            boundary: String::new(),
            upstream_id: (n % 2 == 0).then(|| "resp_\u{1}_\u{1F600}".into()),
            model: "m%_?$1;--".into(),
            expires_at: Some(after(n)),
            input: Bytes::from_static(
                b" [ {\"n\" : 1e999, \"s\":\"\\ud83d\\ude00\xf0\x9f\x98\x80\\u0000\"} , 0.10 ]\n",
            ),
            referenced: vec![0, 7, u32::MAX],
            output: Bytes::from_static(b"[]"),
            ..turn(n, (n > 1).then(|| (n - 1, u32::try_from(n).unwrap() - 1)))
        };
        let mut record = record_of("p", odd);
        record.response.body = vec![b'x'; 3_000_000].into();
        store.record(record.clone()).await.unwrap();
        let loaded = store.load(&project("p"), id(n), NOW).await.unwrap().unwrap();
        assert_eq!(loaded, record.response);
        assert_eq!(store.load_chain(&project("p"), whole(n)).await.unwrap()[0], record.response.turn);
    }
}

pub(crate) async fn an_unknown_id_is_no_response(fixture: impl Fixture) {
    let store = fixture.open().await;
    assert_eq!(store.load(&project("p"), id(1), NOW).await.unwrap(), None);
    assert_eq!(store.load_chain(&project("p"), whole(1)).await.unwrap(), []);
    assert!(!store.delete(&project("p"), id(1), NOW).await.unwrap());
}

pub(crate) async fn projects_do_not_see_each_others_responses(fixture: impl Fixture) {
    let store = fixture.open().await;
    store.record(record(1, None)).await.unwrap();
    for other in ["", "P", "p ", "q"] {
        assert_eq!(store.load(&project(other), id(1), NOW).await.unwrap(), None);
        assert_eq!(store.load_chain(&project(other), whole(1)).await.unwrap(), []);
        assert!(!store.delete(&project(other), id(1), NOW).await.unwrap());
    }
    assert!(store.load(&project("p"), id(1), NOW).await.unwrap().is_some());
}

pub(crate) async fn one_id_in_two_projects_is_two_responses(fixture: impl Fixture) {
    let store = fixture.open().await;
    for name in ["p", "q"] {
        let model = format!("of {name}");
        store.record(record_of(name, StoredTurn { model, ..turn(1, None) })).await.unwrap();
        store.record(record_of(name, turn(2, Some((1, 1))))).await.unwrap();
    }
    assert!(store.delete(&project("p"), id(1), NOW).await.unwrap());
    assert_eq!(store.load(&project("p"), id(1), NOW).await.unwrap(), None);
    assert_eq!(store.load(&project("q"), id(1), NOW).await.unwrap().unwrap().turn.model, "of q");
    assert_eq!(store.load_chain(&project("p"), whole(2)).await.unwrap()[1].model, "of p");
    assert!(store.delete(&project("p"), id(2), NOW).await.unwrap());
    assert_eq!(store.purge(&mut PurgeProgress::default(), NOW, None, 100).await.unwrap().responses, 2);
    assert_eq!(store.load_chain(&project("q"), whole(2)).await.unwrap().len(), 2);
}

pub(crate) async fn concurrent_records_are_all_there(fixture: impl Fixture) {
    const TASKS: u64 = 64;
    const EACH: u64 = 50;
    let store = fixture.open().await;
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..TASKS {
        let store = std::sync::Arc::clone(&store);
        tasks.spawn(async move {
            for n in 0..EACH {
                let parent = (n > 0).then(|| (task * EACH + n - 1, u32::try_from(n).unwrap()));
                store.record(record(task * EACH + n, parent)).await.unwrap();
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    for task in 0..TASKS {
        let chain = store.load_chain(&project("p"), whole(task * EACH + EACH - 1)).await.unwrap();
        assert!(chain.iter().map(|turn| turn.id).eq((task * EACH..(task + 1) * EACH).rev().map(id)));
    }
}

pub(crate) async fn a_turn_without_the_parent_that_it_needs_is_not_recorded(fixture: impl Fixture) {
    let store = fixture.open().await;
    store.record(record(1, None)).await.unwrap();
    let child =
        |name: &str, n, parent| Record { needs_parent: true, ..record_of(name, turn(n, Some((parent, 1)))) };
    // In one transaction, if they wait together.
    let (known, gone, foreign, root) = tokio::join!(
        store.record(child("p", 2, 1)),
        store.record(child("p", 3, 9)),
        store.record(child("q", 4, 1)),
        store.record(record(5, None)),
    );
    assert_eq!((known.unwrap(), gone.unwrap()), (Appended::Done, Appended::NoParent));
    assert_eq!((foreign.unwrap(), root.unwrap()), (Appended::NoParent, Appended::Done));
    // The turn settles its reservation afterwards, as any that was not recorded.
    assert!(store.reserve(reservation(6, usual_holds())).await.unwrap().is_held);
    let settled = Record { settlement: Some(settlement(6, 1, 30)), ..child("p", 6, 9) };
    assert_eq!(store.record(settled).await.unwrap(), Appended::NoParent);
    store.settle(settlement(6, 1, 30), None);
    eventually("the reservation is settled", async || {
        counters_of(&store, "key:k").await == of(&[("requests", 1, 0), ("tokens", 30, 0)])
    })
    .await;

    for (n, is_there) in [(2, true), (3, false), (5, true), (6, false)] {
        assert_eq!(store.load(&project("p"), id(n), NOW).await.unwrap().is_some(), is_there, "{n}");
    }
    assert_eq!(store.load(&project("q"), id(4), NOW).await.unwrap(), None);
    assert_eq!(store.list_log(9).await.unwrap().len(), 3);
    let items = ["msg_2", "msg_3", "msg_6"].map(|id| ItemId::new(id).unwrap());
    let found = store.load_items(&project("p"), &items, NOW, usize::MAX).await.unwrap();
    let FoundItems::All(found) = found else { panic!("{found:?}") };
    assert!(found[0].is_some() && found[1].is_none() && found[2].is_none());

    assert!(store.delete(&project("p"), id(1), NOW).await.unwrap());
    assert_eq!(store.record(child("p", 7, 1)).await.unwrap(), Appended::Done, "its row is there");
}

pub(crate) async fn a_reopened_store_has_everything(fixture: impl Fixture) {
    let store = fixture.open().await;
    record_all(&store, (0..300).map(|n| record(n, None)).collect()).await;
    store.close().await;
    if !fixture.survives() {
        return;
    }
    let store = fixture.open().await;
    for n in 0..300 {
        let loaded = store.load(&project("p"), id(n), NOW).await.unwrap();
        assert_eq!(loaded, Some(record(n, None).response));
    }
    store.record(record(300, None)).await.unwrap();
}

pub(crate) async fn a_closed_store_refuses(fixture: impl Fixture) {
    let store = fixture.open().await;
    store.close().await;
    store.close().await;
    assert!(matches!(store.record(record(1, None)).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.load(&project("p"), id(1), NOW).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.check().await, Err(StoreError::Unavailable(_))));
    assert!(!store.is_available());
    store.append_log(record(1, None).log);
    assert_eq!(store.lost_rows(), 1);
}
