//! Group commit: writes that wait at the same time become durable in one transaction.
//!
//! Callers queue an [`Operation`] and wait. One task drains the queue into a batch, has the engine commit it, and
//! answers each caller only then. A caller that goes away, or gives up at its deadline, leaves its operation in the
//! queue: it is still written, and nobody is told.

mod log;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use antiphon_protocol::id::{ProjectId, ResponseId};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use self::log::LogRows;
use crate::{LogRow, Purged, Record, StoreError, Timestamp};

/// Operations that wait; with more, callers wait for a place.
const QUEUE_OPERATIONS: usize = 4096;
/// Bounds of one transaction: long enough to share the cost of a commit, short enough for the first one's patience.
const BATCH_OPERATIONS: usize = 256;
const BATCH_BYTES: usize = 8 << 20;

/// A write.
#[derive(Debug)]
pub(crate) enum Operation {
    Record(Box<Record>),
    Delete {
        project: ProjectId,
        id: ResponseId,
        now: Timestamp,
    },
    Purge {
        now: Timestamp,
        log_before: Option<Timestamp>,
        max_rows: u32,
    },
    Log(Box<LogRow>),
    /// Writes what any other operation would need to be able to write.
    Check,
}

/// What a write did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    Deleted(bool),
    Purged(Purged),
}

/// Why a batch was not committed. Nothing of it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotCommitted {
    /// The engine can't write now.
    Unavailable(String),
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

