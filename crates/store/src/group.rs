//! Group commit: writes that wait at the same time become durable in one transaction.
//!
//! Callers queue an [`Operation`] and wait. A writer drains the queue into a batch, has its engine commit it, and only then
//! replies to each caller. An engine that can commit several batches at once has several writers. A caller that goes away, or
//! reaches its deadline, leaves its operation in the queue: it is still written, but nobody hears of it. Only statements, posts, turns of
//! conversations and large operations are not, unless they are being written by then: their caller was told of a failure, and may
//! have tried again.
//! A large one is dropped at once, however long the writers are busy with another.
//!
//! An operation with very many rows takes long and shares no commit. Such operations are written one at a time, of one project
//! after the other, and between two of them the others have their turn.

mod large;
mod limits;
mod log;
mod metrics;
mod operation;
mod queue;
#[cfg(test)]
mod tests;
mod writer;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

pub(crate) use self::operation::{Operation, Outcome};

use self::large::Large;
use self::log::LogRows;
use self::metrics::CommitMetrics;
use self::writer::{Health, Shared, Writer};
use crate::purge::{Leaf, PurgeStep};
use crate::sql::Statement;
use crate::{Appended, BackgroundEnd, LogRow, Post, Purged, Record, StoreError, Timestamp};

/// The capacity of the queue. Callers wait when it is full.
const QUEUE_OPERATIONS: usize = 4096;

/// Why a batch was not committed. With [`Refused`](Self::Refused) and [`Forbidden`](Self::Forbidden) nothing of it was; else that may
/// not be known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotCommitted {
    /// The engine can't write now.
    Unavailable(String),
    /// The commit took too long. It may still succeed.
    Deadline,
    /// The database rejects one of the operations. The others can be written without it.
    Refused(String),
    /// One of the operations needs a right that is missing. The others can be written without it.
    Forbidden(String),
}

/// A storage engine's side of group commit.
pub(crate) trait Engine: Send + 'static {
    /// Runs the operations in one transaction. Once that is durable, returns the outcome of each, in their order.
    fn commit(
        &mut self,
        batch: &[Operation],
    ) -> impl Future<Output = Result<Vec<Outcome>, NotCommitted>> + Send;

    /// Called after a commit of several operations: waits for more to queue up, for as long as sharing a commit is worth it.
    fn gather(&mut self) -> impl Future<Output = ()> + Send;

    fn close(&mut self) -> impl Future<Output = ()> + Send;
}

/// The callers' side: the queue in front of the writers, which own the engines.
#[derive(Debug)]
pub(crate) struct Group {
    queue: mpsc::Sender<Queued>,
    log: Arc<LogRows>,
    health: Arc<Health>,
    metrics: CommitMetrics,
    commit_timeout: Duration,
}

#[derive(Debug)]
enum Queued {
    Operation(Operation, Answer),
    Large(Arc<Large>, Answer),
    Close(oneshot::Sender<()>),
}

type Answer = oneshot::Sender<Result<Outcome, StoreError>>;

// === impl Group ===

impl Group {
    /// Starts the writer on its own thread, for an engine that blocks. It ends when this is closed or dropped, after it has
    /// written what is queued.
    pub(crate) fn start_on_thread(
        name: &str,
        engine: impl Engine,
        commit_timeout: Duration,
    ) -> Result<Self, StoreError> {
        let no_thread =
            |error| StoreError::Unusable(format!("the writer's thread can't be started: {error}"));
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(no_thread)?;
        let (group, shared) = Self::new(commit_timeout);
        let writer = Writer::new(engine, shared);
        let thread = std::thread::Builder::new().name(name.into());
        thread.spawn(move || runtime.block_on(writer.run())).map_err(no_thread)?;
        Ok(group)
    }

    /// Starts a writer for each of these engines, as tasks. They end when this is closed or dropped, after they have written
    /// what is queued.
    pub(crate) fn start_tasks(
        engines: impl IntoIterator<Item = impl Engine>,
        commit_timeout: Duration,
    ) -> Self {
        let (group, shared) = Self::new(commit_timeout);
        for engine in engines {
            tokio::spawn(Writer::new(engine, Arc::clone(&shared)).run());
        }
        group
    }

