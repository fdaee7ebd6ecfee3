//! Conversations: a moving head over stored turns, and an index of the items that they have now.
//!
//! A turn in a conversation continues its head, and becomes the head in the transaction that records it. Items that are posted
//! are a turn that nobody served. So is a deletion: what was continued before still has the item, what comes after has not. Such
//! turns are rows like others, but no responses: clients can't name them.

mod append;
mod items;
mod purge;
mod statements;

use std::time::Duration;

use antiphon_protocol::id::{ConversationId, ItemId, ProjectId, ResponseId};
use async_trait::async_trait;
use uuid::Uuid;

pub use self::append::{Append, Appended, AppendedItem, ItemLocation, Post};
pub(crate) use self::append::{Pending, is_live, remove_item};
#[cfg(test)]
pub(crate) use self::statements::{ALL as STATEMENTS, INDEXED};
use crate::sql::{Columns, Database, Kind, Query, Statement, bytes, id, number, optional_id, text};
use crate::{Json, Responses, StoreError, Timestamp};

/// A conversation that is not deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredConversation {
    pub id: ConversationId,
    pub project: ProjectId,
    pub created_at: Timestamp,
    /// A JSON object.
    pub metadata: Json,
    /// The newest turn; `None` if there is none yet.
    pub head: Option<ResponseId>,
    /// The depth of the head; 0 if there is none.
    pub depth: u32,
    /// Grows with every change of the head.
    pub version: u64,
    /// The position of the next item.
    pub next_position: u64,
    /// Until when it is locked, unless the lock is renewed.
    pub locked_until: Option<Timestamp>,
    /// How many items it has now.
    pub items: u64,
    /// How many bytes it has added to the store, those of deleted items included: earlier responses keep them.
    pub size_bytes: u64,
    /// When it was last changed.
    pub used_at: Timestamp,
}

/// The right of one turn to append to a conversation. It lasts for a lease, which its holder renews.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ConversationLock {
    pub project: ProjectId,
    pub conversation: ConversationId,
    /// Identifies the turn that holds it.
    pub holder: Uuid,
}

/// Which items of a conversation to list.
#[derive(Debug, Clone)]
pub struct ConversationQuery {
    pub project: ProjectId,
    pub conversation: ConversationId,
    /// Only items beyond this position.
    pub after: Option<u64>,
    pub descending: bool,
    pub max_items: u32,
    /// The page ends with the item that reaches it.
    pub max_bytes: usize,
}

/// An item of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConversationItem {
    pub id: ItemId,
    /// Items are in the order of their positions, with gaps where some were deleted.
    pub position: u64,
    pub location: ItemLocation,
    pub item: Json,
}

/// Items, and what follows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemPage {
    pub items: Vec<ConversationItem>,
    pub end: PageEnd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageEnd {
    More,
    Last,
}

/// Conversations and their items.
///
/// # Errors
/// Methods that load, list or find fail with a [read error](StoreError#read-errors), the others with a
/// [write error](StoreError#write-errors).
#[async_trait]
pub trait Conversations: Send + Sync {
    /// Adds a conversation without items.
    async fn add_conversation(&self, conversation: StoredConversation) -> Result<(), StoreError>;

    async fn load_conversation(
        &self,
        project: &ProjectId,
        conversation: ConversationId,
    ) -> Result<Option<StoredConversation>, StoreError>;

    /// The same, of a conversation that may have been deleted while one of its turns runs.
    async fn load_conversation_of_turn(
        &self,
        project: &ProjectId,
        conversation: ConversationId,
    ) -> Result<Option<StoredConversation>, StoreError>;

    /// The newest first; with `after`, those older than that one.
    async fn list_conversations(
        &self,
        project: &ProjectId,
        after: Option<ConversationId>,
        max_rows: u32,
    ) -> Result<Vec<StoredConversation>, StoreError>;

