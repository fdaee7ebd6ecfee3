//! Conversations: what the endpoints do with them, and the lock that a turn in one holds.
//!
//! A change of a conversation's items is a turn that nobody served. It waits while a turn runs there, as a second turn does.

mod error;
mod lock;
mod page;
mod post;
mod queue;
mod room;

use std::sync::Arc;
use std::time::Duration;

use antiphon_protocol::conversation::NewConversation;
use antiphon_protocol::id::{ConversationId, ItemId, ProjectId};
use antiphon_runtime::{Clock, Tasks};
use antiphon_store::chain::Chains;
use antiphon_store::{ConversationItem, Store, StoredConversation};
use bytes::Bytes;
use rand::RngExt;

pub use self::error::ConversationError;
pub use self::lock::HeldLock;
pub use self::page::{ItemQuery, ShownItems, item_to_json};
pub use self::post::PostRequest;
pub use self::room::{ConversationLimits, NoRoom};

use self::lock::Locks;
use self::queue::Queues;
use self::room::{Grown, ProjectSizes};

/// Everything that the endpoints of conversations share with turns.
pub struct Conversations {
    chains: Arc<Chains>,
    clock: Arc<dyn Clock>,
    tasks: Tasks,
    /// How long responses of deleted conversations live; `None` means for ever.
    retention: Option<Duration>,
    limits: ConversationLimits,
    locks: Arc<Locks>,
    queues: Queues,
    sizes: ProjectSizes,
}

// === impl Conversations ===

impl Conversations {
    pub fn new(
        chains: Arc<Chains>,
        clock: Arc<dyn Clock>,
        tasks: Tasks,
        retention: Option<Duration>,
        limits: ConversationLimits,
    ) -> Self {
        let locks = Arc::new(Locks::new(Arc::clone(chains.store())));
        let (queues, sizes) = (Queues::default(), ProjectSizes::default());
        Self { chains, clock, tasks, retention, limits, locks, queues, sizes }
    }

    fn store(&self) -> &Arc<dyn Store> {
        self.chains.store()
    }

    /// Creates a conversation, with its first items if there are any.
    pub async fn create(
        &self,
        project: &ProjectId,
        request: NewConversation,
    ) -> Result<StoredConversation, ConversationError> {
        let now = self.clock.now();
        let id = ConversationId::mint(now.unix_ms().unsigned_abs(), &rand::rng().random());
        let conversation = StoredConversation::new(id, project, now, request.metadata);
        if request.items.scan.items == 0 {
            let bytes = conversation.size_bytes;
            self.check_room(project, Grown { items: 0, bytes, added_bytes: bytes }).await?;
            self.store().add_conversation(conversation.clone()).await?;
        } else {
            self.begin_with(&conversation, request.items).await?;
        }
        Ok(conversation)
    }

    /// The conversation that a client has named.
    pub async fn load(
        &self,
        project: &ProjectId,
        name: &str,
    ) -> Result<StoredConversation, ConversationError> {
        let conversation = self.store().load_conversation(project, parse_id(name)?).await?;
        conversation.ok_or_else(|| ConversationError::not_found(name))
    }

    /// The conversation of a turn that was queued with its lock. It may have been deleted meanwhile.
    pub async fn load_of_turn(
        &self,
        project: &ProjectId,
        name: &str,
    ) -> Result<StoredConversation, ConversationError> {
        let conversation = self.store().load_conversation_of_turn(project, parse_id(name)?).await?;
        conversation.ok_or_else(|| ConversationError::not_found(name))
    }

    /// Replaces the metadata.
    pub async fn update(
        &self,
        project: &ProjectId,
        name: &str,
        metadata: Bytes,
    ) -> Result<StoredConversation, ConversationError> {
        let conversation = self.load(project, name).await?;
        match self
            .store()
            .set_conversation_metadata(project, conversation.id, metadata.clone(), self.clock.now())
            .await?
        {
            true => Ok(StoredConversation { metadata, ..conversation }),
            false => Err(ConversationError::not_found(name)),
        }
    }

    /// Deletes a conversation. A turn that runs in it is not appended any more.
    pub async fn delete(&self, project: &ProjectId, name: &str) -> Result<ConversationId, ConversationError> {
        let (id, now) = (parse_id(name)?, self.clock.now());
        match self.store().delete_conversation(project, id, now, self.retention).await? {
            true => Ok(id),
            false => Err(ConversationError::not_found(name)),
        }
    }

    /// An item of a conversation.
    pub async fn item(
        &self,
        conversation: &StoredConversation,
        name: &str,
    ) -> Result<ConversationItem, ConversationError> {
        let not_found = || ConversationError::item_not_found(name);
        let id = ItemId::new(name).ok_or_else(not_found)?;
        let found =
            self.store().find_conversation_items(&conversation.project, conversation.id, &[id]).await?;
        found.into_iter().next().ok_or_else(not_found)
    }
}

fn parse_id(name: &str) -> Result<ConversationId, ConversationError> {
    name.parse().map_err(|_| ConversationError::not_found(name))
}
