//! What clients do with background responses after their creation: poll, resume, cancel and delete.

use std::sync::Arc;
use std::time::Duration;

use antiphon_protocol::id::{ProjectId, ResponseId};
use antiphon_protocol::include::HiddenParts;
use antiphon_protocol::json::{Set, member, set_members};
use antiphon_protocol::request::{CreateRequest, Operation};
use antiphon_protocol::response::with_output;
use antiphon_store::{
    BackgroundStatus, BackgroundTurn, Claimable, Status, StoreError, StoredResponse, Timestamp,
};
use bytes::Bytes;
use tokio::time::Instant;

use super::reader::EventLog;
use crate::turn::Turns;

/// How long a cancellation waits for the owner before the turn is taken from it.
const OWNER_PATIENCE: Duration = Duration::from_secs(3);
/// How long it waits in all.
const CANCEL_PATIENCE: Duration = Duration::from_secs(10);
const CANCEL_PAUSE: Duration = Duration::from_millis(20);

/// A response that can be retrieved.
pub enum Found {
    Stored(Box<StoredResponse>),
    /// A background response that is still running.
    Running {
        response: Bytes,
        age: Duration,
    },
    /// A background response that is not stored, but kept for a while.
    Kept(Bytes),
}

impl Found {
    /// About how long it is.
    pub fn size_bytes(&self) -> usize {
        match self {
            Self::Stored(stored) => stored.body.len() + stored.turn.items_bytes(),
            Self::Running { response, .. } | Self::Kept(response) => response.len(),
        }
    }
}

/// What a cancellation found.
pub enum Cancelled {
    /// The response, which is cancelled now.
    Done(Bytes),
    /// It had ended otherwise.
    Ended(Status),
    NotInBackground,
    NotFound,
}

/// Why the events of a response cannot be read again.
pub enum ReplayRefused {
    NotFound,
    NotStreamed,
    NotInBackground,
    /// The log is no longer kept. Holds the age of the response.
    Expired(Duration),
    Store(StoreError),
}

impl From<StoreError> for ReplayRefused {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Turns {
    /// Whether the response is still being created, here or elsewhere, and is to be stored: no other can be continued.
    pub(in crate::turn) async fn is_running(
        &self,
        project: &ProjectId,
        id: ResponseId,
    ) -> Result<bool, StoreError> {
        if self.running.contains(project, id) {
            return Ok(true);
        }
        let row = self.chains.store().load_background(project, id).await?;
        Ok(row.is_some_and(|row| row.ended_at.is_none() && row.is_stored))
    }

    pub async fn find(&self, project: &ProjectId, id: ResponseId) -> Result<Option<Found>, StoreError> {
        let (store, now) = (self.chains.store(), self.env.clock.now());
        if let Some(stored) = store.load(project, id, now).await? {
            return Ok(Some(Found::Stored(Box::new(stored))));
        }
        let Some(row) = store.load_background(project, id).await? else { return Ok(None) };
        Ok(match row.status {
            BackgroundStatus::Queued | BackgroundStatus::InProgress => {
                let age = now.since(row.created_at);
                Some(Found::Running { response: snapshot(&row)?, age })
            }
            // It has just ended, or was deleted.
            BackgroundStatus::Ended(_) if row.is_stored => {
                let stored = store.load(project, id, now).await?;
                stored.map(|stored| Found::Stored(Box::new(stored)))
            }
            BackgroundStatus::Ended(_) if is_kept(&row, now) => Some(Found::Kept(row.response()?.clone())),
            BackgroundStatus::Ended(_) => None,
        })
    }

