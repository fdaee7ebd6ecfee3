//! Deletion and expiry hide a response at once, but descendants still replay through it.

use antiphon_store::chain::Chains;
use antiphon_store::{ChainQuery, StoredTurn};

use crate::fixture::{
    Fixture, NOW, after, id, numbers, project, record, record_chain, record_of, turn, whole,
};

fn visible(n: u64, seconds: u64) -> ChainQuery {
    ChainQuery { from: id(n), visible_at: Some(after(seconds)), max_turns: 100 }
}

pub(crate) async fn a_deleted_response_is_hidden_at_once(fixture: impl Fixture) {
    let store = fixture.open().await;
    record_chain(&store, 1, 2, None).await;
    assert!(store.delete(&project("p"), id(2), NOW).await.unwrap());
    assert_eq!(store.load(&project("p"), id(2), NOW).await.unwrap(), None);
    assert_eq!(store.load_chain(&project("p"), visible(2, 0)).await.unwrap(), []);
    assert!(store.load(&project("p"), id(1), NOW).await.unwrap().is_some());
}

pub(crate) async fn a_deleted_response_is_still_replayed_by_its_descendants(fixture: impl Fixture) {
    let store = fixture.open().await;
    record_chain(&store, 1, 3, None).await;
    for n in [1, 2] {
        assert!(store.delete(&project("p"), id(n), NOW).await.unwrap());
    }
    assert!(numbers(&store.load_chain(&project("p"), visible(3, 9)).await.unwrap(), [3, 2, 1]));
    assert!(numbers(&store.load_chain(&project("p"), whole(2)).await.unwrap(), [2, 1]));
}

pub(crate) async fn an_expired_response_is_hidden_and_replayed(fixture: impl Fixture) {
    let store = fixture.open().await;
    store.record(record_of("p", StoredTurn { expires_at: Some(after(10)), ..turn(1, None) })).await.unwrap();
    store.record(record(2, Some((1, 1)))).await.unwrap();
    assert!(store.load(&project("p"), id(1), after(9)).await.unwrap().is_some());
    assert_eq!(store.load(&project("p"), id(1), after(10)).await.unwrap(), None);
    assert!(numbers(&store.load_chain(&project("p"), visible(1, 9)).await.unwrap(), [1]));
    assert_eq!(store.load_chain(&project("p"), visible(1, 10)).await.unwrap(), []);
    assert!(numbers(&store.load_chain(&project("p"), visible(2, 10)).await.unwrap(), [2, 1]));
    assert!(!store.delete(&project("p"), id(1), after(10)).await.unwrap());
}

pub(crate) async fn a_deleted_response_stays_hidden_when_the_clock_goes_back(fixture: impl Fixture) {
    let store = fixture.open().await;
    record_chain(&store, 1, 2, None).await;
    assert!(store.delete(&project("p"), id(1), after(100)).await.unwrap());
    assert_eq!(store.load(&project("p"), id(1), NOW).await.unwrap(), None);
    assert_eq!(store.load_chain(&project("p"), visible(1, 0)).await.unwrap(), []);
    let chains = Chains::new(store, 64 << 20);
    assert!(chains.load(&project("p"), id(2), NOW, 100).await.unwrap().is_some());
    assert!(chains.load(&project("p"), id(1), NOW, 100).await.unwrap().is_none());
}

pub(crate) async fn the_cache_hides_what_is_deleted_or_expired(fixture: impl Fixture) {
    let chains = Chains::new(fixture.open().await, 64 << 20);
    let load = async |n, seconds| chains.load(&project("p"), id(n), after(seconds), 100).await.unwrap();
    chains.record(record(1, None), None).await.unwrap();
    let expiring = StoredTurn { expires_at: Some(after(10)), ..turn(2, Some((1, 1))) };
    chains.record(record_of("p", expiring), None).await.unwrap();
    chains.record(record(3, Some((2, 2))), None).await.unwrap();
    assert!(load(2, 9).await.is_some());
    assert!(load(2, 10).await.is_none());
    assert!(chains.delete(&project("p"), id(1), NOW).await.unwrap());
    assert!(load(1, 0).await.is_none());
    assert_eq!(load(3, 11).await.unwrap().ancestors().count(), 2);
    // A deleted response that was loaded again as an ancestor is still hidden.
    chains.record(record(4, Some((1, 1))), None).await.unwrap();
    assert_eq!(load(4, 0).await.unwrap().ancestors().count(), 1);
    assert!(load(1, 0).await.is_none());
    assert!(chains.load(&project("q"), id(3), NOW, 100).await.unwrap().is_none());
}

pub(crate) async fn deleting_twice_deletes_once(fixture: impl Fixture) {
    let store = fixture.open().await;
    store.record(record(1, None)).await.unwrap();
    let (project, id) = (project("p"), id(1));
    let (one, other) = tokio::join!(store.delete(&project, id, NOW), store.delete(&project, id, NOW));
    assert_ne!(one.unwrap(), other.unwrap());
}
