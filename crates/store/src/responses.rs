//! Responses, and the items in them.

use std::str::FromStr;
use std::sync::Arc;

use antiphon_protocol::id::{ItemId, ProjectId, ResponseId};
use async_trait::async_trait;

use crate::assemble::turn_columns;
use crate::sql::{Statement, id, number, text};
use crate::{Append, Appended, ItemLocation, Json, LogRow, PurgeProgress, Settlement, StoreError, Timestamp};

/// How a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    Completed,
    Incomplete,
    Failed,
    Cancelled,
}

/// A response as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredResponse {
    pub turn: StoredTurn,
    pub created_at: Timestamp,
    /// The response object as the client saw it, with an empty `output`.
    pub body: Json,
}

/// What a turn added to its chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTurn {
    pub id: ResponseId,
    pub parent: Option<ResponseId>,
    /// The root's depth is 1.
    pub depth: u32,
    pub status: Status,
    /// The name of the account that served the turn.
    pub account: String,
    /// The accounts that can read this turn's encrypted items.
    pub boundary: String,
    /// The upstream's own id of the response.
    pub upstream_id: Option<String>,
    pub model: String,
    /// `None` keeps the response forever.
    pub expires_at: Option<Timestamp>,
    /// The turn's own input items, a JSON array in which the items themselves replace item references.
    pub input: Json,
    /// Positions in `input` of items that came from a reference to an output item: their ids are the upstream's.
    pub referenced: Vec<u32>,
    /// The turn's own output items, a JSON array.
    pub output: Json,
    /// Of a turn that nobody served: the items that it deletes from its conversation, in the order of [`ItemLocation`]; none if it
    /// only adds some. `None` for a response.
    pub deletes: Option<Vec<ItemLocation>>,
}

impl StoredTurn {
    /// How much JSON its items are.
    pub fn items_bytes(&self) -> usize {
        self.input.len() + self.output.len()
    }
}

/// A finished turn to make durable. Apart from JSON, its texts must not hold a NUL, which PostgreSQL can't store.
#[derive(Debug, Clone)]
pub struct Record {
    pub project: ProjectId,
    pub response: StoredResponse,
    /// The items that are found here by their ids from now on, each with its position among the input items followed by the output
    /// items.
    pub items: Vec<(ItemId, u32)>,
    pub log: LogRow,
    /// What the turn used, if it holds a reservation.
    pub settlement: Option<Settlement>,
    /// What the turn adds to its conversation. As long as that lives, the response does not expire.
    pub append: Option<Append>,
    /// Whether its parent has to be in the store. Memory may still have one that the database has lost since, as it failed over to
    /// a standby that lacks the newest turns. The head of a conversation comes from the database: with an append this says nothing.
    pub needs_parent: bool,
}

impl Record {
    /// The parent that has to be in the store.
    pub(crate) fn needed_parent(&self) -> Option<ResponseId> {
        self.response.turn.parent.filter(|_| self.needs_parent && self.append.is_none())
    }
}

/// An item found by its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexedItem {
    pub item: Json,
    /// Whether its id is an upstream's: it is one of its response's output items, or a copy of another's.
    pub is_output: bool,
    /// When its response expires. An item that is only in a conversation has no response, and counts as expired.
    pub expires_at: Option<Timestamp>,
    /// Who made it, if it is an output item of its response. Of a copy nobody knows.
    pub maker: Option<Arc<Maker>>,
}

/// Where the output items of a response come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maker {
    /// The name of the account that served the response.
    pub account: String,
    /// The accounts that can read its encrypted items.
    pub boundary: String,
}

/// What was found of the items that were asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FoundItems {
    /// In the order of their ids; `None` where an id is unknown or its response is deleted or expired.
    All(Vec<Option<IndexedItem>>),
    /// All of them together are larger than was asked for: at least so many bytes.
    TooLarge { size_bytes: usize },
}

/// Which part of a chain to load.
#[derive(Debug, Clone, Copy)]
pub struct ChainQuery {
    pub from: ResponseId,
    /// With a time, `from` must be neither deleted nor expired then. Its ancestors may be, in any case.
    pub visible_at: Option<Timestamp>,
    pub max_turns: u32,
}

