//! The engine of group commit: one connection, one transaction a batch.

use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};

use super::checkpoint::Checkpoints;
use super::database_file::DatabaseFile;
use super::insert::Inserter;
use super::item_index::{ItemIndex, NewItems};
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
    open: Option<Open>,
    /// `None` for a database in memory, which would be lost with its connection.
    opener: Option<Opener>,
    /// `None` where checkpoints run within commits.
    checkpoints: Option<Checkpoints>,
    readers: Arc<Readers>,
    new_items: Arc<NewItems>,
    encoder: Encoder,
    file: Option<DatabaseFile>,
    /// Released after the last write.
    lock: Option<ServingLock>,
}

/// The connection, and what is known of its database.
struct Open {
    connection: Shared,
    item_index: ItemIndex,
}

// === impl SqliteEngine ===

impl SqliteEngine {
    pub(super) fn new(
        opened: Opened,
        readers: Arc<Readers>,
        new_items: Arc<NewItems>,
    ) -> rusqlite::Result<Self> {
        let Opened { writer, opener, file, lock, .. } = opened;
        let mut engine = Self {
            open: None,
            opener,
            checkpoints: None,
            readers,
            new_items,
            encoder: Encoder::new(),
            file,
            lock,
        };
        engine.use_connection(writer)?;
        Ok(engine)
    }

    fn open(&mut self) -> rusqlite::Result<&mut Open> {
        if self.open.is_none() {
            let open = self.opener.as_mut().ok_or(rusqlite::Error::InvalidQuery)?;
            let connection = open()?;
            self.use_connection(connection)?;
        }
        self.open.as_mut().ok_or(rusqlite::Error::InvalidQuery)
    }

    fn use_connection(&mut self, connection: Shared) -> rusqlite::Result<()> {
        let is_only_process = self.lock.is_some() || self.file.is_none();
        let item_index = ItemIndex::load(Arc::clone(&self.new_items), &lock(&connection), is_only_process)?;
        if let (Some(open), Some(file)) = (&mut self.opener, &self.file) {
            let start = |copier| Checkpoints::start(&mut lock(&connection), copier, file.clone());
            let started = open().map_err(Into::into).and_then(start);
            self.checkpoints = started
                .inspect_err(|error| tracing::warn!(%error, "checkpoints run within commits, as their thread cannot be started"))
                .ok();
        }
        self.open = Some(Open { connection, item_index });
        Ok(())
    }
}

impl Engine for SqliteEngine {
    async fn commit(&mut self, batch: &[Operation]) -> Result<Vec<Outcome>, NotCommitted> {
        if let Some(file) = &self.file {
            file.check().map_err(NotCommitted::Unavailable)?;
        }
        self.open()?;
        let Self { open, encoder, .. } = self;
        let Some(open) = open else { return Err(rusqlite::Error::InvalidQuery.into()) };
        open.transact(batch, encoder).map_err(|error| {
            let error = NotCommitted::from(error);
            if self.opener.is_some() && matches!(error, NotCommitted::Unavailable(_)) {
                self.open = None;
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
        let Some(mut open) = self.open.take().filter(|_| self.opener.is_some()) else { return };
        let mut connection = lock(&open.connection);
        if let Err(error) = open.item_index.finish(&mut connection) {
            tracing::warn!(%error, "the index of items lacks the newest ones; the next start loads them");
        }
        let stopped = self.checkpoints.take().map_or(Ok(()), |checkpoints| checkpoints.stop(&mut connection));
        let checkpoint = stopped.and_then(|()| connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)"));
        if let Err(error) = checkpoint {
            tracing::warn!(%error, "the write-ahead log could not be emptied; it stays until the database is opened again");
        }
    }
}

// === impl Open ===

impl Open {
    fn transact(&mut self, batch: &[Operation], encoder: &mut Encoder) -> rusqlite::Result<Vec<Outcome>> {
        let mut connection = lock(&self.connection);
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut item_changes = self.item_index.advance(&transaction)?;
        settle_before_reserving(&transaction, batch)?;
        let mut inserter = Inserter::new(&transaction, &mut item_changes, encoder);
        let outcomes: rusqlite::Result<_> =
            batch.iter().map(|operation| run(&mut inserter, operation)).collect();
        let outcomes = outcomes?;
        drop(inserter);
        transaction.commit()?;
        self.item_index.committed(item_changes);
        Ok(outcomes)
    }
}

/// Turns that have ended count no more for those that start with the same commit. A turn whose reservation is in the batch itself
/// is settled after that, as the caller of the reservation is gone.
fn settle_before_reserving(connection: &Connection, batch: &[Operation]) -> rusqlite::Result<()> {
    if batch.iter().any(|operation| matches!(operation, Operation::Reserve(_))) {
        for settlement in batch.iter().filter_map(Operation::settlement) {
            limits::settle(connection, settlement)?;
        }
    }
    Ok(())
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
        Operation::Purge(step) => purge::purge(connection, inserter.item_changes, step)
            .map(|(purged, next)| Outcome::Purged(purged, next)),
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
