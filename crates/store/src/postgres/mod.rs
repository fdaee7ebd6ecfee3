//! The engine for many replicas: one PostgreSQL database and a few connections that stay open. They carry no session state, so
//! a pooler may stand between.
//!
//! The server's `synchronous_commit` decides how durable a commit is, not [`Durability`](crate::Durability).

mod background;
mod connect;
mod context;
mod conversations;
mod copy;
mod error;
mod insert;
mod limits;
mod link;
mod pool;
mod purge;
mod read;
mod schema;
mod statement;
#[cfg(test)]
mod tests;
mod write;

pub(crate) use self::copy::{source as copy_source, target as copy_target};

use std::fmt;
use std::sync::Arc;

use antiphon_protocol::id::{ItemId, ProjectId, ResponseId};
use async_trait::async_trait;
use futures_util::future::join;
use prometheus_client::registry::Registry;

use self::connect::{ConnectError, Connector};
use self::context::{ConnectContext, Purpose};
use self::pool::Pool;
use self::read::Readers;
use self::schema::Schema;
use self::write::PostgresEngine;
use crate::group::Group;
use crate::responses::deletion;
use crate::sql::{Columns, Database, Query};
use crate::url::PostgresTarget;
use crate::{
    Appended, ChainQuery, FoundItems, ProjectStats, PurgeProgress, Purged, Record, Responses, Store,
    StoreError, StoreOptions, StoreSize, StoreUrl, StoredResponse, StoredTurn, Timestamp, probe, store,
};

/// A store in a PostgreSQL database.
pub struct PostgresStore {
    group: Group,
    writers: Arc<Pool>,
    readers: Readers,
    context: Arc<ConnectContext>,
}

/// Brings the schema up to date, and returns the names of the migrations that were applied.
pub async fn migrate(target: &PostgresTarget) -> Result<Vec<String>, StoreError> {
    let applied = schema::migrate(&Connector::new(target)?).await?;
    Ok(applied.iter().map(ToString::to_string).collect())
}

/// The names of the migrations that the schema lacks.
pub async fn pending(target: &PostgresTarget) -> Result<Vec<String>, StoreError> {
    let pending = schema::pending(&Connector::new(target)?).await?;
    Ok(pending.iter().map(ToString::to_string).collect())
}

// === impl PostgresStore ===

impl PostgresStore {
    /// Also opens a store whose database can't be reached: it is unavailable until that is back.
    pub async fn open(target: &PostgresTarget, options: StoreOptions) -> Result<Self, StoreError> {
        let migration_target = match &options.migration_url {
            None => target,
            Some(StoreUrl::Postgres(target)) => target,
            Some(StoreUrl::Sqlite(_)) => {
                let reason =
                    "the store is in PostgreSQL, so its migration URL must be one of PostgreSQL, too";
                return Err(StoreError::Unusable(reason.into()));
            }
        };
        let schema = Schema::new(Connector::new(migration_target)?, options.migrate);
        let is_reachable = match schema.bring_up_to_date().await {
            Ok(()) => true,
            Err(ConnectError::Unavailable(reason)) => {
                tracing::warn!(reason, "the database can't be reached; trying again until it can");
                false
            }
            Err(error @ ConnectError::Unusable(_)) => return Err(error.into()),
        };
        let context = Arc::new(ConnectContext::new(Connector::new(target)?, schema));
        let (readers, writers) = (options.read_connections, options.write_connections);
        // Writers come first. If none is left for reading, one of them makes way.
        let limit = options.commit_timeout.max(write::MIN_LIMIT);
        let writers = Arc::new(Pool::start(&context, Purpose::Writing, writers, writers, limit));
        if is_reachable {
            writers.settled().await?;
        }
        // Projects take turns with reads, and each leaves a connection to others, as the gateway itself does.
        let share = readers.saturating_sub(1);
        let readers = Pool::start(&context, Purpose::Reading, readers, share, options.read_timeout);
        if is_reachable {
            readers.settled().await?;
        }
        let engines = (0..writers.len()).map(|own| PostgresEngine::new(Arc::clone(&writers), own));
        let group = Group::start_tasks(engines, options.commit_timeout);
        let readers = Readers { pool: readers };
        Ok(Self { group, writers, readers, context })
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore").field("is_available", &self.is_available()).finish_non_exhaustive()
    }
}

#[async_trait]
impl Responses for PostgresStore {
    async fn record(&self, record: Record) -> Result<Appended, StoreError> {
        if texts_of(&record).any(has_nul) {
            return Err(StoreError::Refused(
                "a text contains a NUL character, which PostgreSQL can't store".into(),
            ));
        }
        self.group.record(record).await
    }

    async fn load(
        &self,
        project: &ProjectId,
        id: ResponseId,
        now: Timestamp,
    ) -> Result<Option<StoredResponse>, StoreError> {
        self.readers.load(project, id, now).await
    }

    async fn load_chain(
        &self,
        project: &ProjectId,
        query: ChainQuery,
    ) -> Result<Vec<StoredTurn>, StoreError> {
        self.readers.load_chain(project, query).await
    }

    async fn load_items(
        &self,
        project: &ProjectId,
        ids: &[ItemId],
        now: Timestamp,
        max_bytes: usize,
    ) -> Result<FoundItems, StoreError> {
        self.readers.load_items(project, ids, now, max_bytes).await
    }

    async fn delete(&self, project: &ProjectId, id: ResponseId, now: Timestamp) -> Result<bool, StoreError> {
        self.group.execute(deletion(project, id, now)).await
    }

    async fn list_deleted(&self, since: Timestamp) -> Result<Vec<(ProjectId, ResponseId)>, StoreError> {
        self.readers.list_deleted(since).await
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

impl Database for PostgresStore {
    fn group(&self) -> &Group {
        &self.group
    }

    async fn query_for(&self, project: Option<&ProjectId>, query: Query) -> Result<Vec<Columns>, StoreError> {
        self.readers.select(project, &query).await
    }
}

#[async_trait]
impl Store for PostgresStore {
    fn is_available(&self) -> bool {
        self.group.is_available() && self.writers.is_up()
    }

    fn missing_connections(&self) -> u64 {
        self.context.missing()
    }

    fn register_metrics(&self, registry: &mut Registry) {
        self.group.register_metrics(registry);
    }

    fn has_its_file(&self) -> bool {
        true
    }

    async fn stats(&self, now: Timestamp) -> Result<Vec<ProjectStats>, StoreError> {
        store::stats(self, now).await
    }

    async fn size(&self) -> Result<StoreSize, StoreError> {
        store::size(self, "postgres", [store::POSTGRES_DATABASE, store::POSTGRES_TABLES]).await
    }

    fn is_shared(&self) -> bool {
        true
    }

    async fn check(&self) -> Result<(), StoreError> {
        probe::check(self).await
    }

    async fn close(&self) {
        self.group.close().await;
        join(self.writers.close(), self.readers.pool.close()).await;
    }
}

/// PostgreSQL can't store a NUL in a text, and would refuse the whole batch for it.
fn has_nul(text: &str) -> bool {
    text.contains('\0')
}

fn texts_of(record: &Record) -> impl Iterator<Item = &str> {
    let turn = &record.response.turn;
    [&turn.account, &turn.boundary, &turn.model]
        .into_iter()
        .chain(&turn.upstream_id)
        .map(String::as_str)
        .chain([record.project.as_str()])
}
