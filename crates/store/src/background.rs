//! Background turns: who runs them, and the log of their events.
//!
//! A running turn has a lease: its owner, and an epoch that grows with each owner. Every write of a running turn is conditional
//! on its epoch, so that an owner that has lost the lease changes nothing any more.

mod database;
pub(crate) mod events;
mod statements;

use antiphon_protocol::id::{ProjectId, ResponseId};
use async_trait::async_trait;
use uuid::Uuid;

#[cfg(test)]
pub(crate) use self::statements::STATEMENTS;
pub(crate) use self::statements::end;

use crate::{Appended, ConversationLock, Json, LogRow, Record, Settlement, Status, StoreError, Timestamp};

/// What the client of a background turn is told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackgroundStatus {
    Queued,
    InProgress,
    Ended(Status),
}

/// Names the owner of a background turn.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TurnLease {
    pub project: ProjectId,
    pub id: ResponseId,
    pub owner: Uuid,
    pub epoch: u64,
}

/// A background turn to be queued, with epoch 1.
#[derive(Debug, Clone)]
pub struct NewBackgroundTurn {
    pub lease: TurnLease,
    pub lease_until: Timestamp,
    /// Whether its events are logged.
    pub is_streamed: bool,
    /// Whether readers of the log do not get the encrypted reasoning in it.
    pub hides_reasoning: bool,
    /// Whether its response is stored at the end, as opposed to kept for a while.
    pub is_stored: bool,
    pub key: Option<String>,
    pub created_at: Timestamp,
    pub deadline: Timestamp,
    pub request: BackgroundRequest,
    /// The response as its client gets it now.
    pub response: Json,
    /// The first event of its log.
    pub event: Option<EventChunk>,
    /// The lock of its conversation, which it has until its deadline once it is queued.
    pub lock: Option<ConversationLock>,
}

/// How much of a project may be queued. A turn that is larger than all of it has to be the only one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLimits {
    pub turns: u64,
    pub bytes: u64,
}

/// What a background turn is run from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackgroundRequest {
    pub body: Json,
    /// The headers that an upstream gets, a JSON array of pairs.
    pub headers: String,
    /// The input items, if references among them were replaced.
    pub input: Option<Json>,
}

/// A background turn as it is stored, without its request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackgroundTurn {
    pub lease: TurnLease,
    pub lease_until: Timestamp,
    pub status: BackgroundStatus,
    pub is_streamed: bool,
    /// Whether readers of the log do not get the encrypted reasoning in it. That of an earlier version has none they may not get.
    pub hides_reasoning: bool,
    pub is_stored: bool,
    pub key: Option<String>,
    pub created_at: Timestamp,
    pub deadline: Timestamp,
    /// How much it stored when it was queued.
    pub size_bytes: u64,
    pub(crate) response: Json,
    /// Whether the response, or the headers of the request, are not what was stored.
    pub is_damaged: bool,
    /// How often it was begun.
    pub attempts: u32,
    pub is_cancel_requested: bool,
    /// The number of the last event in its log.
    pub last_sequence: Option<u64>,
    /// Where it was sent last, if that is known.
    pub upstream: Option<UpstreamTurn>,
    pub ended_at: Option<Timestamp>,
    /// Until when an ended turn and its log are kept.
    pub kept_until: Option<Timestamp>,
}

/// A turn that an upstream has begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamTurn {
    /// The account's name.
    pub account: String,
    /// The upstream's own id of the response, if the upstream itself runs the turn in the background.
    pub id: Option<String>,
}

/// Neighbouring events of a log, as server-sent events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventChunk {
    /// The number of the first event.
    pub first: u64,
    /// The number of the last event.
    pub last: u64,
    pub bytes: Json,
}

/// How far a turn and its log are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TurnProgress {
    /// The number of the last event in the log, if it has any.
    pub last_sequence: Option<u64>,
    pub has_ended: bool,
}

/// Which background turns may be claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claimable {
    /// Those whose lease has expired.
    Expired,
    /// Those of every other owner: nobody else uses the store, or the owner does not do what it is asked to.
    NotOwn,
}

/// The end of a background turn.
#[derive(Debug, Clone)]
pub struct BackgroundEnd {
    pub lease: TurnLease,
    pub at: Timestamp,
    pub status: Status,
    pub kept_until: Timestamp,
    /// The last events of the log.
    pub events: Option<EventChunk>,
    pub result: BackgroundResult,
    /// The lock of its conversation, if nothing is appended there.
    pub unlocks: Option<ConversationLock>,
}

/// What becomes durable with the end of a background turn.
#[derive(Debug, Clone)]
pub enum BackgroundResult {
    Stored(Box<Record>),
    /// The response is kept for a while, and can't be continued.
    Kept {
        response: Json,
        log: Box<LogRow>,
        settlement: Option<Settlement>,
    },
}

/// Background turns.
///
/// # Errors
/// Methods that load or list fail with a [read error](StoreError#read-errors), the others with a
/// [write error](StoreError#write-errors). Writes under a [`TurnLease`] return `false` if it has been lost, or the turn has ended.
#[async_trait]
pub trait Background: Send + Sync {
    /// `false` if the project has so much queued already that the limits leave no room.
    async fn queue_background(
        &self,
        turn: NewBackgroundTurn,
        limits: QueueLimits,
    ) -> Result<bool, StoreError>;

