//! The cache of chains: bounded, shared, and never behind a deletion.

use std::sync::Arc;

use antiphon_protocol::id::{ItemId, ProjectId, ResponseId};
use antiphon_store::chain::{Chains, Turn};
use antiphon_store::{
    ChainQuery, Columns, Database, IndexedItem, Limits, LogRow, ProjectStats, Purged, Query, Record,
    RequestLog, Reservation, Reserved, Responses, Settlement, Statement, Store, StoreError, StoredResponse,
    StoredTurn, Timestamp,
};
use async_trait::async_trait;
use tokio::sync::Semaphore;

use crate::fixture::{Fixture, InMemory, NOW, id, project, record, record_chain};

async fn load(chains: &Chains, n: u64) -> Option<Arc<Turn>> {
    chains.load(&project("p"), id(n), NOW, 10_000).await.unwrap()
}

#[tokio::test]
async fn turns_that_nobody_uses_are_let_go_when_there_is_no_room() {
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
async fn all_bytes_are_given_back() {
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

#[test]
fn a_long_chain_is_dropped_on_a_small_stack() {
    let room = Arc::new(Semaphore::new(1 << 20));
    let chain = (0..200_000).fold(None, |parent: Option<Arc<Turn>>, n| {
        let mut stored = record(n, None).response.turn;
        stored.depth = parent.as_ref().map_or(1, |parent| parent.depth + 1);
        Turn::unstored(&stored, parent, &room).unwrap()
    });
    assert!(chain.is_some() && room.available_permits() < 1 << 20);
    let drops = std::thread::Builder::new().stack_size(64 << 10).spawn(move || drop(chain));
    drops.unwrap().join().unwrap();
    assert_eq!(room.available_permits(), 1 << 20);
    let stored = record(0, None).response.turn;
    assert!(
        Turn::unstored(&stored, None, &Arc::new(Semaphore::new(0))).unwrap().is_none(),
        "there is no room"
    );
}

#[tokio::test]
async fn a_load_that_a_deletion_overtakes_is_not_kept() {
    let gate = Arc::new(Gated {
        inner: InMemory::new().open().await,
        reads: Semaphore::new(0),
        read: Semaphore::new(0),
    });
    record_chain(&gate.inner, 1, 3, None).await;
    let chains = Arc::new(Chains::new(gate.clone(), 64 << 20));
    let overtaken = tokio::spawn({
        let chains = Arc::clone(&chains);
        async move { load(&chains, 3).await }
    });
    // The load has read that turns 1 to 3 are there, and now they go.
    gate.read.acquire().await.unwrap().forget();
    for n in [2, 3] {
        assert!(chains.delete(&project("p"), id(n), NOW).await.unwrap());
    }
    gate.reads.add_permits(100);
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
        assert!(load(&chains, n).await.is_none(), "{n}, found before: {}", before.is_some());
    }
}

/// A store whose chains are read at once and handed out when the test says so.
struct Gated {
    inner: Arc<dyn Store>,
    /// Permits to hand out what was read.
    reads: Semaphore,
    /// How often a chain was read.
    read: Semaphore,
}

#[async_trait]
impl Responses for Gated {
    async fn record(&self, record: Record) -> Result<(), StoreError> {
        self.inner.record(record).await
    }

    async fn load(
        &self,
        project: &ProjectId,
        id: ResponseId,
        now: Timestamp,
    ) -> Result<Option<StoredResponse>, StoreError> {
        self.inner.load(project, id, now).await
    }

    async fn load_chain(
        &self,
        project: &ProjectId,
        query: ChainQuery,
    ) -> Result<Vec<StoredTurn>, StoreError> {
        let turns = self.inner.load_chain(project, query).await;
        self.read.add_permits(1);
        self.reads.acquire().await.unwrap().forget();
        turns
    }

    async fn load_items(
        &self,
        project: &ProjectId,
        ids: &[ItemId],
        now: Timestamp,
    ) -> Result<Vec<Option<IndexedItem>>, StoreError> {
        self.inner.load_items(project, ids, now).await
    }

    async fn delete(&self, project: &ProjectId, id: ResponseId, now: Timestamp) -> Result<bool, StoreError> {
        self.inner.delete(project, id, now).await
    }

    async fn list_deleted(&self, since: Timestamp) -> Result<Vec<(ProjectId, ResponseId)>, StoreError> {
        self.inner.list_deleted(since).await
    }

    async fn purge(
        &self,
        now: Timestamp,
        log_before: Option<Timestamp>,
        max_rows: u32,
    ) -> Result<Purged, StoreError> {
        self.inner.purge(now, log_before, max_rows).await
    }
}

#[async_trait]
impl RequestLog for Gated {
    fn append(&self, row: LogRow) {
        self.inner.append(row);
    }

    fn lost_rows(&self) -> u64 {
        self.inner.lost_rows()
    }

    fn take_earliest(&self) -> Option<Timestamp> {
        self.inner.take_earliest()
    }

    async fn list_log(&self, max_rows: u32) -> Result<Vec<LogRow>, StoreError> {
        self.inner.list_log(max_rows).await
    }
}

#[async_trait]
impl Limits for Gated {
    async fn reserve(&self, reservation: Reservation) -> Result<Reserved, StoreError> {
        self.inner.reserve(reservation).await
    }

    fn settle(&self, settlement: Settlement, row: Option<LogRow>) {
        self.inner.settle(settlement, row);
    }

    async fn sweep(&self, now: Timestamp, max_rows: u32) -> Result<u64, StoreError> {
        self.inner.sweep(now, max_rows).await
    }
}

#[async_trait]
impl Database for Gated {
    async fn execute(&self, statement: Statement) -> Result<bool, StoreError> {
        self.inner.execute(statement).await
    }

    async fn execute_all(&self, statements: Vec<Statement>) -> Result<(), StoreError> {
        self.inner.execute_all(statements).await
    }

    async fn query(&self, query: Query) -> Result<Vec<Columns>, StoreError> {
        self.inner.query(query).await
    }
}

#[async_trait]
impl Store for Gated {
    fn is_available(&self) -> bool {
        self.inner.is_available()
    }

    async fn stats(&self, now: Timestamp) -> Result<Vec<ProjectStats>, StoreError> {
        self.inner.stats(now).await
    }

    fn is_shared(&self) -> bool {
        self.inner.is_shared()
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.inner.check().await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
