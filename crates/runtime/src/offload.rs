//! Work that takes long, away from the workers.

use std::sync::{Arc, LazyLock};

use tokio::sync::Semaphore;

use crate::workers;

/// A longer text delays the other turns of a worker. The worst ones take about 30 ns per byte.
const SHORT_BYTES: usize = 128 * 1024;

/// More of it at once would not be done sooner, and each thread keeps memory of its own.
static PERMITS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(workers::count())));

/// The work panicked.
#[derive(Debug)]
pub struct Aborted;

/// Whether a text of this size may be looked through on a worker.
pub fn is_short(size_bytes: usize) -> bool {
    size_bytes <= SHORT_BYTES
}

/// Looks through a text of this size: here if it is short, else on another thread, as [`offload`] does.
pub async fn offload_if_long<T: Send + 'static>(
    size_bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Aborted> {
    if is_short(size_bytes) {
        return Ok(work());
    }
    offload(work).await
}

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
