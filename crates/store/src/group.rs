//! Group commit: writes that wait at the same time become durable in one transaction.
//!
//! Callers queue an [`Operation`] and wait. A writer drains the queue into a batch, has its engine commit it, and
//! answers each caller only then; an engine that can write several batches at once has several writers. A caller that
//! goes away, or gives up at its deadline, leaves its operation in the queue: it is still written, and nobody is told.

mod limits;
mod log;
mod operation;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use antiphon_protocol::id::{ProjectId, ResponseId};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::timeout;

pub(crate) use self::operation::{Operation, Outcome};

use self::log::LogRows;
use crate::sql::Statement;
use crate::{LogRow, Purged, Record, Settlement, StoreError, Timestamp};

/// Operations that wait; with more, callers wait for a place.
const QUEUE_OPERATIONS: usize = 4096;
/// Bounds of one transaction: long enough to share the cost of a commit, short enough for the first one's patience.
const BATCH_OPERATIONS: usize = 256;
const BATCH_BYTES: usize = 8 << 20;

/// Why a batch was not committed. Nothing of it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotCommitted {
    /// The engine can't write now.
    Unavailable(String),
    /// The engine has given up waiting, and does not know what will become of it.
    Deadline,
    /// It is one operation's own fault; the others can be written without it.
    Refused(String),
}

/// A storage engine's side of group commit.
pub(crate) trait Engine: Send + 'static {
    /// Runs the operations in one transaction and returns what each did, in their order, once it is durable.
    fn commit(
        &mut self,
        batch: &[Operation],
    ) -> impl Future<Output = Result<Vec<Outcome>, NotCommitted>> + Send;

    /// Called when several operations were written together: lets others gather for the next batch, for about as long
    /// as sharing a commit is worth.
    fn gather(&mut self) -> impl Future<Output = ()> + Send;

    fn close(&mut self) -> impl Future<Output = ()> + Send;
}

/// The callers' side: a queue in front of the tasks that own the engines.
#[derive(Debug)]
pub(crate) struct Group {
    queue: mpsc::Sender<Queued>,
    log: Arc<LogRows>,
    health: Arc<Health>,
    commit_timeout: Duration,
}

#[derive(Debug)]
enum Queued {
    Operation(Operation, Answer),
    Close(oneshot::Sender<()>),
}

type Answer = oneshot::Sender<Result<Outcome, StoreError>>;

/// Whether the last write went through.
#[derive(Debug)]
struct Health {
    is_available: AtomicBool,
}

struct Writer<E> {
    engine: E,
    shared: Arc<Shared>,
}

/// What writers have in common.
#[derive(Debug)]
struct Shared {
    /// One at a time takes a batch from it, and others may do so while that is committed.
    queue: Mutex<mpsc::Receiver<Queued>>,
    log: Arc<LogRows>,
    health: Arc<Health>,
    commit_timeout: Duration,
    /// Who waits for the engines to be closed: they hear of it when this goes, with the last writer.
    closing: std::sync::Mutex<Vec<oneshot::Sender<()>>>,
}

/// Operations of one transaction, and who waits for each.
#[derive(Default)]
struct Batch {
    operations: Vec<Operation>,
    answers: Vec<Option<Answer>>,
    size_bytes: usize,
}

// === impl Group ===

impl Group {
    /// Starts the writer on a thread of its own, for an engine that blocks. It ends when this is closed or dropped, after
    /// it wrote what was queued.
    pub(crate) fn start_on_thread(
        name: &str,
        engine: impl Engine,
        commit_timeout: Duration,
    ) -> Result<Self, StoreError> {
        let no_thread = |error| StoreError::Unusable(format!("no thread can be started to write: {error}"));
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(no_thread)?;
        let (group, shared) = Self::new(commit_timeout);
        let writer = Writer { engine, shared };
        let thread = std::thread::Builder::new().name(name.into());
        thread.spawn(move || runtime.block_on(writer.run())).map_err(no_thread)?;
        Ok(group)
    }

    /// Starts a writer for each of these engines, as tasks. They end when this is closed or dropped, after they wrote
    /// what was queued.
    pub(crate) fn start_tasks(
        engines: impl IntoIterator<Item = impl Engine>,
        commit_timeout: Duration,
    ) -> Self {
        let (group, shared) = Self::new(commit_timeout);
        for engine in engines {
            tokio::spawn(Writer { engine, shared: Arc::clone(&shared) }.run());
        }
        group
    }

