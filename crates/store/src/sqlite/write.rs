//! The engine of group commit: one connection, one transaction a batch.

use antiphon_protocol::id::{ProjectId, ResponseId};
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{SqliteConnection, SqlitePool};
use sqlx::{AssertSqlSafe, Sqlite};

use super::error::not_committed;
use super::insert::Inserts;
use super::purge;
use crate::Timestamp;
use crate::body::Encoder;
use crate::group::{Engine, NotCommitted, Operation, Outcome};

pub(super) const DELETE: &str = "UPDATE responses SET deleted_at = ?3, expires_at = ?3 \
     WHERE id = ?1 AND project = ?2 AND deleted_at IS NULL AND (expires_at IS NULL OR expires_at > ?3)";

/// A row that needs pages of its own comes and goes: a full disk refuses it.
pub(super) const CHECK: &str = "INSERT INTO request_log (at, response_id, project, model, transport, outcome, \
     http_status, depth, input_tokens, cached_tokens, output_tokens, reasoning_tokens, duration_us) \
     VALUES (-1, zeroblob(32768), '', '', '', '', 0, 0, 0, 0, 0, 0, 0); DELETE FROM request_log WHERE at = -1;";

/// Owns the connection that writes.
pub(super) struct SqliteEngine {
    pool: SqlitePool,
    readers: SqlitePool,
    /// Whether to keep the connection between batches, and to replace it after an error. A database in memory shares
    /// its only connection with the readers, and would be lost with it.
    is_file: bool,
    held: Option<PoolConnection<Sqlite>>,
    encoder: Encoder,
}

// === impl SqliteEngine ===

impl SqliteEngine {
    pub(super) fn new(pool: SqlitePool, readers: SqlitePool, is_file: bool) -> Self {
        Self { pool, readers, is_file, held: None, encoder: Encoder::new() }
    }
}

impl Engine for SqliteEngine {
    async fn commit(&mut self, batch: &[Operation]) -> Result<Vec<Outcome>, NotCommitted> {
        let mut connection = match self.held.take() {
            Some(connection) => connection,
            None => self.pool.acquire().await.map_err(|error| not_committed(&error))?,
        };
        let result =
            transact(&mut connection, batch, &mut self.encoder).await.map_err(|error| not_committed(&error));
        if self.is_file {
            match result {
                Err(NotCommitted::Unavailable(_)) => connection.close_on_drop(),
                _ => self.held = Some(connection),
            }
        }
        result
    }

    /// The readers go first, or they would keep the write-ahead log from being emptied.
    async fn close(&mut self) {
        self.readers.close().await;
        if self.is_file
            && let Some(mut connection) = self.held.take()
        {
            let checkpoint = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut *connection).await;
            if let Err(error) = checkpoint {
                tracing::warn!(%error, "the write-ahead log stays beside the database until it is opened again");
            }
        }
        self.pool.close().await;
    }
}

/// Transactions are begun and ended by plain statements: after some errors SQLite has rolled back by itself, and what
/// sqlx knows about the transaction would be wrong.
async fn transact(
    connection: &mut SqliteConnection,
    batch: &[Operation],
    encoder: &mut Encoder,
) -> Result<Vec<Outcome>, sqlx::Error> {
    let result = run(connection, batch, encoder).await;
    if result.is_err() {
        // Fails if SQLite has already rolled back, or nothing was begun.
        let _ = sqlx::query("ROLLBACK").execute(connection).await;
    }
    result
}

/// All that is only inserted goes first, mostly with `BEGIN` and `COMMIT` in the same text: each text that sqlx is given
/// costs two changes of threads, which is more than what SQLite does for a turn.
async fn run(
    connection: &mut SqliteConnection,
    batch: &[Operation],
    encoder: &mut Encoder,
) -> Result<Vec<Outcome>, sqlx::Error> {
    let is_inserted = |operation: &Operation| matches!(operation, Operation::Record(_) | Operation::Log(_));
    let has_others = !batch.iter().all(is_inserted);
    let mut inserts = Inserts::of(batch);
    let mut is_begun = false;
    while !is_begun || !inserts.is_empty() {
        let mut text = String::with_capacity(16 * 1024);
        if !is_begun {
            text.push_str("BEGIN IMMEDIATE;");
        }
        let arguments = inserts.take(&mut text, encoder)?;
        if inserts.is_empty() && !has_others {
            text.push_str("COMMIT");
        }
        sqlx::query_with(AssertSqlSafe(text), arguments).execute(&mut *connection).await?;
        is_begun = true;
    }
    let mut outcomes = Vec::with_capacity(batch.len());
    for operation in batch {
        outcomes.push(run_one(connection, operation).await?);
    }
    if has_others {
        sqlx::query("COMMIT").execute(connection).await?;
    }
    Ok(outcomes)
}

async fn run_one(connection: &mut SqliteConnection, operation: &Operation) -> Result<Outcome, sqlx::Error> {
    match operation {
        Operation::Record(_) | Operation::Log(_) => Ok(Outcome::Done),
        Operation::Delete { project, id, now } => {
            delete(connection, project, *id, *now).await.map(Outcome::Deleted)
        }
        Operation::Purge { now, log_before, max_rows } => {
            purge::purge(connection, *now, *log_before, *max_rows).await.map(Outcome::Purged)
        }
        Operation::Check => sqlx::query(CHECK).execute(connection).await.map(|_| Outcome::Done),
    }
}

async fn delete(
    connection: &mut SqliteConnection,
    project: &ProjectId,
    id: ResponseId,
    now: Timestamp,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(DELETE)
        .bind(id.uuid())
        .bind(project.as_str())
        .bind(now.unix_ms())
        .execute(connection)
        .await?;
    Ok(done.rows_affected() > 0)
}
