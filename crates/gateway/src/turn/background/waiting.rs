//! What a background turn waits for before it runs: room, memory for its request, and an account. It holds none of them while it
//! waits for another.

use std::sync::Arc;
use std::time::Duration;

use antiphon_protocol::id::ProjectId;
use antiphon_protocol::json::string_member;
use antiphon_runtime::{FairPermit, GaugeGuard};
use antiphon_store::BackgroundTurn;
use antiphon_upstream::pool::{Shortage, Wanted};

use super::run::Run;
use crate::body_memory::{Reservation, Share, Tenant};
use crate::turn::Turns;

/// After others that wait for memory hold too much of it.
const PAUSE: Duration = Duration::from_millis(100);
/// How soon a turn notices that an account is back.
const ACCOUNT_PAUSE: Duration = Duration::from_secs(1);

/// What a turn waits for.
pub struct Needs {
    /// Whether it runs here.
    pub room: bool,
    /// `None` if its account is known, or it needs none.
    pub account: Option<NeededAccount>,
    pub size_bytes: usize,
}

/// Any account that has the model for the caller.
pub struct NeededAccount {
    model: String,
    has_key: bool,
}

impl Turns {
    /// Waits until there is an account and fewer turns run, unless this one does not run, is cancelled or reaches its deadline; and
    /// for memory. `None` if the process stops: then the turn is left.
    pub(super) async fn wait_in_queue(
        &self,
        run: &Run,
        needs: &Needs,
    ) -> Option<(Option<FairPermit<ProjectId>>, Reservation)> {
        let _queued = GaugeGuard::new(&self.background.metrics.queued);
        let project = run.lease.project.clone();
        let share = self.background.settings.request_memory.share(Tenant::Project(project));
        let size_bytes = needs.size_bytes.min(Reservation::empty(&share).max_bytes());
        let stopping = self.env.tasks.stopping();
        let is_over = async {
            let time_left = run.deadline.since(self.env.clock.now());
            tokio::time::timeout(time_left, run.stop.cancelled()).await.ok();
        };
        let waiting = async {
            if needs.room {
                tokio::select! {
                    biased;
                    () = is_over => {}
                    (permit, memory) = self.wait_for_all(run, needs, &share, size_bytes) => return (Some(permit), memory),
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

    async fn wait_for_all(
        &self,
        run: &Run,
        needs: &Needs,
        share: &Arc<Share>,
        size_bytes: usize,
    ) -> (FairPermit<ProjectId>, Reservation) {
        let (running, project) = (&self.background.running, &run.lease.project);
        loop {
            let permit = running.acquire(project).await;
            if needs.account.as_ref().is_some_and(|account| self.are_accounts_away(account, project)) {
                drop(permit);
                tokio::time::sleep(ACCOUNT_PAUSE).await;
                continue;
            }
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

    /// Whether all accounts that could serve the turn are cooling down or paused. For a busy one it waits while it runs.
    fn are_accounts_away(&self, needed: &NeededAccount, project: &ProjectId) -> bool {
        let caller = needed.has_key.then(|| project.as_str());
        let wanted = Wanted { model: &needed.model, caller, may_be_unlisted: true, ..Wanted::default() };
        matches!(self.pool.shortage(wanted), Some(Shortage::Cooling { .. } | Shortage::Unusable))
    }
}

// === impl NeededAccount ===

impl NeededAccount {
    pub fn of(row: &BackgroundTurn) -> Self {
        let model = row.response().ok().and_then(|response| string_member(response, "model"));
        Self { model: model.unwrap_or_default().into_owned(), has_key: row.key.is_some() }
    }
}

async fn wait_for_memory(share: &Arc<Share>, size_bytes: usize) -> Reservation {
    let mut memory = Reservation::empty(share);
    while memory.grow(size_bytes, &mut Duration::from_hours(1)).await.is_err() {
        tokio::time::sleep(PAUSE).await;
    }
    memory
}