    /// Replaces the metadata. `false` if there is no such conversation.
    async fn set_conversation_metadata(
        &self,
        project: &ProjectId,
        conversation: ConversationId,
        metadata: Json,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Hides a conversation at once. Its responses stay until they are older than `retention`; `None` keeps them for ever.
    /// `false` if there is no such conversation.
    async fn delete_conversation(
        &self,
        project: &ProjectId,
        conversation: ConversationId,
        now: Timestamp,
        retention: Option<Duration>,
    ) -> Result<bool, StoreError>;

    /// Deletes up to `max_rows` conversations that were last changed by `unused_since` and in which no turn runs, as
    /// [`delete_conversation`](Self::delete_conversation) does. `true` if there may be more.
    async fn expire_conversations(
        &self,
        unused_since: Timestamp,
        now: Timestamp,
        retention: Option<Duration>,
        max_rows: u32,
    ) -> Result<bool, StoreError>;

    /// How many bytes the conversations of a project have added to the store.
    async fn size_of_conversations(&self, project: &ProjectId) -> Result<u64, StoreError>;

    /// Appends turns that nobody served, all or none.
    async fn post(&self, post: Post) -> Result<Appended, StoreError>;

    /// Takes the lock until that time. `false` if another one holds it, or the conversation has another version.
    async fn lock_conversation(
        &self,
        lock: &ConversationLock,
        version: u64,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Makes locks last until that time, unless they last longer or were lost.
    async fn renew_conversation_locks(
        &self,
        locks: Vec<ConversationLock>,
        until: Timestamp,
    ) -> Result<(), StoreError>;

    /// Releases a lock soon, unless it was lost. Nobody waits for that.
    fn unlock_conversation(&self, lock: ConversationLock);

    async fn list_conversation_items(&self, query: ConversationQuery) -> Result<ItemPage, StoreError>;

    /// Those of a conversation's items that have these ids.
    async fn find_conversation_items(
        &self,
        project: &ProjectId,
        conversation: ConversationId,
        ids: &[ItemId],
    ) -> Result<Vec<ConversationItem>, StoreError>;

    /// The items with these ids in any conversation of the project, each once, up to the one that reaches `max_bytes`. They are
    /// found as long as they are there, whatever has become of their responses.
    async fn find_items_of_conversations(
        &self,
        project: &ProjectId,
        ids: &[ItemId],
        max_bytes: usize,
    ) -> Result<Vec<ConversationItem>, StoreError>;

    /// Removes a part of what belongs to conversations that were deleted by then; `true` if there may be more. Pass a time that is
    /// as long ago as a turn may run.
    async fn purge_conversations(&self, deleted_by: Timestamp, max_rows: u32) -> Result<bool, StoreError>;
}

/// What a row takes on disk beside its JSON, about.
pub(crate) const BYTES_BESIDE_JSON: usize = 1024;

const COLUMNS: [Kind; 12] = [
    Kind::Id,
    Kind::Text,
    Kind::Number,
    Kind::Bytes,
    Kind::Id,
    Kind::Number,
    Kind::Number,
    Kind::Number,
    Kind::Number,
    Kind::Number,
    Kind::Number,
    Kind::Number,
];

fn conversation(mut row: Columns) -> Result<StoredConversation, StoreError> {
    Ok(StoredConversation {
        id: ConversationId::from_uuid(row.id()?),
        project: ProjectId::new(&row.text()?),
        created_at: Timestamp::from_unix_ms(row.number()?),
        metadata: row.optional_bytes().unwrap_or_default().into(),
        head: row.optional_id().map(ResponseId::from_uuid),
        depth: row.integer()?,
        version: row.integer()?,
        next_position: row.integer()?,
        locked_until: row.optional_number().map(Timestamp::from_unix_ms),
        items: row.integer()?,
        size_bytes: row.integer()?,
        used_at: Timestamp::from_unix_ms(row.number()?),
    })
}

// === impl StoredConversation ===

impl StoredConversation {
    /// A conversation without items.
    pub fn new(id: ConversationId, project: &ProjectId, created_at: Timestamp, metadata: Json) -> Self {
        let size_bytes = (BYTES_BESIDE_JSON + metadata.len()) as u64;
        Self {
            id,
            project: project.clone(),
            created_at,
            metadata,
            head: None,
            depth: 0,
            version: 0,
            next_position: 0,
            locked_until: None,
            items: 0,
            size_bytes,
            used_at: created_at,
        }
    }

    pub(crate) fn insert(&self) -> Statement {
        let arguments = vec![
            id(self.id.uuid()),
            text(self.project.as_str()),
            number(self.created_at.unix_ms()),
            bytes(self.metadata.to_vec()),
            optional_id(self.head.map(ResponseId::uuid)),
            number(i64::from(self.depth)),
            number(stored(self.version)),
            number(stored(self.next_position)),
            number(stored(self.items)),
            number(stored(self.size_bytes)),
            number(self.used_at.unix_ms()),
        ];
        Statement::new(statements::INSERT, arguments)
    }
}

// === impl ConversationLock ===

impl ConversationLock {
    /// Makes it last until that time, unless it lasts longer or was lost.
    pub(crate) fn renewal(self, until: Timestamp) -> Statement {
        let arguments = vec![
            number(until.unix_ms()),
            id(self.conversation.uuid()),
            text(self.project.as_str()),
            id(self.holder),
        ];
        Statement::new(statements::RENEW, arguments).changing(self.conversation, &self.project)
    }

    pub(crate) fn release(self) -> Statement {
        let arguments = vec![id(self.conversation.uuid()), text(self.project.as_str()), id(self.holder)];
        Statement::new(statements::UNLOCK, arguments).changing(self.conversation, &self.project)
    }
}

fn milliseconds(retention: Option<Duration>) -> Option<i64> {
    retention.map(|kept| i64::try_from(kept.as_millis()).unwrap_or(i64::MAX / 2))
}

/// A count as a column holds it.
fn stored(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[async_trait]
impl<D: Database + Responses> Conversations for D {
    async fn add_conversation(&self, conversation: StoredConversation) -> Result<(), StoreError> {
        self.group().execute(conversation.insert()).await.map(|_| ())
    }

    async fn load_conversation(
        &self,
        project: &ProjectId,
        conversation_id: ConversationId,
    ) -> Result<Option<StoredConversation>, StoreError> {
        let arguments = vec![id(conversation_id.uuid()), text(project.as_str())];
        let rows = self
            .query_for(Some(project), Query { text: statements::LOAD, arguments, columns: &COLUMNS })
            .await?;
        rows.into_iter().next().map(conversation).transpose()
    }

    async fn load_conversation_of_turn(
        &self,
        project: &ProjectId,
        conversation_id: ConversationId,
    ) -> Result<Option<StoredConversation>, StoreError> {
        let arguments = vec![id(conversation_id.uuid()), text(project.as_str())];
        let rows = self
            .query_for(Some(project), Query { text: statements::LOAD_OF_TURN, arguments, columns: &COLUMNS })
            .await?;
        rows.into_iter().next().map(conversation).transpose()
    }

    async fn list_conversations(
        &self,
        project: &ProjectId,
        after: Option<ConversationId>,
        max_rows: u32,
    ) -> Result<Vec<StoredConversation>, StoreError> {
        let before = after.map_or(Uuid::max(), ConversationId::uuid);
        let arguments = vec![text(project.as_str()), id(before), number(i64::from(max_rows))];
        let rows = self
            .query_for(Some(project), Query { text: statements::LIST, arguments, columns: &COLUMNS })
            .await?;
        rows.into_iter().map(conversation).collect()
    }

    async fn set_conversation_metadata(
        &self,
        project: &ProjectId,
        conversation: ConversationId,
        metadata: Json,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let arguments = vec![
            number(stored(metadata.len() as u64)),
            bytes(metadata.to_vec()),
            number(now.unix_ms()),
            id(conversation.uuid()),
            text(project.as_str()),
        ];
        let statement = Statement::new(statements::SET_METADATA, arguments);
        self.group().execute(statement.changing(conversation, project)).await
    }

    async fn delete_conversation(
        &self,
        project: &ProjectId,
        conversation: ConversationId,
        now: Timestamp,
        retention: Option<Duration>,
    ) -> Result<bool, StoreError> {
        let arguments = vec![
            number(now.unix_ms()),
            number(milliseconds(retention)),
            id(conversation.uuid()),
            text(project.as_str()),
        ];
        let statement = Statement::new(statements::DELETE, arguments);
        self.group().execute(statement.changing(conversation, project)).await
    }

    async fn expire_conversations(
        &self,
        unused_since: Timestamp,
        now: Timestamp,
        retention: Option<Duration>,
        max_rows: u32,
    ) -> Result<bool, StoreError> {
        let arguments = vec![
            number(now.unix_ms()),
            number(milliseconds(retention)),
            number(unused_since.unix_ms()),
            number(i64::from(max_rows)),
        ];
        self.group().execute(Statement::new(statements::EXPIRE, arguments)).await
    }

    async fn size_of_conversations(&self, project: &ProjectId) -> Result<u64, StoreError> {
        let arguments = vec![text(project.as_str())];
        let query = Query { text: statements::SIZE_OF_PROJECT, arguments, columns: &[Kind::Number] };
        let rows = self.query_for(Some(project), query).await?;
        rows.into_iter().next().map_or(Ok(0), |mut row| row.integer())
    }

    async fn post(&self, post: Post) -> Result<Appended, StoreError> {
        self.group().post(post).await
    }

    async fn lock_conversation(
        &self,
        lock: &ConversationLock,
        version: u64,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<bool, StoreError> {
        let arguments = vec![
            id(lock.holder),
            number(until.unix_ms()),
            id(lock.conversation.uuid()),
            text(lock.project.as_str()),
            number(stored(version)),
            number(now.unix_ms()),
        ];
        let statement = Statement::new(statements::LOCK, arguments);
        self.group().execute(statement.changing(lock.conversation, &lock.project)).await
    }

    async fn renew_conversation_locks(
        &self,
        locks: Vec<ConversationLock>,
        until: Timestamp,
    ) -> Result<(), StoreError> {
        let renewals = locks.into_iter().map(|lock| lock.renewal(until)).collect();
        self.group().execute_all(renewals).await.map(|_| ())
    }

    fn unlock_conversation(&self, lock: ConversationLock) {
        self.group().execute_unawaited(lock.release());
    }

    async fn list_conversation_items(&self, query: ConversationQuery) -> Result<ItemPage, StoreError> {
        items::list(self, query).await
    }

    async fn find_conversation_items(
        &self,
        project: &ProjectId,
        conversation: ConversationId,
        ids: &[ItemId],
    ) -> Result<Vec<ConversationItem>, StoreError> {
        items::find(self, project, conversation, ids).await
    }

    async fn find_items_of_conversations(
        &self,
        project: &ProjectId,
        ids: &[ItemId],
        max_bytes: usize,
    ) -> Result<Vec<ConversationItem>, StoreError> {
        items::find_anywhere(self, project, ids, max_bytes).await
    }

    async fn purge_conversations(&self, deleted_by: Timestamp, max_rows: u32) -> Result<bool, StoreError> {
        purge::purge(self, deleted_by, max_rows).await
    }
}