/// The callers' side: a queue in front of the task that owns the engine.
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
    queue: mpsc::Receiver<Queued>,
    log: Arc<LogRows>,
    health: Arc<Health>,
    /// Who waits for the engine to be closed.
    closing: Vec<oneshot::Sender<()>>,
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
        let (group, writer) = Self::new(engine, commit_timeout);
        let thread = std::thread::Builder::new().name(name.into());
        thread.spawn(move || runtime.block_on(writer.run())).map_err(no_thread)?;
        Ok(group)
    }

    fn new<E: Engine>(engine: E, commit_timeout: Duration) -> (Self, Writer<E>) {
        let (sender, queue) = mpsc::channel(QUEUE_OPERATIONS);
        let log = Arc::<LogRows>::default();
        let health = Arc::new(Health { is_available: AtomicBool::new(true) });
        let closing = Vec::new();
        let writer = Writer { engine, queue, log: Arc::clone(&log), health: Arc::clone(&health), closing };
        (Self { queue: sender, log, health, commit_timeout }, writer)
    }

    /// Queues the operation and waits until it is durable, or until the deadline.
    pub(crate) async fn write(&self, operation: Operation) -> Result<Outcome, StoreError> {
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

    /// Takes a row that nobody waits for; `false` if there is no place for it.
    pub(crate) fn append(&self, row: LogRow) -> bool {
        self.log.push(row)
    }

    pub(crate) fn is_available(&self) -> bool {
        self.health.is_available.load(Ordering::Relaxed)
    }

    /// Writes what is queued and closes the engine. Later writes fail.
    pub(crate) async fn close(&self) {
        let (closed, is_closed) = oneshot::channel();
        if self.queue.send(Queued::Close(closed)).await.is_ok() {
            // An error means that the writer has ended, and is what was asked for.
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
        self.health.set(false);
        for closed in self.closing.drain(..) {
            let _ = closed.send(());
        }
    }

    /// Waits for operations and takes as many as are there, with the log rows that wait. `false` when there is nothing
    /// more to come.
    async fn fill(&mut self, batch: &mut Batch) -> bool {
        let is_open = tokio::select! {
            biased;
            next = self.queue.recv() => match next {
                Some(next) => {
                    self.take(next, batch);
                    true
                }
                None => {
                self.log.close();
                false
            }
            },
            () = self.log.due() => true,
        };
        while !batch.is_full()
            && let Ok(next) = self.queue.try_recv()
        {
            self.take(next, batch);
        }
        for row in self.log.take() {
            batch.push(Operation::Log(Box::new(row)), None);
        }
        is_open || !batch.operations.is_empty()
    }

    fn take(&mut self, queued: Queued, batch: &mut Batch) {
        match queued {
            Queued::Operation(operation, answer) => batch.push(operation, Some(answer)),
            Queued::Close(closed) => {
                self.closing.push(closed);
                self.queue.close();
            }
        }
    }

    async fn commit(&mut self, batch: &mut Batch) {
        if batch.operations.is_empty() {
            return;
        }
        match self.engine.commit(&batch.operations).await {
            Ok(outcomes) => {
                self.health.set(true);
                for (answer, outcome) in batch.answers.drain(..).zip(outcomes) {
                    reply(answer, Ok(outcome));
                }
            }
            Err(NotCommitted::Refused(_)) if batch.operations.len() > 1 => self.commit_each(batch).await,
            Err(error) => self.fail(error, batch.answers.drain(..)),
        }
        batch.clear();
    }

    /// So that an operation that can't be written fails alone.
    async fn commit_each(&mut self, batch: &mut Batch) {
        for (operation, answer) in batch.operations.chunks(1).zip(batch.answers.drain(..)) {
            match self.engine.commit(operation).await {
                Ok(outcomes) => {
                    self.health.set(true);
                    reply(answer, outcomes.first().copied().ok_or_else(closed));
                }
                Err(error) => self.fail(error, [answer]),
            }
        }
    }

    fn fail(&self, error: NotCommitted, answers: impl IntoIterator<Item = Option<Answer>>) {
        let error = match error {
            NotCommitted::Unavailable(reason) => {
                self.health.set(false);
                StoreError::Unavailable(reason)
            }
            NotCommitted::Refused(reason) => StoreError::Refused(reason),
        };
        let mut unheard = 0;
        for answer in answers {
            unheard += u32::from(answer.is_none());
            reply(answer, Err(error.clone()));
        }
        if unheard > 0 {
            tracing::warn!(rows = unheard, %error, "rows of the request log were lost");
        }
    }
}

fn reply(answer: Option<Answer>, result: Result<Outcome, StoreError>) {
    if let Some(answer) = answer {
        // The caller may have gone away.
        let _ = answer.send(result);
    }
}

/// However the writer ends, nobody takes the store for available any more; the queue's end tells those who wait.
impl<E> Drop for Writer<E> {
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

// === impl Operation ===

impl Operation {
    /// About how much it writes.
    fn size_bytes(&self) -> usize {
        match self {
            Self::Record(record) => {
                let response = &record.response;
                response.turn.input.len() + response.turn.output.len() + response.body.len()
            }
            Self::Delete { .. } | Self::Purge { .. } | Self::Log(_) | Self::Check => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Notes what it is given, and does with it what the test says.
    struct Scripted<F> {
        commits: Arc<Mutex<Vec<usize>>>,
        script: F,
    }

    impl<F: FnMut(&[Operation]) -> Result<(), NotCommitted> + Send + 'static> Engine for Scripted<F> {
        async fn commit(&mut self, batch: &[Operation]) -> Result<Vec<Outcome>, NotCommitted> {
            self.commits.lock().unwrap().push(batch.len());
            // As slow as a disk, so that others queue up behind it.
            tokio::time::sleep(Duration::from_millis(20)).await;
            (self.script)(batch).map(|()| vec![Outcome::Done; batch.len()])
        }

        async fn gather(&mut self) {
            tokio::task::yield_now().await;
        }

        async fn close(&mut self) {
            self.commits.lock().unwrap().push(0);
        }
    }

    fn start(
        commit_timeout: Duration,
        script: impl FnMut(&[Operation]) -> Result<(), NotCommitted> + Send + 'static,
    ) -> (Arc<Group>, Arc<Mutex<Vec<usize>>>) {
        let commits = Arc::<Mutex<Vec<usize>>>::default();
        let engine = Scripted { commits: Arc::clone(&commits), script };
        let (group, writer) = Group::new(engine, commit_timeout);
        tokio::spawn(writer.run());
        (Arc::new(group), commits)
    }

    async fn write_at_once(group: &Arc<Group>, writes: usize) -> Vec<Result<Outcome, StoreError>> {
        let writes = (0..writes).map(|_| group.write(Operation::Check));
        futures_util::future::join_all(writes).await
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn what_waits_together_is_committed_together() {
        let (group, commits) = start(LONG, |_| Ok(()));
        let results = write_at_once(&group, 1_000).await;
        assert!(results.iter().all(|result| *result.as_ref().unwrap() == Outcome::Done));
        let commits = commits.lock().unwrap().clone();
        assert_eq!(commits.iter().sum::<usize>(), 1_000);
        assert!(commits.len() <= 6 && commits.iter().all(|&size| size <= BATCH_OPERATIONS), "{commits:?}");
    }

    #[tokio::test]
    async fn an_engine_that_recovers_is_available_again() {
        let mut failures = 2;
        let (group, _) = start(LONG, move |_| {
            if failures == 0 {
                return Ok(());
            }
            failures -= 1;
            Err(NotCommitted::Unavailable("full".into()))
        });
        for _ in 0..2 {
            let results = write_at_once(&group, 3).await;
            assert!(results.iter().all(|result| matches!(result, Err(StoreError::Unavailable(_)))));
            assert!(!group.is_available());
        }
        group.write(Operation::Check).await.unwrap();
        assert!(group.is_available());
    }

    #[tokio::test]
    async fn a_refused_batch_is_written_one_by_one() {
        let (group, _) = start(LONG, |batch| {
            let is_bad = batch.iter().any(|operation| matches!(operation, Operation::Purge { .. }));
            if is_bad { Err(NotCommitted::Refused("no".into())) } else { Ok(()) }
        });
        let bad = || Operation::Purge { now: Timestamp::from_unix_ms(0), log_before: None, max_rows: 1 };
        let writes = (0..20).map(|n| group.write(if n % 5 == 0 { bad() } else { Operation::Check }));
        for (n, result) in futures_util::future::join_all(writes).await.into_iter().enumerate() {
            match result {
                Ok(_) => assert_ne!(n % 5, 0),
                Err(error) => assert!(n % 5 == 0 && matches!(error, StoreError::Refused(_)), "{error}"),
            }
        }
        assert!(group.is_available());
    }

    #[tokio::test]
    async fn a_deadline_makes_the_store_unavailable_until_a_write_succeeds() {
        let (group, _) = start(Duration::from_millis(5), |_| Ok(()));
        let result = group.write(Operation::Check).await;
        assert_eq!(result.unwrap_err().to_string(), "the store did not commit within 5ms");
        assert!(!group.is_available());
        let recovered = async {
            while !group.is_available() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(LONG, recovered).await.unwrap();
    }

    #[tokio::test]
    async fn a_writer_that_panics_fails_everybody_at_once() {
        let (group, _) = start(LONG, |_| panic!("the engine is broken"));
        for _ in 0..2 {
            let results = tokio::time::timeout(LONG / 2, write_at_once(&group, 5)).await.unwrap();
            assert!(results.iter().all(|result| matches!(result, Err(StoreError::Unavailable(_)))));
            assert!(!group.is_available());
        }
        group.close().await;
    }

    #[tokio::test]
    async fn closing_writes_what_is_queued_and_then_closes_the_engine() {
        let (group, commits) = start(LONG, |_| Ok(()));
        let writes = write_at_once(&group, 300);
        let (results, ()) = tokio::join!(writes, async {
            tokio::task::yield_now().await;
            group.close().await;
        });
        assert!(results.iter().all(Result::is_ok));
        assert_eq!(commits.lock().unwrap().last(), Some(&0));
        assert!(matches!(group.write(Operation::Check).await, Err(StoreError::Unavailable(_))));
        assert!(!group.is_available());
    }
}
