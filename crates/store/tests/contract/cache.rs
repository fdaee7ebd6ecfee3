//! The cache of chains: bounded, shared, and never behind a deletion.

use std::sync::Arc;

use antiphon_store::ChainQuery;
use antiphon_store::chain::{Chains, Turn};
use antiphon_testkit::{Decorated, Interceptor};
use async_trait::async_trait;
use tokio::sync::Semaphore;

use crate::fixture::{Fixture, InMemory, NOW, id, project, record, record_chain};

async fn load(chains: &Chains, n: u64) -> Option<Arc<Turn>> {
    chains.load(&project("p"), id(n), NOW, 10_000).await.unwrap()
}

#[tokio::test]
async fn unused_turns_are_released_when_there_is_no_room() {
    const ROOM: usize = 100_000;
    let store = InMemory::new().open().await;
    for branch in 0..20 {
        record_chain(&store, branch * 100, 50, None).await;
    }
    let chains = Chains::new(store, ROOM);
    for branch in 0..20 {
        let turn = load(&chains, branch * 100 + 49).await.unwrap();
        assert_eq!(turn.ancestors().count(), 49);
        drop(turn);
        assert!(chains.cache_stats().live_bytes <= ROOM);
    }
    assert!(chains.cache_stats().live_bytes > ROOM / 3);
    let misses = chains.cache_stats().misses;
    load(&chains, 19 * 100 + 49).await.unwrap();
    load(&chains, 19 * 100 + 7).await.unwrap();
    assert_eq!(chains.cache_stats().misses, misses, "the newest branch is there, with its trunk");
    load(&chains, 49).await.unwrap();
    assert_eq!(chains.cache_stats().misses, misses + 1, "the oldest one is not");
}

#[tokio::test]
async fn a_smaller_cache_releases_unused_turns_at_once_and_a_larger_one_keeps_them_again() {
    const ROOM: usize = 1 << 20;
    let store = InMemory::new().open().await;
    record_chain(&store, 0, 50, None).await;
    let chains = Chains::new(store, ROOM);
    let in_use = load(&chains, 9).await.unwrap();
    load(&chains, 49).await.unwrap();
    let whole = chains.cache_stats().live_bytes;
    chains.set_cache_size(0);
    let needed = chains.cache_stats().live_bytes;
    assert!(needed > 0 && needed < whole / 2, "what is in use stays: {needed} of {whole}");
    drop(in_use);
    assert_eq!(chains.cache_stats().live_bytes, 0);
    load(&chains, 49).await.unwrap();
    assert_eq!(chains.cache_stats().live_bytes, 0, "there is no room");
    chains.set_cache_size(ROOM);
    load(&chains, 49).await.unwrap();
    assert_eq!(chains.cache_stats().live_bytes, whole);
}

#[tokio::test]
async fn dropped_turns_give_back_all_their_memory() {
    let chains = Chains::new(InMemory::new().open().await, 0);
    chains.record(record(0, None), None).await.unwrap();
    for n in 1..=500_u32 {
        let parent = load(&chains, u64::from(n) - 1).await;
        chains.record(record(n.into(), Some((u64::from(n) - 1, n))), parent).await.unwrap();
    }
    let held = load(&chains, 500).await.unwrap();
    assert!(chains.cache_stats().live_bytes > 0);
    assert!(
        Arc::ptr_eq(&held, &load(&chains, 500).await.unwrap()),
        "what is in use is shared without any room"
    );
    drop(held);
    assert_eq!(chains.cache_stats().live_bytes, 0);
}

#[tokio::test]
async fn a_long_chain_is_dropped_on_a_small_stack() {
    let room = Arc::new(Semaphore::new(1 << 20));
    let mut chain: Option<Arc<Turn>> = None;
    for n in 0..200_000 {
        let mut stored = record(n, None).response.turn;
        stored.depth = chain.as_ref().map_or(1, |parent| parent.depth + 1);
        chain = Turn::unstored(&stored, chain, &room).await.unwrap();
    }
    assert!(chain.is_some() && room.available_permits() < 1 << 20);
    let drops = std::thread::Builder::new().stack_size(64 << 10).spawn(move || drop(chain));
    drops.unwrap().join().unwrap();
    assert_eq!(room.available_permits(), 1 << 20);
    let stored = record(0, None).response.turn;
    assert!(
        Turn::unstored(&stored, None, &Arc::new(Semaphore::new(0))).await.unwrap().is_none(),
        "there is no room"
    );
}

#[tokio::test]
async fn a_load_that_a_deletion_overtakes_is_not_kept() {
    let store = InMemory::new().open().await;
    record_chain(&store, 1, 3, None).await;
    let gate = Gate { releases: Semaphore::new(0), reads: Semaphore::new(0) };
    let store = Arc::new(Decorated::new(store, gate));
    let gate = store.interceptor();
    let chains = Arc::new(Chains::new(store.clone(), 64 << 20));
    let overtaken = tokio::spawn({
        let chains = Arc::clone(&chains);
        async move { load(&chains, 3).await }
    });
    // The load has read turns 1 to 3. Now 2 and 3 are deleted.
    gate.reads.acquire().await.unwrap().forget();
    for n in [2, 3] {
        assert!(chains.delete(&project("p"), id(n), NOW).await.unwrap());
    }
    gate.releases.add_permits(100);
    assert!(overtaken.await.unwrap().is_some(), "it was there when it was asked for");
    assert!(load(&chains, 2).await.is_none());
    assert!(load(&chains, 3).await.is_none());
    assert!(load(&chains, 1).await.is_some());
}

#[tokio::test]
async fn a_deletion_whose_caller_goes_away_is_never_undone_by_the_cache() {
    let chains = Chains::new(InMemory::new().open().await, 64 << 20);
    for n in 0..50 {
        chains.record(record(n, None), None).await.unwrap();
        assert!(load(&chains, n).await.is_some());
        let name = project("p");
        let delete = chains.delete(&name, id(n), NOW);
        let _ = tokio::time::timeout(std::time::Duration::from_micros(n * 20), delete).await;
        let before = load(&chains, n).await;
        // Comes after the deletion in the queue.
        chains.store().check().await.unwrap();
        let query = ChainQuery { from: id(n), visible_at: Some(NOW), max_turns: 1 };
        let is_deleted = chains.store().load_chain(&name, query).await.unwrap().is_empty();
        assert_eq!(load(&chains, n).await.is_none(), is_deleted, "{n}, found before: {}", before.is_some());
    }
}

/// Holds back what was read until the test releases it.
struct Gate {
    /// A permit for each read whose caller may go on.
    releases: Semaphore,
    /// A permit for each read that was done.
    reads: Semaphore,
}

#[async_trait]
impl Interceptor for Gate {
    async fn after_read(&self) {
        self.reads.add_permits(1);
        self.releases.acquire().await.unwrap().forget();
    }
}
