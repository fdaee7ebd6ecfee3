//! Connections for reading. SQLite blocks, so reads run on threads for blocking work.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::StoreError;

/// The writer and the readers of a database in memory share one connection.
pub(super) type Shared = Arc<Mutex<Connection>>;

/// The connections for reading. Each serves one read at a time.
pub(super) struct Readers {
    idle: Mutex<Vec<Shared>>,
    /// One per connection; closed with them.
    permits: Arc<Semaphore>,
    connections: u32,
    patience: Duration,
}

/// A panic in one read or write leaves SQLite's own state whole: an open transaction is rolled back by its destructor.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Readers ===

impl Readers {
    /// `patience` is how long a read waits for a connection.
    pub(super) fn new(connections: Vec<Shared>, patience: Duration) -> Self {
        let permits = Arc::new(Semaphore::new(connections.len()));
        let count = u32::try_from(connections.len()).unwrap_or(u32::MAX);
        Self { idle: Mutex::new(connections), permits, connections: count, patience }
    }

    /// Runs the read to its end, even if its caller goes away.
    pub(super) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let permit = match timeout(self.patience, Arc::clone(&self.permits).acquire_owned()).await {
            Ok(permit) => permit.map_err(|_| StoreError::closed())?,
            Err(_) => {
                let reason = format!("no connection became free for a read within {:?}", self.patience);
                return Err(StoreError::Unavailable(reason));
            }
        };
        let readers = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || {
            // Returned after the connection.
            let _permit = permit;
            let borrowed = Borrowed::take(&readers)?;
            read(&lock(&borrowed.connection))
        });
        done.await
            .unwrap_or_else(|error| Err(StoreError::Unavailable(format!("a read was aborted: {error}"))))
    }

    /// Waits for the running reads, and closes the connections.
    pub(super) async fn close(&self) {
        // An error means that they are closed already.
        let all = self.permits.acquire_many(self.connections).await;
        self.permits.close();
        lock(&self.idle).clear();
        drop(all);
    }
}

/// A connection in use. Dropping it returns it.
struct Borrowed<'a> {
    connection: Shared,
    readers: &'a Readers,
}

// === impl Borrowed ===

impl<'a> Borrowed<'a> {
    fn take(readers: &'a Readers) -> Result<Self, StoreError> {
        let connection = lock(&readers.idle).pop().ok_or_else(StoreError::closed)?;
        Ok(Self { connection, readers })
    }
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        lock(&self.readers.idle).push(Arc::clone(&self.connection));
    }
}
