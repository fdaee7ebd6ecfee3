//! The embedded engine: one SQLite database, one connection that writes, and a few that read.

mod background;
mod checkpoint;
mod conversations;
mod copy;
mod database_file;
mod error;
mod insert;
mod item_index;
mod limits;
mod lock;
mod migrate;
mod open;
mod path;
mod purge;
mod read;
mod readers;
mod snapshot;
mod statement;
#[cfg(test)]
mod tests;
mod write;

pub(crate) use self::copy::{source as copy_source, target as copy_target};
pub(crate) use self::snapshot::{finish as finish_snapshot, write as write_snapshot};

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use antiphon_protocol::id::{ItemId, ProjectId, ResponseId};
use async_trait::async_trait;
use prometheus_client::registry::Registry;
use tokio::task::JoinError;

use self::database_file::DatabaseFile;
use self::item_index::NewItems;
use self::open::Opened;
use self::read::ItemSearch;
use self::readers::Readers;
use self::write::SqliteEngine;
use crate::group::Group;
use crate::migration::Migration;
use crate::responses::deletion;
use crate::sql::{Columns, Database, Query};
use crate::url::SqliteTarget;
use crate::{
    Appended, ChainQuery, FoundItems, ProjectStats, PurgeProgress, Purged, Record, Responses, Store,
    StoreError, StoreOptions, StoreSize, StoredResponse, StoredTurn, Timestamp, probe, store,
};

/// A store in an SQLite database.
pub struct SqliteStore {
    group: Group,
    readers: Arc<Readers>,
    new_items: Arc<NewItems>,
    /// `None` for a database in memory.
    file: Option<DatabaseFile>,
}

/// Brings the schema up to date, and returns the names of the migrations that were applied.
pub async fn migrate(target: &SqliteTarget) -> Result<Vec<String>, StoreError> {
    on_file(target, open::migrate_file).await
}

/// The names of the migrations that the schema lacks.
pub async fn pending(target: &SqliteTarget) -> Result<Vec<String>, StoreError> {
    on_file(target, open::pending_in_file).await
}

/// Does nothing for a database in memory, which is created with its schema.
async fn on_file(
    target: &SqliteTarget,
    work: fn(&Path) -> Result<&'static [Migration], StoreError>,
) -> Result<Vec<String>, StoreError> {
    let SqliteTarget::File(path) = target.clone() else { return Ok(Vec::new()) };
    let done = tokio::task::spawn_blocking(move || work(&path)).await;
    let migrations = done.map_err(|error| aborted("migrating", &error))??;
    Ok(migrations.iter().map(ToString::to_string).collect())
}

/// A panic on a thread for blocking work, or the end of the runtime.
fn aborted(what: &str, error: &JoinError) -> StoreError {
    StoreError::Unusable(format!("{what} the database was aborted: {error}"))
}

// === impl SqliteStore ===

impl SqliteStore {
    pub async fn open(target: &SqliteTarget, options: StoreOptions) -> Result<Self, StoreError> {
        let commit_timeout = options.commit_timeout;
        let target = target.clone();
        let opened = tokio::task::spawn_blocking(move || open::open(&target, &options));
        Self::start(opened.await.map_err(|error| aborted("opening", &error))??, commit_timeout)
    }

    fn start(mut opened: Opened, commit_timeout: Duration) -> Result<Self, StoreError> {
        let readers = Arc::new(Readers::start(std::mem::take(&mut opened.readers), commit_timeout)?);
        let file = opened.file.clone();
        let new_items = Arc::<NewItems>::default();
        let engine = SqliteEngine::new(opened, Arc::clone(&readers), Arc::clone(&new_items))?;
        let group = Group::start_on_thread("sqlite-writer", engine, commit_timeout)?;
        Ok(Self { group, readers, new_items, file })
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").field("is_available", &self.is_available()).finish_non_exhaustive()
    }
}

#[async_trait]
impl Responses for SqliteStore {
    async fn record(&self, record: Record) -> Result<Appended, StoreError> {
        self.group.record(record).await
    }

    async fn load(
        &self,
        project: &ProjectId,
        id: ResponseId,
        now: Timestamp,
    ) -> Result<Option<StoredResponse>, StoreError> {
        let owner = project.clone();
        self.readers.read(Some(project), move |connection| read::load(connection, &owner, id, now)).await
    }

    async fn load_chain(
        &self,
        project: &ProjectId,
        query: ChainQuery,
    ) -> Result<Vec<StoredTurn>, StoreError> {
        let owner = project.clone();
        self.readers.read(Some(project), move |connection| read::load_chain(connection, &owner, query)).await
    }

    async fn load_items(
        &self,
        project: &ProjectId,
        ids: &[ItemId],
        now: Timestamp,
        max_bytes: usize,
    ) -> Result<FoundItems, StoreError> {
        let (owner, ids, new_items) = (project.clone(), ids.to_vec(), Arc::clone(&self.new_items));
        let begin =
            move |connection: &_| ItemSearch::begin(connection, &new_items, owner, ids, now, max_bytes);
        let mut search = self.readers.read(Some(project), begin).await?;
        while search.has_more() {
            search = self.readers.read(Some(project), move |connection| search.step(connection)).await?;
        }
        Ok(search.finish())
    }

    async fn delete(&self, project: &ProjectId, id: ResponseId, now: Timestamp) -> Result<bool, StoreError> {
        self.group.execute(deletion(project, id, now)).await
    }

    async fn list_deleted(&self, since: Timestamp) -> Result<Vec<(ProjectId, ResponseId)>, StoreError> {
        self.readers.read(None, move |connection| read::list_deleted(connection, since)).await
    }

    async fn purge(
        &self,
        progress: &mut PurgeProgress,
        now: Timestamp,
        log_before: Option<Timestamp>,
        max_rows: u32,
    ) -> Result<Purged, StoreError> {
        crate::purge::purge(self, progress, now, log_before, max_rows).await
    }
}

impl Database for SqliteStore {
    fn group(&self) -> &Group {
        &self.group
    }

    async fn query_for(&self, project: Option<&ProjectId>, query: Query) -> Result<Vec<Columns>, StoreError> {
        self.readers.read(project, move |connection| statement::query(connection, &query)).await
    }
}

#[async_trait]
impl Store for SqliteStore {
    fn is_available(&self) -> bool {
        self.group.is_available()
    }

    fn register_metrics(&self, registry: &mut Registry) {
        self.group.register_metrics(registry);
    }

    fn has_its_file(&self) -> bool {
        self.file.as_ref().is_none_or(|file| file.check().is_ok())
    }

    async fn stats(&self, now: Timestamp) -> Result<Vec<ProjectStats>, StoreError> {
        store::stats(self, now).await
    }

    async fn size(&self) -> Result<StoreSize, StoreError> {
        store::size(self, "sqlite", [store::SQLITE_PAGES, store::SQLITE_TABLES]).await
    }

    fn is_shared(&self) -> bool {
        false
    }

    async fn check(&self) -> Result<(), StoreError> {
        probe::check(self).await
    }

    async fn close(&self) {
        self.group.close().await;
    }
}
