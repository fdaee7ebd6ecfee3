//! Workers: one thread per core, each with a runtime of its own.
//!
//! A connection stays on its thread, together with its turns and their connections to upstreams. So a turn wakes no other
//! thread except the store's writer.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

use crate::Tasks;

/// Read once, because the number of cores may change while the process runs.
static WORKER_COUNT: LazyLock<usize> =
    LazyLock::new(|| std::thread::available_parallelism().map_or(1, usize::from));

thread_local! {
    static INDEX: Cell<usize> = const { Cell::new(0) };
}

/// The threads that serve connections. They end when this is dropped.
#[derive(Debug)]
pub struct Workers {
    workers: Vec<Worker>,
    shutdown: CancellationToken,
}

#[derive(Debug)]
struct Worker {
    handle: Handle,
    connections: Arc<AtomicUsize>,
}

/// The number of workers on this machine.
pub fn count() -> usize {
    *WORKER_COUNT
}

/// The worker that runs the caller, counted from 1; 0 on any other thread.
pub fn worker_index() -> usize {
    INDEX.get()
}

// === impl Workers ===

impl Workers {
    pub fn start() -> io::Result<Self> {
        Self::start_some(count())
    }

    fn start_some(count: usize) -> io::Result<Self> {
        let shutdown = CancellationToken::new();
        let workers = (1..=count).map(|index| Worker::start(index, shutdown.clone()));
        Ok(Self { workers: workers.collect::<Result<_, _>>()?, shutdown })
    }

    /// Runs a connection on the worker that has the fewest of them.
    pub fn spawn_connection<F>(&self, tasks: &Tasks, connection: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let open = |worker: &&Worker| worker.connections.load(Ordering::Relaxed);
        let worker = self.workers.iter().min_by_key(open).expect("there is at least one core");
        worker.connections.fetch_add(1, Ordering::Relaxed);
        let guard = ConnectionGuard(Arc::clone(&worker.connections));
        tasks.spawn_on(&worker.handle, async move {
            connection.await;
            drop(guard);
        });
    }

    /// Resolves once every worker has run a task.
    pub async fn respond(&self) {
        let tasks: Vec<_> = self.workers.iter().map(|worker| worker.handle.spawn(async {})).collect();
        for task in tasks {
            task.await.ok();
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

// === impl Worker ===

impl Worker {
    fn start(index: usize, shutdown: CancellationToken) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            INDEX.set(index);
            runtime.block_on(shutdown.cancelled());
        })?;
        Ok(Self { handle, connections: Arc::default() })
    }
}

/// Counts a connection of a worker until it is dropped.
struct ConnectionGuard(Arc<AtomicUsize>);

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);

    /// Opens a connection that stays until the sender is used or dropped; returns the worker that it is on.
    fn open(workers: &Workers, tasks: &Tasks) -> (usize, oneshot::Sender<()>) {
        let (close, closed) = oneshot::channel();
        let (sender, receiver) = mpsc::channel();
        workers.spawn_connection(tasks, async move {
            sender.send(worker_index()).unwrap();
            closed.await.ok();
        });
        (receiver.recv_timeout(TIMEOUT).unwrap(), close)
    }

    fn wait_for(workers: &Workers, worker: usize, connections: usize) {
        while workers.workers[worker - 1].connections.load(Ordering::Relaxed) != connections {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_connection_goes_to_the_worker_with_the_fewest() {
        let (workers, tasks) = (Workers::start_some(3).unwrap(), Tasks::default());
        let mut open_on: Vec<_> = (0..6).map(|_| open(&workers, &tasks)).collect();
        let indices: Vec<_> = open_on.iter().map(|(worker, _)| *worker).collect();
        assert_eq!(indices, [1, 2, 3, 1, 2, 3]);
        // Close both connections of the second worker.
        open_on.retain(|(worker, _)| *worker != 2);
        wait_for(&workers, 2, 0);
        let indices = [(); 2].map(|()| {
            let (worker, close) = open(&workers, &tasks);
            open_on.push((worker, close));
            worker
        });
        assert_eq!(indices, [2, 2]);
    }

    #[tokio::test]
    async fn an_aborted_connection_is_no_longer_counted() {
        let (workers, tasks) = (Workers::start_some(1).unwrap(), Tasks::default());
        let (_, _close) = open(&workers, &tasks);
        wait_for(&workers, 1, 1);
        assert!(!tasks.shut_down(Duration::ZERO).await);
        wait_for(&workers, 1, 0);
    }

    #[test]
    fn workers_are_numbered_from_one_and_other_threads_are_zero() {
        let (workers, tasks) = (Workers::start_some(2).unwrap(), Tasks::default());
        let (first, second) = (open(&workers, &tasks), open(&workers, &tasks));
        assert_eq!([first.0, second.0], [1, 2]);
        let (sender, receiver) = mpsc::channel();
        workers.spawn_connection(&tasks, async move {
            sender.send(tokio::task::spawn_blocking(worker_index).await.unwrap()).unwrap();
        });
        assert_eq!(receiver.recv_timeout(TIMEOUT), Ok(0), "a blocking thread");
        assert_eq!((worker_index(), std::thread::spawn(worker_index).join().unwrap()), (0, 0));
    }

    #[test]
    fn dropping_the_workers_ends_their_threads_and_drops_their_connections() {
        let (workers, tasks) = (Workers::start_some(2).unwrap(), Tasks::default());
        let (held, dropped) = mpsc::channel::<()>();
        for _ in 0..2 {
            let held = held.clone();
            workers.spawn_connection(&tasks, async move {
                std::future::pending::<()>().await;
                drop(held);
            });
        }
        drop(held);
        assert_eq!(dropped.try_recv(), Err(mpsc::TryRecvError::Empty));
        drop(workers);
        assert_eq!(dropped.recv_timeout(TIMEOUT), Err(mpsc::RecvTimeoutError::Disconnected));
    }
}
