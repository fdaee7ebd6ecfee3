//! The writers' side of group commit: each takes batches from the queue and has its engine commit them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::log::LogRows;
use super::metrics::CommitMetrics;
use super::operation::{Operation, Outcome};
use super::queue::{Next, Queue};
use super::{Answer, Engine, NotCommitted, Queued};
use crate::{Settlement, StoreError};

/// Bounds of one transaction: large enough to share the cost of a commit, small enough that the first caller doesn't wait long.
pub(super) const BATCH_OPERATIONS: usize = 256;
const BATCH_BYTES: usize = 8 << 20;
const BATCH_ROWS: usize = 4096;

/// Whether the last write went through.
#[derive(Debug)]
pub(super) struct Health {
    is_available: AtomicBool,
}

pub(super) struct Writer<E> {
    engine: E,
    shared: Arc<Shared>,
    /// Whether its last batch was a large operation.
    was_large: bool,
}

/// What the writers of one store share.
#[derive(Debug)]
pub(super) struct Shared {
    /// One writer at a time takes a batch from it. The next may do so while that batch is committed.
    queue: Mutex<Queue>,
    /// The right to write a large operation. It is one writer's at a time, so that the others are there for the rest.
    large: Arc<Semaphore>,
    log: Arc<LogRows>,
    health: Arc<Health>,
    metrics: CommitMetrics,
    commit_timeout: Duration,
    /// Callers that wait for the engines to be closed. They hear of it when the last writer drops this.
    closing: std::sync::Mutex<Vec<oneshot::Sender<()>>>,
}

/// The operations of one transaction, and the callers that wait for them.
#[derive(Default)]
struct Batch {
    operations: Vec<Operation>,
    answers: Vec<Option<Answer>>,
    size_bytes: usize,
    rows: usize,
    /// Held while it is a large operation.
    large: Option<OwnedSemaphorePermit>,
}

// === impl Health ===

impl Health {
    pub(super) fn available() -> Self {
        Self { is_available: AtomicBool::new(true) }
    }

    pub(super) fn is_available(&self) -> bool {
        self.is_available.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, is_available: bool) {
        self.is_available.store(is_available, Ordering::Relaxed);
    }
}

// === impl Writer ===

impl<E: Engine> Writer<E> {
    pub(super) fn new(engine: E, shared: Arc<Shared>) -> Self {
        Self { engine, shared, was_large: false }
    }

    pub(super) async fn run(mut self) {
        let mut batch = Batch::default();
        while self.fill(&mut batch).await {
            let answered = batch.answers.iter().flatten().count();
            self.commit(&mut batch).await;
            if answered > 1 {
                // More will come soon, most of it from the callers that just got their replies.
                self.engine.gather().await;
            }
        }
        self.engine.close().await;
    }