    /// The input items of a response that is stored, or of a background response that is still running or is kept without being
    /// stored.
    pub async fn input_items(
        &self,
        project: &ProjectId,
        id: ResponseId,
    ) -> Result<Option<Bytes>, StoreError> {
        let (store, now) = (self.chains.store(), self.env.clock.now());
        let stored = async || {
            let stored = store.load(project, id, now).await?;
            Ok::<_, StoreError>(stored.map(|stored| stored.turn.input))
        };
        if let Some(input) = stored().await? {
            return Ok(Some(input));
        }
        let Some(request) = store.load_background_request(project, id, now).await? else {
            // It may have ended in between.
            return stored().await;
        };
        if request.input.is_some() {
            return Ok(request.input);
        }
        let create = CreateRequest::parse(Operation::Create, request.body);
        let create =
            create.map_err(|error| StoreError::Corrupt(format!("the request of {id}: {}", error.message)))?;
        Ok(Some(create.input.items()))
    }

    /// The events of a background response after this number. `hidden` are the parts that the reader does not ask for: it gets
    /// them if the response was created with them.
    pub async fn replay(
        self: &Arc<Self>,
        project: &ProjectId,
        id: ResponseId,
        after: Option<u64>,
        hidden: HiddenParts,
    ) -> Result<EventLog, ReplayRefused> {
        let (store, now) = (self.chains.store(), self.env.clock.now());
        let row = store.load_background(project, id).await?;
        let running = row.as_ref().filter(|row| row.ended_at.is_none());
        let kept = row.as_ref().filter(|row| is_kept(row, now));
        let is_visible = match &row {
            Some(row) if running.is_some() || !row.is_stored => running.is_some() || kept.is_some(),
            _ => {
                let stored = store.load(project, id, now).await?.ok_or(ReplayRefused::NotFound)?;
                if !is_background(&stored) {
                    return Err(ReplayRefused::NotInBackground);
                }
                if kept.is_none() {
                    return Err(ReplayRefused::Expired(now.since(stored.created_at)));
                }
                true
            }
        };
        match running.or(kept).filter(|_| is_visible) {
            None => Err(ReplayRefused::NotFound),
            Some(row) if !row.is_streamed => Err(ReplayRefused::NotStreamed),
            Some(row) => {
                let hidden = match row.hides_reasoning {
                    true => hidden.only(HiddenParts::ENCRYPTED_REASONING),
                    false => HiddenParts::NOTHING,
                };
                Ok(EventLog::new(Arc::clone(self), &row.lease, hidden, after))
            }
        }
    }

    /// Cancels a background response, unless it has ended, even when this future is dropped.
    pub async fn cancel(
        self: &Arc<Self>,
        project: &ProjectId,
        id: ResponseId,
    ) -> Result<Cancelled, StoreError> {
        let (turns, project) = (Arc::clone(self), project.clone());
        let cancellation = async move { turns.cancel_in_steps(&project, id).await };
        self.env.tasks.complete(cancellation).await.unwrap_or_else(|| Err(not_completed()))
    }

    async fn cancel_in_steps(
        self: &Arc<Self>,
        project: &ProjectId,
        id: ResponseId,
    ) -> Result<Cancelled, StoreError> {
        let store = self.chains.store();
        if store.request_cancel(project, id).await? {
            self.wait_for_end(project, id).await?;
        }
        let (row, now) = (store.load_background(project, id).await?, self.env.clock.now());
        let stored = store.load(project, id, now).await?;
        Ok(match (stored, row) {
            (Some(stored), _) if !is_background(&stored) => Cancelled::NotInBackground,
            (Some(stored), _) if stored.turn.status == Status::Cancelled => {
                Cancelled::Done(without_output(&stored)?)
            }
            (Some(stored), _) => Cancelled::Ended(stored.turn.status),
            (None, Some(row)) if !row.is_stored && is_kept(&row, now) => match row.status {
                BackgroundStatus::Ended(Status::Cancelled) => Cancelled::Done(row.response()?.clone()),
                BackgroundStatus::Ended(status) => Cancelled::Ended(status),
                BackgroundStatus::Queued | BackgroundStatus::InProgress => Cancelled::NotFound,
            },
            _ => Cancelled::NotFound,
        })
    }

