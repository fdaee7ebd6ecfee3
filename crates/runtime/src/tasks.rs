//! Tasks: the only place that spawns them, and how they end at shutdown.

use std::future::Future;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Spawns everything that outlives the call that started it.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    /// Cancelled to ask background loops and the accept loop to end.
    stopping: CancellationToken,
    /// Cancelled to abort tasks that have not ended in time.
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

    /// Waits for all tasks to end, at most this long, then aborts the rest. `true` if none had to be aborted.
    pub async fn shut_down(&self, limit: Duration) -> bool {
        self.stopping.cancel();
        self.tracker.close();
        let finished = tokio::time::timeout(limit, self.tracker.wait()).await.is_ok();
        self.aborting.cancel();
        self.tracker.wait().await;
        finished
    }
}
