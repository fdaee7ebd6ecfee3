//! Workers: one thread a core, each with a runtime of its own.
//!
//! A connection stays on the thread that it was given to, with its turns and their connections to upstreams, so nothing
//! on a turn's way wakes another thread but the store's writer.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

use crate::Tasks;

/// Read once: it may change while the process runs.
static COUNT: LazyLock<usize> = LazyLock::new(|| std::thread::available_parallelism().map_or(1, usize::from));

thread_local! {
    static INDEX: Cell<usize> = const { Cell::new(0) };
}

/// The threads that serve connections. They end when this is dropped.
#[derive(Debug)]
pub struct Workers {
    workers: Vec<Worker>,
    ending: CancellationToken,
}

#[derive(Debug)]
struct Worker {
    handle: Handle,
    connections: Arc<AtomicUsize>,
}

/// How many workers make use of this machine.
pub fn count() -> usize {
    *COUNT
}

/// Which worker runs the caller, counted from 1; 0 on any other thread.
pub fn worker_index() -> usize {
    INDEX.get()
}

// === impl Workers ===

impl Workers {
    pub fn start() -> io::Result<Self> {
        let ending = CancellationToken::new();
        let workers = (1..=count()).map(|index| Worker::start(index, ending.clone()));
        Ok(Self { workers: workers.collect::<Result<_, _>>()?, ending })
    }

    /// Runs a connection on the worker that has the fewest of them.
    pub fn spawn_connection<F>(&self, tasks: &Tasks, connection: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let open = |worker: &&Worker| worker.connections.load(Ordering::Relaxed);
        let worker = self.workers.iter().min_by_key(open).expect("there is at least one core");
        worker.connections.fetch_add(1, Ordering::Relaxed);
        let counted = Counted(Arc::clone(&worker.connections));
        tasks.spawn_on(&worker.handle, async move {
            connection.await;
            drop(counted);
        });
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.ending.cancel();
    }
}

// === impl Worker ===

impl Worker {
    fn start(index: usize, ending: CancellationToken) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            INDEX.set(index);
            runtime.block_on(ending.cancelled());
        })?;
        Ok(Self { handle, connections: Arc::default() })
    }
}

struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
