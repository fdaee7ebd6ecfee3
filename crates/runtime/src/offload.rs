//! Work that takes long, away from the workers.

use std::sync::{Arc, LazyLock};

use tokio::sync::Semaphore;

use crate::workers;

/// More of it at once would not be done sooner, and each thread keeps memory of its own.
static PERMITS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(workers::count())));

/// The work panicked.
#[derive(Debug)]
pub struct Aborted;

/// Runs work that takes long on another thread, as soon as a core is free for it. It runs to its end, even if its caller
/// goes away.
pub async fn offload<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Aborted> {
    let permit = Arc::clone(&PERMITS).acquire_owned().await.map_err(|_| Aborted)?;
    let work = move || {
        let _permit = permit;
        work()
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| Aborted)
}
