//! Responses, items, the request log, accounts, keys and limits on disk.
//!
//! [`Store`] is the sum of narrow traits; each method is one domain operation and one transaction, and everything is
//! scoped by project. An engine implements the traits and passes the contract suite in `tests/contract`; what is not
//! SQL (the chain cache, group commit, replay bytes) exists once, above the engines, and so do statements that are the same
//! in both ([`accounts`]).
//!
//! Adding an engine: a folder beside [`sqlite`] with its own `migrations/<engine>`, an `impl Store`, one arm in
//! [`open()`], and one line in `tests/contract/main.rs`.

mod accounts;
mod admin;
mod assemble;
mod audit;
mod body;
pub mod chain;
mod copy;
mod error;
mod group;
mod keys;
mod limits;
mod migration;
mod model;
pub mod postgres;
mod sql;
pub mod sqlite;
mod url;
mod usage;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use antiphon_protocol::id::{ItemId, ProjectId, ResponseId};

pub use self::accounts::{Accounts, CredentialLock, StoredAccount, StoredCredential};
pub use self::admin::Admin;
pub use self::audit::{Audit, AuditEntry};
pub use self::copy::{CopyProgress, CopyReport, CopyStep, Digested, TableReport, copy};
pub use self::error::StoreError;
pub use self::keys::{Keys, Rotation, SecretHash, StoredKey};
pub use self::limits::{
    Count, CounterId, Counters, Hold, Limits, Measure, Reservation, Reserved, Settlement, Spent,
};
pub use self::model::{
    ChainQuery, Durability, IndexedItem, LogRow, Migrate, ProjectStats, Purged, Record, Status, StoreOptions,
    StoredResponse, StoredTurn,
};
pub use self::sql::{Columns, Database, Query, Statement};
pub use self::url::{
    AddressKind, Network, PostgresTarget, Reason, Refusal, SqliteTarget, StoreUrl, StoreUrlError,
    UnknownNetwork,
};
pub use self::usage::{DAY_MS, HOUR_MS, Span, Totals, Usage, UsageGroup, UsageQuery};
pub use antiphon_runtime::{Clock, SystemClock, Timestamp};

/// Responses and the items in them.
#[async_trait]
pub trait Responses: Send + Sync {
    /// Makes a finished turn durable: its response, where its items are found, and its row in the request log, in one
    /// transaction. When this returns `Ok` the turn survives a power cut (with [`Durability::Full`]).
    async fn record(&self, record: Record) -> Result<(), StoreError>;

    /// A response that is neither deleted nor expired.
    async fn load(
        &self,
        project: &ProjectId,
        id: ResponseId,
        now: Timestamp,
    ) -> Result<Option<StoredResponse>, StoreError>;

    /// The turns from [`ChainQuery::from`] towards the root, newest first, at most [`ChainQuery::max_turns`]. Empty if there
    /// is no such response. Never shorter than the chain without saying so: a gap is [`StoreError::BrokenChain`].
    async fn load_chain(&self, project: &ProjectId, query: ChainQuery)
    -> Result<Vec<StoredTurn>, StoreError>;

    /// The items with these ids, in their order; `None` where an id is unknown or its response is deleted or expired.
    async fn load_items(
        &self,
        project: &ProjectId,
        ids: &[ItemId],
        now: Timestamp,
    ) -> Result<Vec<Option<IndexedItem>>, StoreError>;

    /// Hides a response at once. `false` if there is no live response with this id.
    async fn delete(&self, project: &ProjectId, id: ResponseId, now: Timestamp) -> Result<bool, StoreError>;

    /// The responses that were deleted at this time or later and are not yet purged.
    async fn list_deleted(&self, since: Timestamp) -> Result<Vec<(ProjectId, ResponseId)>, StoreError>;

    /// Removes up to `max_rows` responses that are deleted or expired and that no live descendant replays through, with
    /// their items, and as many request-log rows older than `log_before`, which go on counting in [`Usage`]. A turn that is still running may be about to
    /// continue a response that has just died: `now` should lie back by as long as a turn may run. What is left after a
    /// call that removed something may include more to remove.
    async fn purge(
        &self,
        now: Timestamp,
        log_before: Option<Timestamp>,
        max_rows: u32,
    ) -> Result<Purged, StoreError>;
}

/// One row a turn, also for turns that stored nothing.
#[async_trait]
pub trait RequestLog: Send + Sync {
    /// Takes a row for writing soon, together with others. Returns at once. While the store is away rows are kept; when
    /// there are too many they are lost, and counted.
    fn append(&self, row: LogRow);

    /// Rows that were lost since the store was opened.
    fn lost_rows(&self) -> u64;

    /// The earliest time that a row bears of those that were written here since the last call.
    fn take_earliest(&self) -> Option<Timestamp>;

    /// The newest rows first.
    async fn list_log(&self, max_rows: u32) -> Result<Vec<LogRow>, StoreError>;
}

/// A storage engine.
#[async_trait]
pub trait Store: Responses + RequestLog + Limits + Database {
    /// Whether the last write went through; costs nothing. While `false`, turns that need the store are refused at once.
    fn is_available(&self) -> bool;

    /// What it holds, by project.
    async fn stats(&self, now: Timestamp) -> Result<Vec<ProjectStats>, StoreError>;

    /// Whether other processes may delete what is in it: memory of it then goes stale.
    fn is_shared(&self) -> bool;

    /// Reads and writes for real, and so decides what [`is_available`](Self::is_available) says next.
    async fn check(&self) -> Result<(), StoreError>;

    /// Writes what is waiting, and closes the files or connections. Later calls fail.
    async fn close(&self);
}

/// Opens the store that the URL names, and brings its schema up to date.
pub async fn open(url: &StoreUrl, options: StoreOptions) -> Result<Arc<dyn Store>, StoreError> {
    match url {
        StoreUrl::Sqlite(target) => Ok(Arc::new(sqlite::SqliteStore::open(target, options).await?)),
        StoreUrl::Postgres(target) => Ok(Arc::new(postgres::PostgresStore::open(target, options).await?)),
    }
}

/// Brings the schema of a database up to date, and returns the names of the migrations that were applied.
pub async fn migrate(url: &StoreUrl) -> Result<Vec<String>, StoreError> {
    match url {
        StoreUrl::Sqlite(target) => sqlite::migrate(target).await,
        StoreUrl::Postgres(target) => postgres::migrate(target).await,
    }
}

/// The names of the migrations that the schema of a database lacks.
pub async fn pending(url: &StoreUrl) -> Result<Vec<String>, StoreError> {
    match url {
        StoreUrl::Sqlite(target) => sqlite::pending(target).await,
        StoreUrl::Postgres(target) => postgres::pending(target).await,
    }
}

/// Raw JSON: an item, an array of items, or a response object.
pub type Json = Bytes;