    async fn load_background(
        &self,
        project: &ProjectId,
        id: ResponseId,
    ) -> Result<Option<BackgroundTurn>, StoreError>;

    /// `None` if the turn is unknown or no longer kept.
    async fn load_progress(
        &self,
        project: &ProjectId,
        id: ResponseId,
    ) -> Result<Option<TurnProgress>, StoreError>;

    /// `None` once the turn has ended, or is no longer kept if its response is not stored.
    async fn load_background_request(
        &self,
        project: &ProjectId,
        id: ResponseId,
        now: Timestamp,
    ) -> Result<Option<BackgroundRequest>, StoreError>;

    /// Sets the turn in progress, and counts an attempt.
    async fn begin_background(&self, lease: &TurnLease) -> Result<bool, StoreError>;

    /// Renews the leases of all turns of this owner.
    async fn renew_leases(&self, owner: Uuid, until: Timestamp) -> Result<(), StoreError>;

    /// The turns of this owner that have not ended, in the order of their ids, after this one.
    async fn list_owned(
        &self,
        owner: Uuid,
        after: Option<ResponseId>,
        max_rows: u32,
    ) -> Result<Vec<TurnLease>, StoreError>;

    /// Lets everybody claim the turn at once.
    async fn release_lease(&self, lease: &TurnLease) -> Result<bool, StoreError>;

    /// Turns that this owner may claim.
    async fn list_claimable(
        &self,
        owner: Uuid,
        which: Claimable,
        now: Timestamp,
        max_rows: u32,
    ) -> Result<Vec<TurnLease>, StoreError>;

    /// Takes a turn from its owner. `None` if somebody else was faster, or the turn is not claimable any more.
    async fn claim_background(
        &self,
        from: &TurnLease,
        owner: Uuid,
        which: Claimable,
        term: (Timestamp, Timestamp),
    ) -> Result<Option<TurnLease>, StoreError>;

    /// Appends to the log. Does no harm if it is repeated.
    async fn append_events(&self, lease: &TurnLease, events: EventChunk) -> Result<bool, StoreError>;

    /// The next chunks that contain events after this number, or from the first one on. Not all of them, if there are many.
    async fn list_events(
        &self,
        project: &ProjectId,
        id: ResponseId,
        after: Option<u64>,
    ) -> Result<Vec<EventChunk>, StoreError>;

    /// Notes which upstream has begun the turn.
    async fn set_upstream_turn(&self, lease: &TurnLease, upstream: UpstreamTurn) -> Result<bool, StoreError>;

    /// Asks the owner to cancel the turn. `false` if it has ended.
    async fn request_cancel(&self, project: &ProjectId, id: ResponseId) -> Result<bool, StoreError>;

    /// The turns that this owner is asked to cancel.
    async fn list_cancel_requested(&self, owner: Uuid) -> Result<Vec<ResponseId>, StoreError>;

    /// Ends a turn, in one transaction with its result and what that appends to a conversation. `None` if the lease has been lost,
    /// or the turn has ended. After a [conflict](Appended::Conflict), and [without a parent](Appended::NoParent), the turn has not
    /// ended.
    async fn end_background(&self, end: BackgroundEnd) -> Result<Option<Appended>, StoreError>;

    /// Hides a turn that has ended at once: it is no longer kept, but readers can still read its log to the end.
    async fn hide_background(
        &self,
        project: &ProjectId,
        id: ResponseId,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Removes up to `max_rows` ended turns that are no longer kept, with their logs. `false` if there were none.
    async fn purge_background(&self, now: Timestamp, max_rows: u32) -> Result<bool, StoreError>;
}

// === impl NewBackgroundTurn ===

impl NewBackgroundTurn {
    fn size_bytes(&self) -> u64 {
        let BackgroundRequest { body, headers, input } = &self.request;
        let input = input.as_ref().map_or(0, Json::len);
        (body.len() + headers.len() + input + self.response.len()) as u64
    }
}

fn sequence(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

// === impl BackgroundTurn ===

impl BackgroundTurn {
    /// The response as it was queued; at the end the finished one, or empty if that is stored.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if it is damaged.
    pub fn response(&self) -> Result<&Json, StoreError> {
        if self.is_damaged {
            return Err(StoreError::Corrupt(format!("the background turn {} is damaged", self.lease.id)));
        }
        Ok(&self.response)
    }
}

// === impl Claimable ===

impl Claimable {
    fn flag(self) -> i64 {
        i64::from(self == Self::NotOwn)
    }
}

// === impl BackgroundEnd ===

impl BackgroundEnd {
    /// Whether it may turn out that nothing of it can be written.
    pub(crate) fn is_conditional(&self) -> bool {
        let is_conditional = |record: &Record| record.append.is_some() || record.needed_parent().is_some();
        matches!(&self.result, BackgroundResult::Stored(record) if is_conditional(record))
    }

    /// The turn's row in the request log.
    pub(crate) fn log(&self) -> &LogRow {
        match &self.result {
            BackgroundResult::Stored(record) => &record.log,
            BackgroundResult::Kept { log, .. } => log,
        }
    }

    pub(crate) fn settlement(&self) -> Option<&Settlement> {
        match &self.result {
            BackgroundResult::Stored(record) => record.settlement.as_ref(),
            BackgroundResult::Kept { settlement, .. } => settlement.as_ref(),
        }
    }
}
