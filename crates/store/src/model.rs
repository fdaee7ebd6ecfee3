//! What goes into the store and comes out of it.

use std::borrow::Cow;
use std::str::FromStr;
use std::time::Duration;

use antiphon_protocol::id::{ItemId, ProjectId, ResponseId};

use crate::{Json, Settlement, StoreUrl, Timestamp};

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
    /// `None` is kept for ever.
    pub expires_at: Option<Timestamp>,
    /// The turn's own input items, a JSON array; item references are replaced by the items that they named.
    pub input: Json,
    /// Positions in `input` of items that came from a reference to an output item: their ids are the upstream's.
    pub referenced: Vec<u32>,
    /// The turn's own output items, a JSON array.
    pub output: Json,
}

/// A finished turn, to be made durable. Its texts, JSON apart, hold no NUL: not every engine can store one.
#[derive(Debug, Clone)]
pub struct Record {
    pub project: ProjectId,
    pub response: StoredResponse,
    /// The items that came with an id, and their positions among input and then output items.
    pub items: Vec<(ItemId, u32)>,
    pub log: LogRow,
    /// What the turn came to, if it has reserved.
    pub settlement: Option<Settlement>,
}

/// An item found by its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexedItem {
    pub item: Json,
    /// Whether it is one of its response's output items.
    pub is_output: bool,
}

/// Which part of a chain to load.
#[derive(Debug, Clone, Copy)]
pub struct ChainQuery {
    pub from: ResponseId,
    /// With a time, `from` must be neither deleted nor expired then; its ancestors may be, in any case.
    pub visible_at: Option<Timestamp>,
    pub max_turns: u32,
}

/// One turn in the request log. Never holds payloads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRow {
    pub at: Timestamp,
    pub project: ProjectId,
    pub response: ResponseId,
    /// The id of the key that the turn came with.
    pub key: Option<String>,
    pub account: Option<String>,
    pub model: String,
    /// `http`, `sse` or `websocket`.
    pub transport: Cow<'static, str>,
    /// A response status, or `refused` when the turn yielded no response.
    pub outcome: Cow<'static, str>,
    /// The HTTP status that the client was given.
    pub http_status: u16,
    /// The error code that the client was given.
    pub code: Option<String>,
    pub depth: u32,
    /// How often an upstream was asked.
    pub attempts: u32,
    pub input_tokens: u64,
    pub cached_tokens: u64,
    pub output_tokens: u64,
    pub reasoning_tokens: u64,
    /// In billionths of a US dollar; `None` for tokens of a model without a price.
    pub cost_nano_usd: Option<u64>,
    pub duration: Duration,
    /// From the start of the turn to its first event.
    pub first_event: Option<Duration>,
}

/// What a purge removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Purged {
    pub responses: u64,
    pub log_rows: u64,
}

/// What a store holds of one project. Takes a look at every row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectStats {
    pub project: ProjectId,
    pub responses: u64,
    /// Responses that continue no other.
    pub chains: u64,
    /// Of items and bodies, as they are stored; indexes come on top.
    pub bytes: u64,
    pub oldest: Timestamp,
    /// Deleted or expired, and not yet purged.
    pub expired: u64,
}

/// When a commit counts as durable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// The disk has it: it survives a power cut.
    #[default]
    Full,
    /// The operating system has it: it survives a kill, but perhaps not a power cut.
    Normal,
}

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    pub durability: Durability,
    /// How long a write may take, waiting included, before it counts as failed.
    pub commit_timeout: Duration,
    /// How long a read may take, where the engine reads over a network.
    pub read_timeout: Duration,
    /// Connections for reading, where the engine has a pool of them.
    pub read_connections: u32,
    /// Connections for writing, where several can write at once.
    pub write_connections: u32,
    pub migrate: Migrate,
    /// Where the schema is changed, if that is not possible where the store is: a pooled endpoint often can't do it.
    pub migration_url: Option<StoreUrl>,
}

/// Who brings the schema of a database up to date.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Migrate {
    /// Whoever opens it.
    #[default]
    Auto,
    /// The operator; a schema that is not up to date is refused.
    Manual,
}

// === impl LogRow ===

#[cfg(test)]
impl LogRow {
    /// A row that says as little as one can.
    pub(crate) fn bare(at: Timestamp, response: ResponseId) -> Self {
        Self {
            at,
            project: ProjectId::new("p"),
            response,
            key: None,
            account: None,
            model: String::new(),
            transport: "http".into(),
            outcome: "completed".into(),
            http_status: 200,
            code: None,
            depth: 1,
            attempts: 1,
            input_tokens: 0,
            cached_tokens: 0,
            output_tokens: 0,
            reasoning_tokens: 0,
            cost_nano_usd: None,
            duration: Duration::ZERO,
            first_event: None,
        }
    }
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

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            durability: Durability::Full,
            commit_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(10),
            read_connections: 4,
            write_connections: 2,
            migrate: Migrate::Auto,
            migration_url: None,
        }
    }
}
