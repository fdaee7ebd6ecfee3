//! The store: the sum of its narrow traits, and what concerns it as a whole.

use std::collections::BTreeMap;

use antiphon_protocol::id::ProjectId;
use async_trait::async_trait;
use prometheus_client::registry::Registry;

use crate::sql::{Columns, Database, Kind, Query, number};
use crate::{
    Accounts, Admin, Audit, Background, Conversations, Counters, Inspection, KeyClients, Keys, Limits,
    Overview, Replicas, RequestLog, Responses, Sessions, SignIns, StoreError, Timestamp, Usage,
};

/// What a store holds of one project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectStats {
    pub project: ProjectId,
    pub responses: u64,
    /// Conversations that are not deleted.
    pub conversations: u64,
    /// What they have added to the store, uncompressed.
    pub conversation_bytes: u64,
    /// Responses without a parent.
    pub chains: u64,
    /// The stored size of items and bodies, without indexes.
    pub bytes: u64,
    pub oldest: Timestamp,
    /// Responses that are deleted or expired and not yet purged.
    pub expired: u64,
    /// Background turns that run, or whose log is kept.
    pub background: u64,
}

/// How large a store is. Numbers of rows are estimates, as counting reads every row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreSize {
    /// `sqlite` or `postgres`.
    pub engine: &'static str,
    pub bytes: u64,
    /// Of these, bytes that nothing uses.
    pub free_bytes: u64,
    pub tables: Vec<TableSize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSize {
    pub name: String,
    pub rows: u64,
    /// With indexes; `None` where the engine does not say.
    pub bytes: Option<u64>,
}

/// A storage engine, or a decorator of one.
#[async_trait]
pub trait Store:
    Responses
    + Background
    + Conversations
    + RequestLog
    + Limits
    + Counters
    + Replicas
    + Usage
    + Overview
    + Inspection
    + Accounts
    + Keys
    + KeyClients
    + Admin
    + Sessions
    + SignIns
    + Audit
{
    /// Whether the last write succeeded; costs nothing. While `false`, turns that need the store are refused at once.
    fn is_available(&self) -> bool;

    /// How many connections to a database server are not open, of those that are configured. 0 without a server.
    fn missing_connections(&self) -> u64 {
        0
    }

    /// Registers what it measures.
    fn register_metrics(&self, registry: &mut Registry);

    /// Whether the database's file is still the one that was opened. If not, nothing is written. Costs at most one `stat`.
    fn has_its_file(&self) -> bool;

    /// What it holds, by project. Reads every response.
    ///
    /// # Errors
    /// A [read error](StoreError#read-errors).
    async fn stats(&self, now: Timestamp) -> Result<Vec<ProjectStats>, StoreError>;

    /// How large it is. Costs little.
    ///
    /// # Errors
    /// A [read error](StoreError#read-errors).
    async fn size(&self) -> Result<StoreSize, StoreError>;

    /// Whether other processes may delete what is stored: what this process has in memory can then be out of date.
    fn is_shared(&self) -> bool;

    /// Reads from every table that a turn needs and writes to it, and so decides what [`is_available`](Self::is_available) returns next.
    ///
    /// # Errors
    /// A [read error](StoreError#read-errors) or a [write error](StoreError#write-errors).
    async fn check(&self) -> Result<(), StoreError>;

    /// Writes what is queued, and closes the files or connections. Later calls fail with [`StoreError::Unavailable`].
    async fn close(&self);
}

/// Ids of rows grow, and the oldest rows are removed first. Rows of the log are counted by the sums over them, and those of hours that
/// are not rolled up one by one.
pub(crate) const SQLITE_TABLES: &str = "SELECT 'responses', CAST((SELECT coalesce(max(rowid), 0) FROM responses) \
       - (SELECT coalesce(min(rowid), 1) FROM responses) + 1 AS bigint), NULL UNION ALL \
     SELECT 'request_log', (SELECT coalesce(sum(turns), 0) FROM outcome_rollups WHERE part = 0) \
       + (SELECT count(*) FROM request_log WHERE at >= (SELECT coalesce(max(starts_at) + 3600000, 0) FROM usage_rollups \
       WHERE part = 0)), NULL UNION ALL \
     SELECT 'background_turns', (SELECT count(*) FROM background_turns WHERE ended_at IS NULL), NULL";

pub(crate) const SQLITE_PAGES: &str = "SELECT page_count * page_size, freelist_count * page_size \
     FROM pragma_page_count, pragma_page_size, pragma_freelist_count";

