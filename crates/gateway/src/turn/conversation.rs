//! A turn in a conversation: it continues the head, and its items are appended when it is recorded.

use antiphon_protocol::id::{ConversationId, ItemId, ResponseId};
use antiphon_protocol::{item, json};
use antiphon_store::{Append, AppendedItem, ConversationLock, ItemLocation, StoredConversation, Timestamp};

use super::{Failure, Turn};
use crate::conversations::{ConversationError, HeldLock};

/// More items of an input or an output are not listed. No input has more.
const MAX_LISTED_ITEMS: usize = 100_000;

/// The conversation of a turn, as it is when the turn begins.
pub struct Joined {
    conversation: StoredConversation,
    right: Right,
}

/// What a turn may do in its conversation.
enum Right {
    Read,
    Append(HeldLock),
    /// The turn was queued with this lock, which lasts until the turn ends.
    AppendQueued(ConversationLock),
}

impl Turn {
    /// Loads the conversation that the request names. Waits for the turn that runs in it, unless nothing is to be appended. A
    /// client that leaves meanwhile may go on with other turns: they are not to be followed by one that it has given up.
    pub(super) async fn join(&self, name: &str) -> Result<Joined, Failure> {
        let (conversations, project) = (&self.turns.conversations, &self.facts.project);
        let is_abandoned = || self.cancellation.has_client_left();
        let joining = async {
            if let Some(lock) = self.queued_lock() {
                let conversation = conversations.load_of_turn(project, name).await?;
                return Ok(Joined { conversation, right: Right::AppendQueued(lock) });
            }
            if self.facts.create.store {
                let holder = self.facts.id.uuid();
                let (conversation, lock) = conversations.lock(project, name, holder, is_abandoned).await?;
                return Ok(Joined { conversation, right: Right::Append(lock) });
            }
            Ok(Joined { conversation: conversations.load(project, name).await?, right: Right::Read })
        };
        let joined = self.cancellation.or_cancelled(joining).await.map_err(|_| Failure::ClientGone)?;
        joined.map_err(|error| match error {
            ConversationError::Locked if is_abandoned() => Failure::ClientGone,
            error => error.into(),
        })
    }

    /// The lock that a background turn was queued with.
    pub(super) fn queued_lock(&self) -> Option<ConversationLock> {
        self.facts.door.run().filter(|_| self.facts.create.store)?;
        let conversation = self.facts.create.conversation.as_ref()?.parse().ok()?;
        let (project, holder) = (self.facts.project.clone(), self.facts.id.uuid());
        Some(ConversationLock { project, conversation, holder })
    }
}

// === impl Joined ===

impl Joined {
    pub fn id(&self) -> ConversationId {
        self.conversation.id
    }

    pub fn conversation(&self) -> &StoredConversation {
        &self.conversation
    }

    /// Appends the items of the turn, which is recorded now; `None` for one that only reads.
    pub fn append(&self, items: Vec<AppendedItem>, now: Timestamp) -> Option<Append> {
        let lock = self.lock()?;
        Some(Append {
            conversation: self.conversation.id,
            holder: Some(lock.holder),
            now,
            version: self.conversation.version,
            first_position: self.conversation.next_position,
            items,
        })
    }

    /// The lock of a turn that may append.
    pub fn lock(&self) -> Option<&ConversationLock> {
        match &self.right {
            Right::Read => None,
            Right::Append(held) => Some(held.lock()),
            Right::AppendQueued(lock) => Some(lock),
        }
    }

    /// Notes that the lock has ended with the append, or that the turn was queued with it.
    pub fn end(&self) {
        if let Right::Append(lock) = &self.right {
            lock.end();
        }
    }
}

/// The items of a turn as its conversation lists them.
pub(super) fn appended_items(turn: ResponseId, input: &[u8], output: &[u8]) -> Vec<AppendedItem> {
    let input_items = u32::try_from(json::elements(input).count()).unwrap_or(u32::MAX);
    let appended = |array: &[u8], first: u32| -> Vec<AppendedItem> {
        let items = (first..).zip(json::elements(array).map_while(Result::ok).take(MAX_LISTED_ITEMS));
        let appended = |(position, range)| {
            let item = &array[range];
            let otherwise: ItemId = item::derived_id(item, turn, position);
            let id = item::id(item).unwrap_or_else(|| otherwise.clone());
            AppendedItem { id, otherwise, location: ItemLocation { turn, position } }
        };
        items.map(appended).collect()
    };
    let mut items = appended(input, 0);
    items.extend(appended(output, input_items));
    without_repeated_ids(items)
}

/// Of items with one id, only the first keeps it.
fn without_repeated_ids(mut items: Vec<AppendedItem>) -> Vec<AppendedItem> {
    let mut seen = std::collections::HashSet::with_capacity(items.len());
    for item in &mut items {
        if !seen.insert(item.id.clone()) {
            item.id = item.otherwise.clone();
        }
    }
    items
}

impl From<ConversationError> for Failure {
    fn from(error: ConversationError) -> Self {
        match error {
            ConversationError::NotFound(name) => Self::ConversationNotFound(name),
            ConversationError::ItemNotFound(name) => Self::ItemNotFound(name),
            ConversationError::Locked => Self::ConversationLocked,
            ConversationError::NoRoom(no_room) => Self::NoRoom(no_room),
            ConversationError::Store(error) => error.into(),
            ConversationError::Invalid(_) | ConversationError::Internal => Self::Internal,
        }
    }
}
