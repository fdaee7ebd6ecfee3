//! Follows a turn that another process runs: one task asks the store for all readers in this process.

use std::sync::Arc;
use std::time::Duration;

use antiphon_protocol::id::{ProjectId, ResponseId};
use antiphon_store::StoreError;

use super::live::LiveEvents;
use crate::turn::Turns;

/// How often the store is asked.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// How much of a log stays in memory. A reader that is further behind reads from the store.
const LIVE_BYTES: usize = 64 * 1024;

struct Follower {
    turns: Arc<Turns>,
    project: ProjectId,
    id: ResponseId,
    /// The number of the last event that was published, or was in the log before.
    after: Option<u64>,
    live: Arc<LiveEvents>,
}

impl Turns {
    /// The events of a turn after this one, as they are written by any process.
    pub(super) fn follow(
        self: &Arc<Self>,
        project: &ProjectId,
        id: ResponseId,
        after: Option<u64>,
    ) -> Arc<LiveEvents> {
        let mut followed = self.background.followed();
        if let Some(live) = followed.get(&id) {
            return Arc::clone(live);
        }
        let live = Arc::new(LiveEvents::new(LIVE_BYTES));
        followed.insert(id, Arc::clone(&live));
        drop(followed);
        let (turns, project) = (Arc::clone(self), project.clone());
        let follower = Follower { turns, project, id, after, live: Arc::clone(&live) };
        self.env.tasks.spawn_background(follower.run());
        live
    }
}

impl Follower {
    async fn run(mut self) {
        // Beside the readers, this task and the list hold it.
        while Arc::strong_count(&self.live) > 2 && self.turns.background.find_running(self.id).is_none() {
            match self.publish_new().await {
                Ok(true) => return self.live.end(),
                Ok(false) => {}
                // The readers read it for themselves, and tell their clients.
                Err(StoreError::Corrupt(_)) => return,
                Err(error) => {
                    tracing::debug!(response.id = %self.id, %error, "the event log cannot be read; retrying");
                }
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Publishes what is new in the log. `true` once the turn has ended and all is published.
    async fn publish_new(&mut self) -> Result<bool, StoreError> {
        let store = self.turns.chains.store();
        // In this order: a turn that has ended logs nothing more.
        let Some(progress) = store.load_progress(&self.project, self.id).await? else { return Ok(true) };
        // The first reader may ask for what comes much later.
        self.after = self.after.min(progress.last_sequence);
        while self.after < progress.last_sequence {
            let chunks = store.list_events(&self.project, self.id, self.after).await?;
            let Some(last) = chunks.last() else { break };
            self.after = Some(last.last);
            chunks.into_iter().for_each(|chunk| self.live.publish(chunk));
        }
        Ok(progress.has_ended)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.turns.background.followed().remove(&self.id);
        self.live.leave();
    }
}