    fn new(commit_timeout: Duration) -> (Self, Arc<Shared>) {
        let (sender, queue) = mpsc::channel(QUEUE_OPERATIONS);
        let log = Arc::<LogRows>::default();
        let health = Arc::new(Health { is_available: AtomicBool::new(true) });
        let shared = Shared {
            queue: Mutex::new(queue),
            log: Arc::clone(&log),
            health: Arc::clone(&health),
            commit_timeout,
            closing: std::sync::Mutex::default(),
        };
        (Self { queue: sender, log, health, commit_timeout }, Arc::new(shared))
    }

    /// Queues the operation and waits until it is durable, or until the deadline.
    async fn write(&self, operation: Operation) -> Result<Outcome, StoreError> {
        let (answer, answered) = oneshot::channel();
        let written = async {
            self.queue.send(Queued::Operation(operation, answer)).await.map_err(|_| closed())?;
            answered.await.map_err(|_| closed())?
        };
        match timeout(self.commit_timeout, written).await {
            Ok(result) => result,
            Err(_) => {
                self.health.set(false);
                Err(StoreError::Deadline(self.commit_timeout))
            }
        }
    }

    pub(crate) async fn record(&self, record: Record) -> Result<(), StoreError> {
        self.write(Operation::Record(Box::new(record))).await.map(|_| ())
    }

    /// `false` if there is no live response with this id.
    pub(crate) async fn delete(
        &self,
        project: &ProjectId,
        id: ResponseId,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let outcome = self.write(Operation::Delete { project: project.clone(), id, now }).await?;
        Ok(outcome == Outcome::Changed(true))
    }

    pub(crate) async fn purge(
        &self,
        now: Timestamp,
        log_before: Option<Timestamp>,
        max_rows: u32,
    ) -> Result<Purged, StoreError> {
        match self.write(Operation::Purge { now, log_before, max_rows }).await? {
            Outcome::Purged(purged) => Ok(purged),
            _ => Ok(Purged::default()),
        }
    }

    /// Whether a row was written.
    pub(crate) async fn execute(&self, statement: Statement) -> Result<bool, StoreError> {
        Ok(self.write(Operation::Execute(statement)).await? == Outcome::Changed(true))
    }

    pub(crate) async fn execute_all(&self, statements: Vec<Statement>) -> Result<(), StoreError> {
        self.write(Operation::ExecuteAll(statements)).await.map(|_| ())
    }

    pub(crate) async fn check(&self) -> Result<(), StoreError> {
        self.write(Operation::Check).await.map(|_| ())
    }

    /// Takes a row that nobody waits for.
    pub(crate) fn append(&self, row: LogRow) {
        self.log.push(Operation::Log(Box::new(row), None));
    }

    /// Rows that nobody waited for and that could not be kept.
    pub(crate) fn lost_rows(&self) -> u64 {
        self.log.lost()
    }

    /// The earliest time that a row of the log bears, of those that were written since the last call.
    pub(crate) fn take_earliest(&self) -> Option<Timestamp> {
        self.log.take_earliest()
    }

    pub(crate) fn is_available(&self) -> bool {
        self.health.is_available.load(Ordering::Relaxed)
    }

    /// Writes what is queued and closes the engines. Later writes fail.
    pub(crate) async fn close(&self) {
        let (closed, is_closed) = oneshot::channel();
        if self.queue.send(Queued::Close(closed)).await.is_ok() {
            // An error means that the last writer has ended, and is what was asked for.
            let _ = is_closed.await;
        }
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable("it is closed".into())
}

// === impl Health ===

impl Health {
    fn set(&self, is_available: bool) {
        self.is_available.store(is_available, Ordering::Relaxed);
    }
}

// === impl Writer ===

impl<E: Engine> Writer<E> {
    async fn run(mut self) {
        let mut batch = Batch::default();
        while self.fill(&mut batch).await {
            let answered = batch.answers.iter().flatten().count();
            self.commit(&mut batch).await;
            if answered > 1 {
                // More will come soon, from those that were just answered above all.
                self.engine.gather().await;
            }
        }
        self.engine.close().await;
    }

    /// Waits for operations and takes as many as are there, with the log rows that wait. `false` when there is nothing
    /// more to come.
    async fn fill(&mut self, batch: &mut Batch) -> bool {
        let shared = Arc::clone(&self.shared);
        let mut queue = shared.queue.lock().await;
        let next = tokio::select! {
            biased;
            next = queue.recv() => Some(next),
            () = shared.log.due() => None,
        };
        let is_open = !matches!(next, Some(None));
        if let Some(next) = next.flatten() {
            shared.take(next, &mut queue, batch);
        }
        while !batch.is_full()
            && let Ok(next) = queue.try_recv()
        {
            shared.take(next, &mut queue, batch);
        }
        if !is_open {
            shared.log.close();
        }
        for operation in shared.log.take() {
            batch.push(operation, None);
        }
        is_open || !batch.operations.is_empty()
    }

