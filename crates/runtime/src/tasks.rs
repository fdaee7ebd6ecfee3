//! Tasks: the only place that spawns them, and how they end at shutdown.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use crate::signal::{Listener, Signal};

/// How long interrupted tasks may take to record their outcome and to tell their clients.
const INTERRUPT_TIMEOUT: Duration = Duration::from_secs(3);

/// Spawns everything that outlives the call that started it.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    /// Asks background loops and the accept loop to end.
    stopping: Signal,
    /// Asks tasks that have not ended in time to end by themselves at once.
    interrupting: Signal,
    /// Aborts tasks that still have not ended.
    aborting: Signal,
}

// === impl Tasks ===

impl Tasks {
    /// Runs a future to its end, unless the shutdown times out first.
    pub fn spawn<F: Future<Output = ()> + Send + 'static>(&self, future: F) {
        self.spawn_on(&Handle::current(), future);
    }

    /// Runs a future to its end, even when the returned one is dropped. `None` if it panicked, or the shutdown timed out first.
    pub async fn complete<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let (sender, receiver) = oneshot::channel();
        self.spawn(async move { drop(sender.send(future.await)) });
        receiver.await.ok()
    }

    /// Like [`spawn`](Self::spawn), on the given runtime.
    pub(crate) fn spawn_on<F: Future<Output = ()> + Send + 'static>(&self, runtime: &Handle, future: F) {
        let mut aborting = self.aborting.listen();
        let future = async move {
            aborting.or(pin!(future)).await;
        };
        self.tracker.spawn_on(future, runtime);
    }

    /// Runs a future that is dropped as soon as the process is asked to stop.
    pub fn spawn_background<F: Future<Output = ()> + Send + 'static>(&self, future: F) {
        let mut stopping = self.stopping.listen();
        self.tracker.spawn(async move {
            stopping.or(pin!(future)).await;
        });
    }

    /// Given when the process is asked to stop.
    pub fn stopping(&self) -> &Signal {
        &self.stopping
    }

    /// Waits until the shutdown interrupts what has not ended in time.
    pub fn interruption(&self) -> Listener {
        self.interrupting.listen()
    }

    /// Waits for all tasks to end, at most this long, then interrupts the rest. `true` if none had to be interrupted.
    pub async fn shut_down(&self, limit: Duration) -> bool {
        self.stopping.give();
        self.tracker.close();
        let finished = tokio::time::timeout(limit, self.tracker.wait()).await.is_ok();
        if !finished {
            self.interrupting.give();
            tokio::time::timeout(INTERRUPT_TIMEOUT, self.tracker.wait()).await.ok();
        }
        self.aborting.give();
        self.tracker.wait().await;
        finished
    }
}