    fn new(commit_timeout: Duration) -> (Self, Arc<Shared>) {
        let (sender, queue) = mpsc::channel(QUEUE_OPERATIONS);
        let log = Arc::<LogRows>::default();
        let health = Arc::new(Health::available());
        let metrics = CommitMetrics::default();
        let shared =
            Shared::new(queue, Arc::clone(&log), Arc::clone(&health), metrics.clone(), commit_timeout);
        (Self { queue: sender, log, health, metrics, commit_timeout }, Arc::new(shared))
    }

    /// Queues the operation and waits until it is durable, or until the deadline.
    async fn write(&self, operation: Operation) -> Result<Outcome, StoreError> {
        let (answer, answered) = oneshot::channel();
        let is_large = operation.is_large();
        let (queued, _caller) = if is_large {
            let (large, caller) = Large::new(operation);
            (Queued::Large(large, answer), Some(caller))
        } else {
            (Queued::Operation(operation, answer), None)
        };
        let written = async {
            self.queue.send(queued).await.map_err(|_| StoreError::closed())?;
            answered.await.map_err(|_| StoreError::closed())?
        };
        match timeout(self.commit_timeout, written).await {
            Ok(result) => result,
            Err(_) => {
                // A large one may have waited for others like it.
                if !is_large {
                    self.health.set(false);
                }
                Err(StoreError::Deadline(self.commit_timeout))
            }
        }
    }

    pub(crate) async fn record(&self, record: Record) -> Result<Appended, StoreError> {
        self.append(Operation::Record(Box::new(record))).await
    }

    pub(crate) async fn post(&self, post: Post) -> Result<Appended, StoreError> {
        self.append(Operation::Post(Box::new(post))).await
    }

    async fn append(&self, operation: Operation) -> Result<Appended, StoreError> {
        match self.write(operation).await? {
            Outcome::Appended(appended) => Ok(appended),
            _ => Ok(Appended::Done),
        }
    }

    /// What became of its append; `None` if the lease no longer held.
    pub(crate) async fn end_background(&self, end: BackgroundEnd) -> Result<Option<Appended>, StoreError> {
        match self.write(Operation::EndBackground(Box::new(end))).await? {
            Outcome::Ended(appended) => Ok(appended),
            _ => Ok(None),
        }
    }

    /// What was removed, and what can be looked at next.
    pub(crate) async fn purge(&self, step: PurgeStep) -> Result<(Purged, Vec<Leaf>), StoreError> {
        match self.write(Operation::Purge(Box::new(step))).await? {
            Outcome::Purged(purged, next) => Ok((purged, next)),
            _ => Ok(Default::default()),
        }
    }

    /// Whether the statement changed a row.
    pub(crate) async fn execute(&self, statement: Statement) -> Result<bool, StoreError> {
        self.execute_all(vec![statement]).await
    }

    /// Runs all of them in one transaction. Whether any changed a row.
    pub(crate) async fn execute_all(&self, statements: Vec<Statement>) -> Result<bool, StoreError> {
        Ok(self.write(Operation::Execute(statements)).await? == Outcome::Changed(true))
    }

    /// Takes a statement that nobody waits for.
    pub(crate) fn execute_unawaited(&self, statement: Statement) {
        self.log.push(Operation::ExecuteSoon(Box::new(statement)));
    }

    /// Takes a row of the request log that nobody waits for.
    pub(crate) fn append_log(&self, row: LogRow) {
        self.log.push(Operation::Log(Box::new(row), None));
    }

    /// How many rows that nobody waited for were lost.
    pub(crate) fn lost_rows(&self) -> u64 {
        self.log.lost()
    }

    /// The earliest time in the rows of the log that were written since the last call.
    pub(crate) fn take_earliest_written(&self) -> Option<Timestamp> {
        self.log.take_earliest_written()
    }

    pub(crate) fn register_metrics(&self, registry: &mut Registry) {
        self.metrics.register(registry);
    }

    pub(crate) fn is_available(&self) -> bool {
        self.health.is_available()
    }

    /// Writes what is queued and closes the engines. Later writes fail.
    pub(crate) async fn close(&self) {
        let (closed, is_closed) = oneshot::channel();
        if self.queue.send(Queued::Close(closed)).await.is_ok() {
            // An error means that the last writer has ended, so the store is closed.
            let _ = is_closed.await;
        }
    }
}