    async fn commit(&mut self, batch: &mut Batch) {
        if batch.operations.is_empty() {
            return;
        }
        let committed = self.engine.commit(&batch.operations).await;
        // Whatever came of it: of a commit that is given up it is not known.
        self.shared.log.note(batch.operations.iter().filter_map(Operation::logged_at));
        match committed {
            Ok(outcomes) => {
                self.shared.health.set(true);
                let answers = batch.operations.iter().zip(batch.answers.drain(..));
                for ((operation, answer), outcome) in answers.zip(outcomes) {
                    self.shared.tell(operation, answer, outcome);
                }
            }
            Err(NotCommitted::Refused(_)) if batch.operations.len() > 1 => self.commit_each(batch).await,
            Err(error) => self.fail(error, batch),
        }
        batch.clear();
    }

    /// So that an operation that can't be written fails alone.
    async fn commit_each(&mut self, batch: &mut Batch) {
        for (operation, mut answer) in batch.operations.drain(..).zip(batch.answers.drain(..)) {
            let committed = self.engine.commit(std::slice::from_ref(&operation)).await;
            self.shared.log.note(operation.logged_at());
            match committed {
                Ok(outcomes) => {
                    self.shared.health.set(true);
                    for outcome in outcomes {
                        self.shared.tell(&operation, answer.take(), outcome);
                    }
                }
                Err(error) => {
                    let mut alone = Batch::default();
                    alone.push(operation, answer);
                    self.fail(error, &mut alone);
                }
            }
        }
    }

    /// Tells those who wait. Rows of the log that nobody waits for are kept for as long as the store is away.
    fn fail(&self, error: NotCommitted, batch: &mut Batch) {
        let error = match error {
            NotCommitted::Unavailable(reason) => {
                self.shared.health.set(false);
                StoreError::Unavailable(reason)
            }
            NotCommitted::Deadline => {
                self.shared.health.set(false);
                StoreError::Deadline(self.shared.commit_timeout)
            }
            NotCommitted::Refused(reason) => StoreError::Refused(reason),
        };
        let mut unawaited = Vec::new();
        for (operation, answer) in batch.operations.drain(..).zip(batch.answers.drain(..)) {
            reply(answer, Err(error.clone()));
            if operation.is_unawaited() {
                unawaited.push(operation);
            }
        }
        if unawaited.is_empty() {
            return;
        }
        if matches!(error, StoreError::Refused(_)) {
            tracing::warn!(rows = unawaited.len(), %error, "rows of the request log were lost");
            self.shared.log.lose(unawaited);
        } else {
            self.shared.log.put_back(unawaited);
        }
    }
}

/// Whether there is somebody who hears of it: the caller may have gone away.
fn reply(answer: Option<Answer>, result: Result<Outcome, StoreError>) -> bool {
    answer.is_some_and(|answer| answer.send(result).is_ok())
}

/// However a writer ends, nobody takes the store for available until another one has written; the queue's end tells
/// those who wait.
impl<E> Drop for Writer<E> {
    fn drop(&mut self) {
        self.shared.health.set(false);
    }
}

// === impl Shared ===

impl Shared {
    fn tell(&self, operation: &Operation, answer: Option<Answer>, outcome: Outcome) {
        let is_heard = reply(answer, Ok(outcome));
        if let (Operation::Reserve(reservation), false) = (operation, is_heard) {
            self.log.push(Operation::Settle(Settlement::release(reservation.id)));
        }
    }

    fn take(&self, queued: Queued, queue: &mut mpsc::Receiver<Queued>, batch: &mut Batch) {
        match queued {
            Queued::Operation(operation, answer) => batch.push(operation, Some(answer)),
            Queued::Close(closed) => {
                self.closing.lock().unwrap_or_else(PoisonError::into_inner).push(closed);
                queue.close();
            }
        }
    }
}

/// The last writer has ended.
impl Drop for Shared {
    fn drop(&mut self) {
        self.log.close();
        self.health.set(false);
    }
}

// === impl Batch ===

impl Batch {
    fn push(&mut self, operation: Operation, answer: Option<Answer>) {
        self.size_bytes += operation.size_bytes();
        self.operations.push(operation);
        self.answers.push(answer);
    }

    fn is_full(&self) -> bool {
        self.operations.len() >= BATCH_OPERATIONS || self.size_bytes >= BATCH_BYTES
    }

    fn clear(&mut self) {
        self.operations.clear();
        self.answers.clear();
        self.size_bytes = 0;
    }
}
