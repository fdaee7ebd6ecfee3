//! Connections for reading. SQLite blocks, so each has a thread of its own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use antiphon_protocol::id::ProjectId;
use antiphon_runtime::FairSemaphore;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::StoreError;

/// The writer and the readers of a database in memory share one connection.
pub(super) type Shared = Arc<Mutex<Connection>>;

type Read = Box<dyn FnOnce(&Connection) + Send>;

/// The connections for reading. Each serves one read at a time.
pub(super) struct Readers {
    /// One per connection. Projects take turns, and each leaves one to others, as the gateway itself does.
    permits: Arc<FairSemaphore<Option<ProjectId>>>,
    threads: Mutex<Option<Threads>>,
    patience: Duration,
}

/// They end when `reads` is dropped.
struct Threads {
    reads: Sender<Read>,
    handles: Vec<JoinHandle<()>>,
    /// Closed when all have ended.
    ended: mpsc::Receiver<()>,
}

/// A panic in one read or write leaves SQLite's own state whole: an open transaction is rolled back by its destructor.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Readers ===

impl Readers {
    /// `patience` is how long a read waits for a connection.
    pub(super) fn start(connections: Vec<Shared>, patience: Duration) -> Result<Self, StoreError> {
        let count = connections.len();
        let permits = Arc::new(FairSemaphore::new(count, count.saturating_sub(1)));
        let threads = Mutex::new(Some(Threads::start(connections)?));
        Ok(Self { permits, threads, patience })
    }

    /// Runs the read for a project or the gateway itself; to its end, even if its caller goes away.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        project: Option<&ProjectId>,
        read: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let Ok(permit) = timeout(self.patience, self.permits.acquire(&project.cloned())).await else {
            let reason = format!("no connection became free for a read within {:?}", self.patience);
            return Err(StoreError::Unavailable(reason));
        };
        let (sender, result) = oneshot::channel();
        self.send(Box::new(move |connection| {
            let _permit = permit;
            // Nobody may be waiting any more.
            sender.send(read(connection)).ok();
        }))?;
        result.await.unwrap_or_else(|_| Err(StoreError::Unavailable("a read was aborted".into())))
    }

    fn send(&self, read: Read) -> Result<(), StoreError> {
        let threads = lock(&self.threads);
        let reads = threads.as_ref().map(|threads| &threads.reads).ok_or_else(StoreError::closed)?;
        reads.send(read).map_err(|_| StoreError::closed())
    }

    /// Waits for the running reads, and closes the connections.
    pub(super) async fn close(&self) {
        let Some(Threads { reads, handles, mut ended }) = lock(&self.threads).take() else { return };
        drop(reads);
        ended.recv().await;
        for handle in handles {
            handle.join().ok();
        }
    }
}

// === impl Threads ===

impl Threads {
    fn start(connections: Vec<Shared>) -> Result<Self, StoreError> {
        let (reads, next) = channel();
        let next = Arc::new(Mutex::new(next));
        let (alive, ended) = mpsc::channel(1);
        let start = |connection: Shared| {
            let (next, alive) = (Arc::clone(&next), alive.clone());
            let thread = std::thread::Builder::new().name("sqlite-reader".into());
            thread.spawn(move || {
                serve(&connection, &next);
                drop((connection, alive));
            })
        };
        let handles: Result<_, _> = connections.into_iter().map(start).collect();
        let handles =
            handles.map_err(|error| StoreError::Unusable(format!("a thread can't be started: {error}")))?;
        Ok(Self { reads, handles, ended })
    }
}

fn serve(connection: &Shared, next: &Mutex<Receiver<Read>>) {
    loop {
        // Released before the read, so that the next thread can wait.
        let received = lock(next).recv();
        let Ok(read) = received else { return };
        // A read that panics must not take the thread away from those after it. Its caller is told.
        catch_unwind(AssertUnwindSafe(|| read(&lock(connection)))).ok();
    }
}
