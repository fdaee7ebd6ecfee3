//! Replicas: heartbeats, and what one that has died held.

use std::sync::Arc;

use antiphon_store::{Abandoned, Replica, Reservation, Store};
use antiphon_testkit::eventually;
use uuid::Uuid;

use crate::fixture::{Fixture, NOW, after};
use crate::limits::{counters_of, of, reservation, settlement, usual_holds};

const ONE: Uuid = Uuid::from_u128(1);
const TWO: Uuid = Uuid::from_u128(2);

async fn listed(store: &Arc<dyn Store>) -> Vec<(Uuid, u64)> {
    let mut replicas: Vec<_> =
        store.list_replicas().await.unwrap().into_iter().map(|replica| (replica.id, replica.beats)).collect();
    replicas.sort_unstable();
    replicas
}

async fn reserve(store: &Arc<dyn Store>, n: u64, replica: Uuid) {
    let reservation = Reservation { replica, ..reservation(n, usual_holds()) };
    assert!(store.reserve(reservation).await.unwrap().is_held);
}

pub(crate) async fn a_replica_is_listed_until_it_is_forgotten(fixture: impl Fixture) {
    let store = fixture.open().await;
    assert_eq!(listed(&store).await, []);
    store.beat(ONE, NOW).await.unwrap();
    // Clocks go back.
    for seconds in [3, 1] {
        store.beat(TWO, after(seconds)).await.unwrap();
    }
    assert_eq!(listed(&store).await, [(ONE, 1), (TWO, 2)]);
    store.forget_replica(Replica { id: TWO, beats: 1 }).await.unwrap();
    assert_eq!(listed(&store).await, [(ONE, 1), (TWO, 2)], "it is alive");
    store.forget_replica(Replica { id: TWO, beats: 2 }).await.unwrap();
    assert_eq!(listed(&store).await, [(ONE, 1)]);
    reserve(&store, 1, TWO).await;
    reserve(&store, 2, TWO).await;
    assert_eq!(listed(&store).await, [(ONE, 1), (TWO, 0)], "it has reservations");
    store.beat(TWO, after(9)).await.unwrap();
    assert_eq!(listed(&store).await, [(ONE, 1), (TWO, 1)]);
}

pub(crate) async fn what_a_dead_replica_held_is_released_once(fixture: impl Fixture) {
    let store = fixture.open().await;
    store.beat(ONE, NOW).await.unwrap();
    store.beat(TWO, NOW).await.unwrap();
    for n in 1..=3 {
        reserve(&store, n, if n == 3 { TWO } else { ONE }).await;
    }
    let dead = |beats| Abandoned::Of(Replica { id: ONE, beats });
    assert_eq!(store.sweep(dead(0), after(1), 9).await.unwrap(), 0, "it has written a heartbeat since");
    // By two replicas at once.
    let (some, others) = tokio::join!(store.sweep(dead(1), after(1), 9), store.sweep(dead(1), after(1), 9));
    assert_eq!(some.unwrap() + others.unwrap(), 2);
    assert_eq!(store.sweep(dead(1), after(2), 9).await.unwrap(), 0);
    assert_eq!(counters_of(&store, "key:k").await, of(&[("requests", 0, 1), ("tokens", 0, 100)]));
    // It was only frozen: its turns count, once.
    for n in [1, 1, 2] {
        store.settle(settlement(n, 1, 7), None);
    }
    let counted = of(&[("requests", 2, 1), ("tokens", 14, 100)]);
    eventually("both turns count", async || counters_of(&store, "key:k").await == counted).await;
    store.settle(settlement(1, 1, 7), None);
    store.check().await.unwrap();
    store.settle(settlement(3, 1, 5), None);
    let counted = of(&[("requests", 3, 0), ("tokens", 19, 0)]);
    eventually("the turn of the other replica counts", async || {
        counters_of(&store, "key:k").await == counted
    })
    .await;
}

pub(crate) async fn a_replica_that_is_alone_releases_what_all_others_held(fixture: impl Fixture) {
    let store = fixture.open().await;
    for n in 1..=4 {
        reserve(&store, n, Uuid::from_u128(n.into())).await;
    }
    let not_of_two = Abandoned::NotOf(TWO);
    assert_eq!(store.sweep(not_of_two, NOW, 2).await.unwrap(), 2, "long before they expire");
    assert_eq!(store.sweep(not_of_two, NOW, 2).await.unwrap(), 1);
    assert_eq!(store.sweep(not_of_two, NOW, 2).await.unwrap(), 0);
    assert_eq!(counters_of(&store, "key:k").await, of(&[("requests", 0, 1), ("tokens", 0, 100)]));
}