    /// Waits for operations, and takes those that are queued and the log rows that wait. A large operation has a batch of its
    /// own, and after it others come first. `false` when no more can come.
    async fn fill(&mut self, batch: &mut Batch) -> bool {
        let shared = Arc::clone(&self.shared);
        let mut queue = shared.queue.lock().await;
        let next = tokio::select! {
            biased;
            next = queue.next(&shared.large, std::mem::take(&mut self.was_large)) => next,
            () = shared.log.due() => Next::Nothing,
        };
        let is_open = !matches!(next, Next::Closed);
        match next {
            Next::Queued(queued) => {
                shared.take(queued, &mut queue, batch);
                while !batch.is_full()
                    && let Some(queued) = queue.try_next()
                {
                    shared.take(queued, &mut queue, batch);
                }
            }
            Next::Large(permit, operation, answer) => {
                self.was_large = true;
                batch.large = Some(permit);
                batch.push(operation, Some(answer));
            }
            Next::Nothing => {}
            Next::Closed => shared.log.close(),
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
        let committed = self.measured(&batch.operations).await;
        // Also after a failure: the rows may have been written.
        self.shared.log.note_written(batch.operations.iter().filter_map(Operation::logged_at));
        match committed {
            Ok(outcomes) => {
                self.shared.health.set(true);
                let answers = batch.operations.iter().zip(batch.answers.drain(..));
                for ((operation, answer), outcome) in answers.zip(outcomes) {
                    self.shared.report(operation, answer, outcome);
                }
            }
            Err(NotCommitted::Refused(_) | NotCommitted::Forbidden(_)) if batch.operations.len() > 1 => {
                self.commit_each(batch).await;
            }
            Err(error) => self.fail(error, batch),
        }
        batch.clear();
    }

    /// Commits the operations one by one, so that only those fail that the database rejects.
    async fn commit_each(&mut self, batch: &mut Batch) {
        for (operation, mut answer) in batch.operations.drain(..).zip(batch.answers.drain(..)) {
            let committed = self.measured(std::slice::from_ref(&operation)).await;
            self.shared.log.note_written(operation.logged_at());
            match committed {
                Ok(outcomes) => {
                    self.shared.health.set(true);
                    for outcome in outcomes {
                        self.shared.report(&operation, answer.take(), outcome);
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

    async fn measured(&mut self, operations: &[Operation]) -> Result<Vec<Outcome>, NotCommitted> {
        let started = Instant::now();
        let committed = self.engine.commit(operations).await;
        self.shared.metrics.note(started.elapsed(), &committed);
        committed
    }

    /// Replies to the callers. What nobody waits for is kept until the store is available again.
    fn fail(&self, error: NotCommitted, batch: &mut Batch) {
        let error = match error {
            NotCommitted::Unavailable(reason) => {
                self.shared.health.set(false);
                StoreError::Unavailable(reason)
            }
            NotCommitted::Deadline => {
                // A large operation may take too long by itself.
                if batch.large.is_none() {
                    self.shared.health.set(false);
                }
                StoreError::Deadline(self.shared.commit_timeout)
            }
            NotCommitted::Refused(reason) => StoreError::Refused(reason),
            NotCommitted::Forbidden(reason) => {
                if batch.operations.iter().any(Operation::is_vital) {
                    self.shared.health.set(false);
                }
                StoreError::Unusable(reason)
            }
        };
        let is_forbidden = matches!(error, StoreError::Unusable(_));
        let mut unawaited = Vec::new();
        for (operation, answer) in batch.operations.drain(..).zip(batch.answers.drain(..)) {
            reply(answer, Err(error.clone()));
            // A forbidden operation would fail every batch that contains it.
            if operation.is_unawaited() && (operation.is_vital() || !is_forbidden) {
                unawaited.push(operation);
            }
        }
        if unawaited.is_empty() {
            return;
        }
        if matches!(error, StoreError::Refused(_)) {
            tracing::warn!(rows = unawaited.len(), %error, "rows of the request log were lost: the store rejected them");
            self.shared.log.lose(unawaited);
        } else {
            self.shared.log.put_back(unawaited);
        }
    }
}

/// Whether the caller is still there to receive the reply.
fn reply(answer: Option<Answer>, result: Result<Outcome, StoreError>) -> bool {
    answer.is_some_and(|answer| answer.send(result).is_ok())
}

/// However a writer ends, the store counts as unavailable until another one has written. The end of the queue tells the
/// callers that wait.
impl<E> Drop for Writer<E> {
    fn drop(&mut self) {
        self.shared.health.set(false);
    }
}

// === impl Shared ===

impl Shared {
    pub(super) fn new(
        queue: mpsc::Receiver<Queued>,
        log: Arc<LogRows>,
        health: Arc<Health>,
        metrics: CommitMetrics,
        commit_timeout: Duration,
    ) -> Self {
        let (queue, large) = (Mutex::new(Queue::new(queue)), Arc::new(Semaphore::new(1)));
        let closing = std::sync::Mutex::default();
        Self { queue, large, log, health, metrics, commit_timeout, closing }
    }

    /// Replies to the caller. A reservation whose caller is gone is released.
    fn report(&self, operation: &Operation, answer: Option<Answer>, outcome: Outcome) {
        let is_heard = reply(answer, Ok(outcome));
        if let (Operation::Reserve(reservation), false) = (operation, is_heard) {
            self.log.push(Operation::Settle(Settlement::release(reservation.id)));
        }
    }

    fn take(&self, queued: Queued, queue: &mut Queue, batch: &mut Batch) {
        match queued {
            Queued::Operation(operation, answer) => {
                // Its caller has reported a failure, and may have tried again.
                let is_void = answer.is_closed() && operation.is_void_unheard();
                if !is_void {
                    batch.push(operation, Some(answer));
                }
            }
            Queued::Large(large, answer) => queue.put_aside(large, answer),
            Queued::Close(closed) => {
                self.closing.lock().unwrap_or_else(PoisonError::into_inner).push(closed);
                queue.close();
            }
        }
    }
}

/// Runs when the last writer has ended.
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
        self.rows += operation.rows();
        self.operations.push(operation);
        self.answers.push(answer);
    }

    fn is_full(&self) -> bool {
        self.operations.len() >= BATCH_OPERATIONS || self.size_bytes >= BATCH_BYTES || self.rows >= BATCH_ROWS
    }

    fn clear(&mut self) {
        self.operations.clear();
        self.answers.clear();
        (self.size_bytes, self.rows, self.large) = (0, 0, None);
    }
}
