//! A store that fails when it is told to.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use antiphon_protocol::id::{ItemId, ProjectId, ResponseId};
use antiphon_store::{
    ChainQuery, Columns, Database, IndexedItem, Limits, LogRow, ProjectStats, Purged, Query, Record,
    RequestLog, Reservation, Reserved, Responses, Settlement, Statement, Store, StoreError, StoredResponse,
    StoredTurn, Timestamp,
};
use async_trait::async_trait;

/// What goes wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Fault {
    #[default]
    None,
    /// Nothing works, and the store says so beforehand.
    Down,
    /// Reads work and the store looks well, but a write fails.
    WritesFail,
    /// A write takes this long.
    SlowWrites(Duration),
}

/// Orders faults for the [`Faulty`] store that it was made with.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Mutex<Fault>>);

/// The decorator.
pub struct Faulty {
    inner: Arc<dyn Store>,
    faults: Faults,
}

impl Faults {
    pub fn set(&self, fault: Fault) {
        *self.0.lock().expect("no test panics while it holds this") = fault;
    }

    fn now(&self) -> Fault {
        *self.0.lock().expect("no test panics while it holds this")
    }

    fn read(&self) -> Result<(), StoreError> {
        if self.now() == Fault::Down {
            Err(StoreError::Unavailable("ordered by the test".to_owned()))
        } else {
            Ok(())
        }
    }

    async fn write(&self) -> Result<(), StoreError> {
        match self.now() {
            Fault::None => Ok(()),
            Fault::Down | Fault::WritesFail => Err(StoreError::Unavailable("ordered by the test".to_owned())),
            Fault::SlowWrites(delay) => {
                tokio::time::sleep(delay).await;
                Ok(())
            }
        }
    }
}

impl Faulty {
    pub fn new(inner: Arc<dyn Store>, faults: Faults) -> Self {
        Self { inner, faults }
    }
}

#[async_trait]
impl Responses for Faulty {
    async fn record(&self, record: Record) -> Result<(), StoreError> {
        self.faults.write().await?;
        self.inner.record(record).await
    }

    async fn load(
        &self,
        project: &ProjectId,
        id: ResponseId,
        now: Timestamp,
    ) -> Result<Option<StoredResponse>, StoreError> {
        self.faults.read()?;
        self.inner.load(project, id, now).await
    }

    async fn load_chain(
        &self,
        project: &ProjectId,
        query: ChainQuery,
    ) -> Result<Vec<StoredTurn>, StoreError> {
        self.faults.read()?;
        self.inner.load_chain(project, query).await
    }

    async fn load_items(
        &self,
        project: &ProjectId,
        ids: &[ItemId],
        now: Timestamp,
    ) -> Result<Vec<Option<IndexedItem>>, StoreError> {
        self.faults.read()?;
        self.inner.load_items(project, ids, now).await
    }

    async fn delete(&self, project: &ProjectId, id: ResponseId, now: Timestamp) -> Result<bool, StoreError> {
        self.faults.write().await?;
        self.inner.delete(project, id, now).await
    }

    async fn list_deleted(&self, since: Timestamp) -> Result<Vec<(ProjectId, ResponseId)>, StoreError> {
        self.faults.read()?;
        self.inner.list_deleted(since).await
    }

    async fn purge(
        &self,
        now: Timestamp,
        log_before: Option<Timestamp>,
        max_rows: u32,
    ) -> Result<Purged, StoreError> {
        self.faults.write().await?;
        self.inner.purge(now, log_before, max_rows).await
    }
}

#[async_trait]
impl RequestLog for Faulty {
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
impl Limits for Faulty {
    async fn reserve(&self, reservation: Reservation) -> Result<Reserved, StoreError> {
        self.faults.write().await?;
        self.inner.reserve(reservation).await
    }

    fn settle(&self, settlement: Settlement, row: Option<LogRow>) {
        self.inner.settle(settlement, row);
    }

    async fn sweep(&self, now: Timestamp, max_rows: u32) -> Result<u64, StoreError> {
        self.faults.write().await?;
        self.inner.sweep(now, max_rows).await
    }
}

#[async_trait]
impl Database for Faulty {
    async fn execute(&self, statement: Statement) -> Result<bool, StoreError> {
        self.faults.write().await?;
        self.inner.execute(statement).await
    }

    async fn execute_all(&self, statements: Vec<Statement>) -> Result<(), StoreError> {
        self.faults.write().await?;
        self.inner.execute_all(statements).await
    }

    async fn query(&self, query: Query) -> Result<Vec<Columns>, StoreError> {
        self.faults.read()?;
        self.inner.query(query).await
    }
}

#[async_trait]
impl Store for Faulty {
    fn is_available(&self) -> bool {
        self.faults.now() != Fault::Down && self.inner.is_available()
    }

    async fn stats(&self, now: Timestamp) -> Result<Vec<ProjectStats>, StoreError> {
        self.inner.stats(now).await
    }

    fn is_shared(&self) -> bool {
        self.inner.is_shared()
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.faults.write().await?;
        self.inner.check().await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