    /// Hides a response at once, even when this future is dropped. One that is still running is cancelled first. `false` if there
    /// is none.
    pub async fn delete(self: &Arc<Self>, project: &ProjectId, id: ResponseId) -> Result<bool, StoreError> {
        let (turns, project) = (Arc::clone(self), project.clone());
        let deletion = async move { turns.delete_in_steps(&project, id).await };
        self.env.tasks.complete(deletion).await.unwrap_or_else(|| Err(not_completed()))
    }

    async fn delete_in_steps(
        self: &Arc<Self>,
        project: &ProjectId,
        id: ResponseId,
    ) -> Result<bool, StoreError> {
        let store = self.chains.store();
        let row = store.load_background(project, id).await?;
        let Some(row) = row else {
            return self.chains.delete(project, id, self.env.clock.now()).await;
        };
        if row.ended_at.is_none() && store.request_cancel(project, id).await? {
            self.wait_for_end(project, id).await?;
        }
        let now = self.env.clock.now();
        let is_deleted = self.chains.delete(project, id, now).await?;
        let is_hidden = store.hide_background(project, id, now).await?;
        Ok(if row.is_stored { is_deleted } else { is_hidden })
    }

    /// Cancels the turns of this process that other processes were asked to cancel.
    pub async fn obey_cancellations(&self) -> Result<(), StoreError> {
        for id in self.chains.store().list_cancel_requested(self.background.owner).await? {
            if let Some(run) = self.background.find(id) {
                run.stop.cancel();
            }
        }
        Ok(())
    }

    /// Waits for a turn that was asked to end. One whose owner does not answer is taken over.
    async fn wait_for_end(self: &Arc<Self>, project: &ProjectId, id: ResponseId) -> Result<(), StoreError> {
        let store = self.chains.store();
        let asked_at = Instant::now();
        while asked_at.elapsed() < CANCEL_PATIENCE {
            if let Some(run) = self.background.find(id) {
                run.stop.cancel();
            }
            let Some(row) = store.load_background(project, id).await? else { return Ok(()) };
            if row.ended_at.is_some() {
                return Ok(());
            }
            let is_own = row.lease.owner == self.background.owner && self.background.find(id).is_some();
            let is_expired = row.lease_until <= self.env.clock.now();
            if !is_own && (is_expired || asked_at.elapsed() >= OWNER_PATIENCE) {
                self.claim(&row.lease, Claimable::NotOwn).await?;
            }
            tokio::time::sleep(CANCEL_PAUSE).await;
        }
        Err(StoreError::Deadline(CANCEL_PATIENCE))
    }
}

/// What was to run to its end did not.
fn not_completed() -> StoreError {
    StoreError::Unavailable("the process ended first".into())
}

/// The response as its client sees it while it runs.
fn snapshot(row: &BackgroundTurn) -> Result<Bytes, StoreError> {
    let response = row.response()?;
    let status: &[u8] = match row.status {
        BackgroundStatus::InProgress => b"\"in_progress\"",
        BackgroundStatus::Queued | BackgroundStatus::Ended(_) => b"\"queued\"",
    };
    let mut out = Vec::with_capacity(response.len() + 8);
    match set_members(response, &[Set { name: "status", value: status, add: true }], &mut out) {
        Ok(()) => Ok(out.into()),
        Err(_) => Ok(response.clone()),
    }
}

fn is_kept(row: &BackgroundTurn, now: Timestamp) -> bool {
    row.kept_until.is_some_and(|until| until > now)
}

pub fn is_background(stored: &StoredResponse) -> bool {
    member(&stored.body, "background") == Some(b"true")
}

fn without_output(stored: &StoredResponse) -> Result<Bytes, StoreError> {
    let whole = with_output(&stored.body, b"[]");
    whole.map(Into::into).map_err(|_| StoreError::Corrupt("a response is not an object".into()))
}
