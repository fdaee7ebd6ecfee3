//! What a background turn waits for before it runs: room, and memory for its request. It holds neither while it waits for the other.

use std::sync::Arc;
use std::time::Duration;

use antiphon_protocol::id::ProjectId;
use antiphon_runtime::{FairPermit, GaugeGuard};

use super::run::Run;
use crate::body_memory::{Reservation, Share, Tenant};
use crate::turn::Turns;

/// After others that wait for memory hold too much of it.
const PAUSE: Duration = Duration::from_millis(100);

impl Turns {
    /// Waits until fewer turns run, unless this one does not run, is cancelled or reaches its deadline; and for memory. `None` if the
    /// process stops: then the turn is left.
    pub(super) async fn wait_in_queue(
        &self,
        run: &Run,
        runs: bool,
        size_bytes: usize,
    ) -> Option<(Option<FairPermit<ProjectId>>, Reservation)> {
        let _queued = GaugeGuard::new(&self.background.metrics.queued);
        let project = run.lease.project.clone();
        let share = self.background.settings.request_memory.share(Tenant::Project(project));
        let size_bytes = size_bytes.min(Reservation::empty(&share).max_bytes());
        let stopping = self.env.tasks.stopping();
        let is_over = async {
            let time_left = run.deadline.since(self.env.clock.now());
            tokio::time::timeout(time_left, run.stop.cancelled()).await.ok();
        };
        let waiting = async {
            if runs {
                tokio::select! {
                    biased;
                    () = is_over => {}
                    (permit, memory) = self.wait_for_both(run, &share, size_bytes) => return (Some(permit), memory),
                }
            }
            (None, wait_for_memory(&share, size_bytes).await)
        };
        tokio::select! {
            biased;
            () = stopping.listen() => None,
            waited = waiting => Some(waited),
        }
    }

    async fn wait_for_both(
        &self,
        run: &Run,
        share: &Arc<Share>,
        size_bytes: usize,
    ) -> (FairPermit<ProjectId>, Reservation) {
        let (running, project) = (&self.background.running, &run.lease.project);
        loop {
            let permit = running.acquire(project).await;
            let mut memory = Reservation::empty(share);
            if memory.try_grow(size_bytes) {
                return (permit, memory);
            }
            drop(permit);
            let memory = wait_for_memory(share, size_bytes).await;
            if let Some(permit) = running.try_acquire(project) {
                return (permit, memory);
            }
        }
    }
}

async fn wait_for_memory(share: &Arc<Share>, size_bytes: usize) -> Reservation {
    let mut memory = Reservation::empty(share);
    while memory.grow(size_bytes, &mut Duration::from_hours(1)).await.is_err() {
        tokio::time::sleep(PAUSE).await;
    }
    memory
}
