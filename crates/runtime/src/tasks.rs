//! Tasks: the only place that spawns them, and how they end at shutdown.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long interrupted tasks may take to record their outcome and to tell their clients.
const INTERRUPT_TIMEOUT: Duration = Duration::from_secs(3);

/// Spawns everything that outlives the call that started it.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    /// Cancelled to ask background loops and the accept loop to end.
    stopping: CancellationToken,
    /// Cancelled to ask tasks that have not ended in time to end by themselves at once.
    interrupting: CancellationToken,
    /// Cancelled to abort tasks that still have not ended.
    aborting: CancellationToken,
}

// === impl Tasks ===

impl Tasks {
    /// Runs a future to its end, unless the shutdown times out first.
    pub fn spawn<F: Future<Output = ()> + Send + 'static>(&self, future: F) {
        self.spawn_on(&Handle::current(), future);
    }

    /// Like [`spawn`](Self::spawn), on the given runtime.
    pub(crate) fn spawn_on<F: Future<Output = ()> + Send + 'static>(&self, runtime: &Handle, future: F) {
        let aborting = self.aborting.clone();
        let future = async move {
            tokio::select! {
                () = future => {}
                () = aborting.cancelled() => {}
            }
        };
        self.tracker.spawn_on(future, runtime);
    }

    /// Runs a future that is dropped as soon as the process is asked to stop.
    pub fn spawn_background<F: Future<Output = ()> + Send + 'static>(&self, future: F) {
        let stopping = self.stopping.clone();
        self.tracker.spawn(async move {
            tokio::select! {
                () = future => {}
                () = stopping.cancelled() => {}
            }
        });
    }

    /// A token that is cancelled when the process is asked to stop.
    pub fn stopping(&self) -> CancellationToken {
        self.stopping.clone()
    }

    /// The future's output, or `None` if it is interrupted. The caller pins the future, which would take twice the memory if it
    /// were passed by value.
    pub async fn or_interrupted<F: Future>(&self, future: Pin<&mut F>) -> Option<F::Output> {
        tokio::select! {
            biased;
            output = future => Some(output),
            () = self.interrupting.cancelled() => None,
        }
    }

    /// Waits for all tasks to end, at most this long, then interrupts the rest. `true` if none had to be interrupted.
    pub async fn shut_down(&self, limit: Duration) -> bool {
        self.stopping.cancel();
        self.tracker.close();
        let finished = tokio::time::timeout(limit, self.tracker.wait()).await.is_ok();
        if !finished {
            self.interrupting.cancel();
            tokio::time::timeout(INTERRUPT_TIMEOUT, self.tracker.wait()).await.ok();
        }
        self.aborting.cancel();
        self.tracker.wait().await;
        finished
    }
}
