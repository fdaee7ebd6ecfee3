//! The engine of group commit: one connection, one transaction a batch.

use std::sync::Arc;
use std::time::Duration;

use antiphon_protocol::id::{ProjectId, ResponseId};
use rusqlite::{Connection, TransactionBehavior, params};

use super::insert::{insert_log, insert_record};
use super::open::Opener;
use super::readers::{Readers, Shared, lock};
use super::{limits, purge, statement};
use crate::Timestamp;
use crate::body::Encoder;
use crate::group::{Engine, NotCommitted, Operation, Outcome};

pub(super) const DELETE: &str = "UPDATE responses SET deleted_at = ?3, expires_at = ?3 \
     WHERE id = ?1 AND project = ?2 AND deleted_at IS NULL AND (expires_at IS NULL OR expires_at > ?3)";

/// A row that needs pages of its own comes and goes: a full disk refuses it.
pub(super) const CHECK: [&str; 2] = [
    "INSERT INTO request_log (at, response_id, project, model, transport, outcome, http_status, depth, \
     input_tokens, cached_tokens, output_tokens, reasoning_tokens, duration_us) \
     VALUES (-1, zeroblob(32768), '', '', '', '', 0, 0, 0, 0, 0, 0, 0)",
    "DELETE FROM request_log WHERE at = -1",
];

/// Under load a commit that is shared by twice as many turns costs each of them a sixth less CPU time.
const GATHERING: Duration = Duration::from_micros(750);

/// Owns the connection that writes.
pub(super) struct SqliteEngine {
    /// Missing after an error, until it is opened again.
    connection: Option<Shared>,
    /// A database in memory has none: it would be lost with its connection.
    opener: Option<Opener>,
    readers: Arc<Readers>,
    encoder: Encoder,
}

// === impl SqliteEngine ===

impl SqliteEngine {
    pub(super) fn new(connection: Shared, opener: Option<Opener>, readers: Arc<Readers>) -> Self {
        Self { connection: Some(connection), opener, readers, encoder: Encoder::new() }
    }

    fn connection(&mut self) -> rusqlite::Result<Shared> {
        match (&self.connection, &mut self.opener) {
            (Some(connection), _) => Ok(Arc::clone(connection)),
            (None, Some(open)) => open().map(|connection| Arc::clone(self.connection.insert(connection))),
            (None, None) => Err(rusqlite::Error::InvalidQuery),
        }
    }
}

impl Engine for SqliteEngine {
    async fn commit(&mut self, batch: &[Operation]) -> Result<Vec<Outcome>, NotCommitted> {
        let connection = self.connection()?;
        let result = transact(&mut lock(&connection), batch, &mut self.encoder);
        result.map_err(|error| {
            let error = NotCommitted::from(error);
            if self.opener.is_some() && matches!(error, NotCommitted::Unavailable(_)) {
                self.connection = None;
            }
            error
        })
    }

    async fn gather(&mut self) {
        std::thread::sleep(GATHERING);
    }

    /// The readers go first, or they would keep the write-ahead log from being emptied.
    async fn close(&mut self) {
        self.readers.close().await;
        let Some(connection) = self.connection.take().filter(|_| self.opener.is_some()) else { return };
        let checkpoint = lock(&connection).execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
        if let Err(error) = checkpoint {
            tracing::warn!(%error, "the write-ahead log stays beside the database until it is opened again");
        }
    }
}

fn transact(
    connection: &mut Connection,
    batch: &[Operation],
    encoder: &mut Encoder,
) -> rusqlite::Result<Vec<Outcome>> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let outcomes: rusqlite::Result<_> =
        batch.iter().map(|operation| run(&transaction, operation, encoder)).collect();
    let outcomes = outcomes?;
    transaction.commit()?;
    Ok(outcomes)
}

fn run(connection: &Connection, operation: &Operation, encoder: &mut Encoder) -> rusqlite::Result<Outcome> {
    if let Some(settlement) = operation.settlement() {
        limits::settle(connection, settlement)?;
    }
    match operation {
        Operation::Record(record) => insert_record(connection, record, encoder).map(|()| Outcome::Done),
        Operation::Log(row, _) => insert_log(connection, row).map(|()| Outcome::Done),
        Operation::Settle(_) => Ok(Outcome::Done),
        Operation::Reserve(reservation) => {
            limits::reserve(connection, reservation).map(|reserved| Outcome::Reserved(Box::new(reserved)))
        }
        Operation::Sweep { now, max_rows } => limits::sweep(connection, *now, *max_rows).map(Outcome::Swept),
        Operation::Delete { project, id, now } => {
            delete(connection, project, *id, *now).map(Outcome::Changed)
        }
        Operation::Purge { now, log_before, max_rows } => {
            purge::purge(connection, *now, *log_before, *max_rows).map(Outcome::Purged)
        }
        Operation::Execute(statement) => statement::execute(connection, statement).map(Outcome::Changed),
        Operation::ExecuteAll(statements) => {
            for statement in statements {
                statement::execute(connection, statement)?;
            }
            Ok(Outcome::Done)
        }
        Operation::Check => {
            for statement in CHECK {
                connection.execute(statement, ())?;
            }
            Ok(Outcome::Done)
        }
    }
}

fn delete(
    connection: &Connection,
    project: &ProjectId,
    id: ResponseId,
    now: Timestamp,
) -> rusqlite::Result<bool> {
    let mut statement = connection.prepare_cached(DELETE)?;
    let rows = statement.execute(params![id.uuid(), project.as_str(), now.unix_ms()])?;
    Ok(rows > 0)
}
