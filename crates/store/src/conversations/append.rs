//! Appending to a conversation: its head moves, if nobody else has moved it meanwhile.

use antiphon_protocol::id::{ConversationId, ItemId, ProjectId, ResponseId};
use uuid::Uuid;

use super::{BYTES_BESIDE_JSON, StoredConversation, statements, stored};
use crate::sql::{Argument, Kind, Query, Statement, id, number, text};
use crate::{Record, StoredTurn, Timestamp};

/// Where an item is: its turn, and its position among that turn's input items followed by its output items.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemLocation {
    pub turn: ResponseId,
    pub position: u32,
}

/// What a turn adds to a conversation, as that was when the turn began.
#[derive(Debug, Clone)]
pub struct Append {
    pub conversation: ConversationId,
    /// The holder of the conversation's lock, if the turn has that.
    pub holder: Option<Uuid>,
    /// Locks that end before this are no obstacle.
    pub now: Timestamp,
    pub version: u64,
    /// The position of the first item.
    pub first_position: u64,
    pub items: Vec<AppendedItem>,
}

/// An item that is added to a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppendedItem {
    pub id: ItemId,
    /// Its id if the conversation has another item with that one.
    pub otherwise: ItemId,
    pub location: ItemLocation,
}

/// What became of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// It was done, or there was nothing to append.
    Done,
    /// The conversation is deleted. A response was recorded without it.
    Deleted,
    /// The conversation has changed, or another turn holds its lock. Nothing was written.
    Conflict,
    /// The turn that it continues is not in the store any more. Nothing was written.
    NoParent,
}

/// Turns that nobody served: items that are posted, or one that is deleted.
#[derive(Debug, Clone)]
pub struct Post {
    pub project: ProjectId,
    pub created_at: Timestamp,
    /// The conversation, if this begins it.
    pub begins: Option<StoredConversation>,
    /// Each continues the one before; the last is the new head.
    pub turns: Vec<StoredTurn>,
    /// The position of the item that is deleted.
    pub deletes: Option<u64>,
    pub append: Append,
}

/// An append that a batch of writes has, and what it is for.
pub(crate) struct Pending<'a> {
    pub(crate) project: &'a ProjectId,
    pub(crate) append: &'a Append,
    head: Option<&'a StoredTurn>,
    /// What it adds to the number of items.
    items: i64,
    size_bytes: usize,
}

// === impl Pending ===

impl<'a> Pending<'a> {
    pub(crate) fn of_record(record: &'a Record) -> Option<Self> {
        let append = record.append.as_ref()?;
        let (turn, body) = (&record.response.turn, &record.response.body);
        let size_bytes = size_bytes(turn) + body.len();
        Some(Self { project: &record.project, append, head: Some(turn), items: count(append), size_bytes })
    }

    pub(crate) fn of_post(post: &'a Post) -> Self {
        let Post { project, turns, deletes, append, .. } = post;
        let size_bytes = turns.iter().map(size_bytes).sum();
        let items = count(append) - i64::from(deletes.is_some());
        Self { project, append, head: turns.last(), items, size_bytes }
    }

    /// Moves the head. Changes nothing if it can't be moved.
    pub(crate) fn advance(&self) -> Statement {
        let Self { project, append, head, items, size_bytes } = self;
        let next = append.first_position.saturating_add(append.items.len() as u64);
        let arguments = vec![
            crate::sql::optional_id(head.map(|head| head.id.uuid())),
            number(i64::from(head.map_or(0, |head| head.depth))),
            number(stored(next)),
            number(*items),
            number(stored(*size_bytes as u64)),
            number(append.now.unix_ms()),
            id(append.conversation.uuid()),
            text(project.as_str()),
            number(stored(append.version)),
            id(append.holder.unwrap_or_default()),
        ];
        Statement::new(statements::ADVANCE, arguments)
    }

    /// The items with their positions in the conversation.
    pub(crate) fn items(&self) -> impl Iterator<Item = (u64, &'a AppendedItem)> + use<'a> {
        (self.append.first_position..).zip(&self.append.items)
    }
}

fn count(append: &Append) -> i64 {
    stored(append.items.len() as u64)
}

/// What a turn adds to the store, without the body of a response.
fn size_bytes(turn: &StoredTurn) -> usize {
    BYTES_BESIDE_JSON + turn.input.len() + turn.output.len()
}

/// Yields a row if the conversation is not deleted.
pub(crate) fn is_live(project: &ProjectId, conversation: ConversationId) -> Query {
    let arguments = key(project, conversation);
    Query { text: statements::IS_LIVE, arguments, columns: &[Kind::Number] }
}

/// Removes the item at this position from the index of a conversation's items.
pub(crate) fn remove_item(project: &ProjectId, conversation: ConversationId, position: u64) -> Statement {
    let mut arguments = key(project, conversation);
    arguments.push(number(stored(position)));
    Statement::new(statements::REMOVE_ITEM, arguments)
}

fn key(project: &ProjectId, conversation: ConversationId) -> Vec<Argument> {
    vec![id(conversation.uuid()), text(project.as_str())]
}
