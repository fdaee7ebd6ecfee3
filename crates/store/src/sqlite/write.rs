//! The engine of group commit: one connection, one transaction a batch.

use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};

use super::checkpoint::Checkpoints;
use super::database_file::DatabaseFile;
use super::insert::Inserter;
use super::lock::ServingLock;
use super::open::{Opened, Opener};
use super::readers::{Readers, Shared, lock};
use super::{background, conversations, limits, purge, statement};
use crate::body::Encoder;
use crate::group::{Engine, NotCommitted, Operation, Outcome};

/// Under load, a commit shared by twice as many turns costs each of them a sixth less CPU time.
const GATHERING: Duration = Duration::from_micros(750);

/// Owns the connection that writes.
pub(super) struct SqliteEngine {
    /// `None` after an error, until it is opened again.
    connection: Option<Shared>,
    /// `None` for a database in memory, which would be lost with its connection.
    opener: Option<Opener>,
    /// `None` where checkpoints run within commits.
    checkpoints: Option<Checkpoints>,
    readers: Arc<Readers>,
    encoder: Encoder,
    file: Option<DatabaseFile>,
    /// Released after the last write.
    _lock: Option<ServingLock>,
}

// === impl SqliteEngine ===

impl SqliteEngine {
    pub(super) fn new(opened: Opened, readers: Arc<Readers>) -> Self {
        let Opened { writer, opener, file, lock, .. } = opened;
        let mut engine = Self {
            connection: None,
            opener,
            checkpoints: None,
            readers,
            encoder: Encoder::new(),
            file,
            _lock: lock,
        };
        engine.use_connection(writer);
        engine
    }

    fn connection(&mut self) -> rusqlite::Result<Shared> {
        match (&self.connection, &mut self.opener) {
            (Some(connection), _) => Ok(Arc::clone(connection)),
            (None, Some(open)) => open().map(|connection| self.use_connection(connection)),
            (None, None) => Err(rusqlite::Error::InvalidQuery),
        }
    }

    fn use_connection(&mut self, writer: Shared) -> Shared {
        if let (Some(open), Some(file)) = (&mut self.opener, &self.file) {
            let start = |copier| Checkpoints::start(&mut lock(&writer), copier, file.clone());
            let started = open().map_err(Into::into).and_then(start);
            self.checkpoints = started
                .inspect_err(|error| tracing::warn!(%error, "checkpoints run within commits, as their thread cannot be started"))
                .ok();
        }
        Arc::clone(self.connection.insert(writer))
    }
}

impl Engine for SqliteEngine {
    async fn commit(&mut self, batch: &[Operation]) -> Result<Vec<Outcome>, NotCommitted> {
        if let Some(file) = &self.file {
            file.check().map_err(NotCommitted::Unavailable)?;
        }
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

    /// Closes the readers first, or they would keep the write-ahead log from being emptied.
    async fn close(&mut self) {
        self.readers.close().await;
        let Some(connection) = self.connection.take().filter(|_| self.opener.is_some()) else { return };
        let mut connection = lock(&connection);
        let stopped = self.checkpoints.take().map_or(Ok(()), |checkpoints| checkpoints.stop(&mut connection));
        let checkpoint = stopped.and_then(|()| connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)"));
        if let Err(error) = checkpoint {
            tracing::warn!(%error, "the write-ahead log could not be emptied; it stays until the database is opened again");
        }
    }
}

fn transact(
    connection: &mut Connection,
    batch: &[Operation],
    encoder: &mut Encoder,
) -> rusqlite::Result<Vec<Outcome>> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut inserter = Inserter::new(&transaction, encoder);
    let outcomes: rusqlite::Result<_> = batch.iter().map(|operation| run(&mut inserter, operation)).collect();
    let outcomes = outcomes?;
    drop(inserter);
    transaction.commit()?;
    Ok(outcomes)
}

fn run(inserter: &mut Inserter<'_>, operation: &Operation) -> rusqlite::Result<Outcome> {
    let connection = inserter.connection;
    if let Some(settlement) = operation.settlement() {
        limits::settle(connection, settlement)?;
    }
    match operation {
        Operation::Record(record) => conversations::record(inserter, record).map(Outcome::Appended),
        Operation::Post(post) => conversations::post(inserter, post).map(Outcome::Appended),
        Operation::EndBackground(end) => background::end(inserter, end).map(Outcome::Ended),
        Operation::Log(row, _) => inserter.log(row).map(|()| Outcome::Done),
        Operation::Settle(_) => Ok(Outcome::Done),
        Operation::Reserve(reservation) => {
            limits::reserve(connection, reservation).map(|reserved| Outcome::Reserved(Box::new(reserved)))
        }
        Operation::Sweep(sweep) => limits::sweep(connection, *sweep).map(Outcome::Swept),
        Operation::Purge(step) => {
            purge::purge(connection, step).map(|(purged, next)| Outcome::Purged(purged, next))
        }
        Operation::Execute(statements) => {
            let mut is_changed = false;
            for statement in statements {
                is_changed |= statement::execute(connection, statement)?;
            }
            Ok(Outcome::Changed(is_changed))
        }
        Operation::ExecuteSoon(statement) => statement::execute(connection, statement).map(Outcome::Changed),
    }
}