/// What a purge removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Purged {
    pub responses: u64,
    pub log_rows: u64,
}

/// Responses and the items in them.
///
/// # Errors
/// Methods that load or list fail with a [read error](StoreError#read-errors), the others with a
/// [write error](StoreError#write-errors).
#[async_trait]
pub trait Responses: Send + Sync {
    /// Makes a finished turn durable: its response, where its items are found, and its row in the request log, in one
    /// transaction. When this returns `Ok` the turn survives a power cut (with [`Durability::Full`](crate::Durability)). After
    /// [`Appended::Conflict`] and [`Appended::NoParent`], nothing was written.
    ///
    /// # Errors
    /// [`StoreError::Refused`] also when the project has a response with this id, or PostgreSQL is given a text with a NUL.
    async fn record(&self, record: Record) -> Result<Appended, StoreError>;

    /// A response that is neither deleted nor expired.
    async fn load(
        &self,
        project: &ProjectId,
        id: ResponseId,
        now: Timestamp,
    ) -> Result<Option<StoredResponse>, StoreError>;

    /// The turns from [`ChainQuery::from`] towards the root, newest first, at most [`ChainQuery::max_turns`]. Empty if there
    /// is no such response.
    ///
    /// # Errors
    /// [`StoreError::BrokenChain`] when an ancestor is missing: a chain is never silently shorter.
    async fn load_chain(&self, project: &ProjectId, query: ChainQuery)
    -> Result<Vec<StoredTurn>, StoreError>;

    /// The items with these ids, if they come to no more than `max_bytes`; an item that is named several times counts each time.
    async fn load_items(
        &self,
        project: &ProjectId,
        ids: &[ItemId],
        now: Timestamp,
        max_bytes: usize,
    ) -> Result<FoundItems, StoreError>;

    /// Hides a response at once. `false` if there is no live response with this id.
    async fn delete(&self, project: &ProjectId, id: ResponseId, now: Timestamp) -> Result<bool, StoreError>;

    /// The responses that were deleted at this time or later and are not yet purged.
    async fn list_deleted(&self, since: Timestamp) -> Result<Vec<(ProjectId, ResponseId)>, StoreError>;

    /// One step of a purge: removes up to `max_rows` responses that are deleted or expired and that no live descendant replays through, with
    /// their items; and up to `max_rows` request-log rows older than `log_before`, which [`Usage`](crate::Usage) goes on
    /// counting.
    ///
    /// A running turn may be about to continue a response that has just been deleted or has expired, so pass a `now` that is
    /// as long ago as a turn may run. After a call that removed something, another may find more to remove. After an error,
    /// begin again.
    async fn purge(
        &self,
        progress: &mut PurgeProgress,
        now: Timestamp,
        log_before: Option<Timestamp>,
        max_rows: u32,
    ) -> Result<Purged, StoreError>;
}

pub(crate) const LOAD: &str = concat!(
    "SELECT ",
    turn_columns!(),
    ", r.created_at, r.body, r.body_checksum FROM responses r WHERE r.id = $1 AND r.project = $2 \
     AND r.deletes IS NULL AND r.deleted_at IS NULL AND (r.expires_at IS NULL OR r.expires_at > $3)"
);

const DELETE: &str = "UPDATE responses SET deleted_at = $1, expires_at = $1 \
     WHERE id = $2 AND project = $3 AND deletes IS NULL AND deleted_at IS NULL \
     AND (expires_at IS NULL OR expires_at > $1)";

/// For the tests of both engines.
#[cfg(test)]
pub(crate) const STATEMENTS: [&str; 2] = [LOAD, DELETE];

pub(crate) fn deletion(project: &ProjectId, response: ResponseId, now: Timestamp) -> Statement {
    Statement::new(DELETE, vec![number(now.unix_ms()), id(response.uuid()), text(project.as_str())])
}

// === impl Status ===

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Incomplete => "incomplete",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl FromStr for Status {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        [Self::Completed, Self::Incomplete, Self::Failed, Self::Cancelled]
            .into_iter()
            .find(|status| status.as_str() == text)
            .ok_or(())
    }
}
