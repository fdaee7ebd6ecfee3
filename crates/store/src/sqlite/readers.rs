//! Connections for reading. SQLite blocks, so a read runs on a thread for blocking work.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::StoreError;

/// A database in memory has one connection, for the writer and the readers.
pub(super) type Shared = Arc<Mutex<Connection>>;

/// Hands out connections, one read at a time each.
pub(super) struct Readers {
    idle: Mutex<Vec<Shared>>,
    /// As many as there are connections; closed with them.
    permits: Arc<Semaphore>,
    connections: u32,
    patience: Duration,
}

/// A panic in one read or write leaves SQLite's own state whole: an open transaction is rolled back by its destructor.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn closed() -> StoreError {
    StoreError::Unavailable("it is closed".into())
}

// === impl Readers ===

impl Readers {
    /// `patience` is how long a read waits for a connection.
    pub(super) fn new(connections: Vec<Shared>, patience: Duration) -> Self {
        let permits = Arc::new(Semaphore::new(connections.len()));
        let count = u32::try_from(connections.len()).unwrap_or(u32::MAX);
        Self { idle: Mutex::new(connections), permits, connections: count, patience }
    }

    /// Runs the read to its end, also if nobody waits for it any more.
    pub(super) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let permit = match timeout(self.patience, Arc::clone(&self.permits).acquire_owned()).await {
            Ok(permit) => permit.map_err(|_| closed())?,
            Err(_) => return Err(StoreError::Unavailable("too many reads wait".into())),
        };
        let readers = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || {
            // Goes back after the connection.
            let _permit = permit;
            let borrowed = Borrowed::take(&readers)?;
            read(&lock(&borrowed.connection))
        });
        done.await
            .unwrap_or_else(|panic| Err(StoreError::Unavailable(format!("a read ended early: {panic}"))))
    }

    /// Waits for the reads that run, and closes the connections.
    pub(super) async fn close(&self) {
        // An error means that they have been closed before.
        let all = self.permits.acquire_many(self.connections).await;
        self.permits.close();
        lock(&self.idle).clear();
        drop(all);
    }
}

/// A connection in use, which goes back however the read ends.
struct Borrowed<'a> {
    connection: Shared,
    readers: &'a Readers,
}

// === impl Borrowed ===

impl<'a> Borrowed<'a> {
    fn take(readers: &'a Readers) -> Result<Self, StoreError> {
        let connection = lock(&readers.idle).pop().ok_or_else(closed)?;
        Ok(Self { connection, readers })
    }
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        lock(&self.readers.idle).push(Arc::clone(&self.connection));
    }
}
