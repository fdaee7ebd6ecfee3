//! The embedded engine: one SQLite database, one connection that writes, and a few that read.

mod error;
mod insert;
mod open;
mod purge;
mod read;
mod rows;
#[cfg(test)]
mod tests;
mod write;

use std::fmt;

use antiphon_protocol::id::{ItemId, ProjectId, ResponseId};
use async_trait::async_trait;
use sqlx::sqlite::SqlitePool;

use self::write::SqliteEngine;
use crate::group::{Group, Operation, Outcome};
use crate::url::SqliteTarget;
use crate::{
    ChainQuery, IndexedItem, LogRow, Purged, Record, RequestLog, Responses, Status, Store, StoreError,
    StoreOptions, StoredResponse, StoredTurn, Timestamp,
};

/// A store in an SQLite database.
pub struct SqliteStore {
    group: Group,
    readers: SqlitePool,
}

/// How a status is stored: as its place in this list.
const STATUSES: [Status; 4] = [Status::Completed, Status::Incomplete, Status::Failed, Status::Cancelled];

fn status_code(status: Status) -> u32 {
    (0..).zip(STATUSES).find(|(_, listed)| *listed == status).map_or(u32::MAX, |(code, _)| code)
}

// === impl SqliteStore ===

impl SqliteStore {
    pub async fn open(target: &SqliteTarget, options: StoreOptions) -> Result<Self, StoreError> {
        let opened = open::open(target, &options).await?;
        let engine = SqliteEngine::new(opened.writer, opened.readers.clone(), opened.is_file);
        Ok(Self { group: Group::start(engine, options.commit_timeout), readers: opened.readers })
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").field("is_available", &self.is_available()).finish_non_exhaustive()
    }
}

#[async_trait]
impl Responses for SqliteStore {
    async fn record(&self, record: Record) -> Result<(), StoreError> {
        self.group.write(Operation::Record(Box::new(record))).await.map(|_| ())
    }

    async fn load(
        &self,
        project: &ProjectId,
        id: ResponseId,
        now: Timestamp,
    ) -> Result<Option<StoredResponse>, StoreError> {
        read::load(&self.readers, project, id, now).await
    }

    async fn load_chain(
        &self,
        project: &ProjectId,
        query: ChainQuery,
    ) -> Result<Vec<StoredTurn>, StoreError> {
        read::load_chain(&self.readers, project, query).await
    }

    async fn load_items(
        &self,
        project: &ProjectId,
        ids: &[ItemId],
        now: Timestamp,
    ) -> Result<Vec<Option<IndexedItem>>, StoreError> {
        read::load_items(&self.readers, project, ids, now).await
    }

    async fn delete(&self, project: &ProjectId, id: ResponseId, now: Timestamp) -> Result<bool, StoreError> {
        let outcome = self.group.write(Operation::Delete { project: project.clone(), id, now }).await?;
        Ok(outcome == Outcome::Deleted(true))
    }

    async fn purge(
        &self,
        now: Timestamp,
        log_before: Option<Timestamp>,
        max_rows: u32,
    ) -> Result<Purged, StoreError> {
        match self.group.write(Operation::Purge { now, log_before, max_rows }).await? {
            Outcome::Purged(purged) => Ok(purged),
            Outcome::Done | Outcome::Deleted(_) => Ok(Purged::default()),
        }
    }
}

#[async_trait]
impl RequestLog for SqliteStore {
    fn append(&self, row: LogRow) -> bool {
        self.group.append(row)
    }

    async fn list_log(&self, max_rows: u32) -> Result<Vec<LogRow>, StoreError> {
        read::list_log(&self.readers, max_rows).await
    }
}

#[async_trait]
impl Store for SqliteStore {
    fn is_available(&self) -> bool {
        self.group.is_available()
    }

    async fn check(&self) -> Result<(), StoreError> {
        read::list_log(&self.readers, 1).await?;
        self.group.write(Operation::Check).await.map(|_| ())
    }

    async fn close(&self) {
        self.group.close().await;
    }
}