pub(crate) const POSTGRES_TABLES: &str = "SELECT c.relname::text, greatest(c.reltuples, 0)::bigint, \
     pg_total_relation_size(c.oid) FROM pg_class c WHERE c.relkind = 'r' AND c.relnamespace = current_schema()::regnamespace \
     AND c.relname <> 'antiphon_schema' ORDER BY 1";

pub(crate) const POSTGRES_DATABASE: &str = "SELECT pg_database_size(current_database()), 0::bigint";

/// The statements are those of the engine: of the whole, and of its tables.
pub(crate) async fn size<D: Database>(
    database: &D,
    engine: &'static str,
    [whole, tables]: [&'static str; 2],
) -> Result<StoreSize, StoreError> {
    let columns = &[Kind::Number, Kind::Number];
    let rows = database.query(Query { text: whole, arguments: Vec::new(), columns }).await?;
    let mut size = StoreSize { engine, ..StoreSize::default() };
    if let Some(mut row) = rows.into_iter().next() {
        (size.bytes, size.free_bytes) = (row.integer()?, row.integer()?);
    }
    let columns = &[Kind::Text, Kind::Number, Kind::Number];
    for mut row in database.query(Query { text: tables, arguments: Vec::new(), columns }).await? {
        let (name, rows) = (row.text()?, row.integer()?);
        let bytes = row.optional_number().map(i64::unsigned_abs);
        size.tables.push(TableSize { name, rows, bytes });
    }
    Ok(size)
}

/// PostgreSQL's sum of bigints is wider than a bigint.
const STATS: &str = "SELECT project, count(*) FILTER (WHERE deletes IS NULL), \
     count(*) FILTER (WHERE parent_id IS NULL AND deletes IS NULL), \
     CAST(sum(CAST(length(input) AS bigint) + length(output) + length(body)) AS bigint), min(created_at), \
     count(*) FILTER (WHERE expires_at <= $1), \
     (SELECT count(*) FROM background_turns b WHERE b.project = responses.project) FROM responses GROUP BY project";

const CONVERSATION_STATS: &str = "SELECT project, count(*), min(created_at), CAST(sum(size_bytes) AS bigint) \
     FROM conversations WHERE deleted_at IS NULL GROUP BY project";

/// For the tests of both engines.
#[cfg(test)]
pub(crate) const STATEMENTS: [&str; 2] = [STATS, CONVERSATION_STATS];

pub(crate) async fn stats<D: Database>(
    database: &D,
    now: Timestamp,
) -> Result<Vec<ProjectStats>, StoreError> {
    const COLUMNS: [Kind; 7] =
        [Kind::Text, Kind::Number, Kind::Number, Kind::Number, Kind::Number, Kind::Number, Kind::Number];
    let query = Query { text: STATS, arguments: vec![number(now.unix_ms())], columns: &COLUMNS };
    let of_responses = |mut row: Columns| {
        Ok::<_, StoreError>(ProjectStats {
            project: ProjectId::new(&row.text()?),
            responses: row.integer()?,
            conversations: 0,
            conversation_bytes: 0,
            chains: row.integer()?,
            bytes: row.integer()?,
            oldest: Timestamp::from_unix_ms(row.number()?),
            expired: row.integer()?,
            background: row.integer()?,
        })
    };
    let mut stats = BTreeMap::new();
    for row in database.query(query).await? {
        let of_project = of_responses(row)?;
        stats.insert(of_project.project.clone(), of_project);
    }
    let columns = &[Kind::Text, Kind::Number, Kind::Number, Kind::Number];
    let query = Query { text: CONVERSATION_STATS, arguments: Vec::new(), columns };
    for mut row in database.query(query).await? {
        let (project, conversations) = (ProjectId::new(&row.text()?), row.integer()?);
        let oldest = Timestamp::from_unix_ms(row.number()?);
        let conversation_bytes = row.integer()?;
        let of_project = stats.entry(project.clone()).or_insert(ProjectStats {
            project,
            responses: 0,
            conversations,
            conversation_bytes,
            chains: 0,
            bytes: 0,
            oldest,
            expired: 0,
            background: 0,
        });
        of_project.conversations = conversations;
        of_project.conversation_bytes = conversation_bytes;
        of_project.oldest = of_project.oldest.min(oldest);
    }
    Ok(stats.into_values().collect())
}
