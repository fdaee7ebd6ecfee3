//! Tasks: the only place where they are spawned, and how they end at shutdown.

use std::future::Future;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Where everything is spawned that outlives the call that started it.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    /// Asks background loops and the accept loop to end.
    stopping: CancellationToken,
    /// Ends what has not ended by itself.
    killed: CancellationToken,
}

// === impl Tasks ===

impl Tasks {
    /// Runs a future to its end, or to the hard end of the process.
    pub fn spawn<F: Future<Output = ()> + Send + 'static>(&self, future: F) {
        self.spawn_on(&Handle::current(), future);
    }

    /// As [`spawn`](Self::spawn), on the runtime given.
    pub fn spawn_on<F: Future<Output = ()> + Send + 'static>(&self, runtime: &Handle, future: F) {
        let killed = self.killed.clone();
        let future = async move {
            tokio::select! {
                () = future => {}
                () = killed.cancelled() => {}
            }
        };
        self.tracker.spawn_on(future, runtime);
    }

    /// Runs a future that is of no use once the process is asked to stop.
    pub fn spawn_background<F: Future<Output = ()> + Send + 'static>(&self, future: F) {
        let stopping = self.stopping.clone();
        self.tracker.spawn(async move {
            tokio::select! {
                () = future => {}
                () = stopping.cancelled() => {}
            }
        });
    }

    /// Resolves when the process is asked to stop.
    pub fn stopping(&self) -> CancellationToken {
        self.stopping.clone()
    }

    /// Waits for everything to end, at most this long; then ends the rest. `true` if nothing had to be ended.
    pub async fn shut_down(&self, limit: Duration) -> bool {
        self.stopping.cancel();
        self.tracker.close();
        let finished = tokio::time::timeout(limit, self.tracker.wait()).await.is_ok();
        self.killed.cancel();
        self.tracker.wait().await;
        finished
    }
}
