//! Posting items, and deleting one: turns that nobody served.

use std::collections::HashMap;

use antiphon_protocol::conversation::PostedItems;
use antiphon_protocol::id::{ItemId, ProjectId, ResponseId};
use antiphon_protocol::{item, json};
use antiphon_runtime::offload::offload_if_long;
use antiphon_store::{
    Append, Appended, AppendedItem, ConversationItem, FoundItems, ItemLocation, Post, Status,
    StoredConversation, StoredTurn,
};
use bytes::Bytes;
use rand::RngExt;

use super::room::Grown;
use super::{ConversationError, Conversations, ShownItems, parse_id};

/// A turn that nobody served ends with the item that reaches one of these, so that a page of items reads little beside them.
const MAX_TURN_ITEMS: usize = 256;
const MAX_TURN_BYTES: usize = 256 << 10;
/// The largest stored items that a request may reference, all together.
const MAX_REFERENCED_BYTES: usize = 8 << 20;

/// Items that a client posts to a conversation.
pub struct PostRequest {
    pub project: ProjectId,
    /// The conversation's id as the client wrote it.
    pub conversation: String,
    pub items: PostedItems,
}

/// An item with its id, ready to be stored.
#[derive(Debug, Clone)]
struct Draft {
    id: ItemId,
    /// Its id if another item has that one.
    otherwise: ItemId,
    item: Bytes,
    has_own_id: bool,
}

// === impl Conversations ===

impl Conversations {
    /// Appends items to a conversation.
    pub async fn post(&self, request: PostRequest) -> Result<ShownItems, ConversationError> {
        let PostRequest { project, conversation: name, items } = request;
        // Before anything is prepared for one that does not exist.
        let id = self.load(&project, &name).await?.id;
        let drafts = self.drafts(&project, items).await?;
        let mut head = self.queues.reach_head(&project, id).await;
        loop {
            let conversation = self.load(&project, &name).await?;
            let (fresh, mut shown) = self.without_known(&conversation, &drafts).await?;
            if self.append(&conversation, None, &fresh, &mut shown).await? {
                return Ok(ShownItems { items: shown.into_iter().flatten().collect(), has_more: false });
            }
            head.pause().await?;
        }
    }

    /// Creates a conversation with these items.
    pub(super) async fn begin_with(
        &self,
        conversation: &StoredConversation,
        items: PostedItems,
    ) -> Result<(), ConversationError> {
        let drafts = self.drafts(&conversation.project, items).await?;
        let (fresh, mut shown) = self.without_known(conversation, &drafts).await?;
        match self.append(conversation, Some(conversation), &fresh, &mut shown).await? {
            true => Ok(()),
            false => Err(ConversationError::Internal),
        }
    }

    /// Deletes an item. What was continued before still has it.
    pub async fn delete_item(
        &self,
        project: &ProjectId,
        name: &str,
        item: &str,
    ) -> Result<StoredConversation, ConversationError> {
        let mut head = self.queues.reach_head(project, parse_id(name)?).await;
        loop {
            let conversation = self.load(project, name).await?;
            let found = self.item(&conversation, item).await?;
            let turn = self.turn(&conversation, None, Vec::new(), vec![found.location]);
            let post = self.to_post(&conversation, vec![turn], Vec::new());
            if self.is_done(Post { deletes: Some(found.position), ..post }, &conversation).await? {
                return Ok(conversation);
            }
            head.pause().await?;
        }
    }

    /// Gives each item an id, and replaces references by what they name.
    async fn drafts(
        &self,
        project: &ProjectId,
        posted: PostedItems,
    ) -> Result<Vec<Draft>, ConversationError> {
        let named = &posted.scan.references;
        let unknown = |id: &str| ConversationError::item_not_found(id);
        let ids = named.iter().map(|named| ItemId::new(&named.id).ok_or_else(|| unknown(&named.id)));
        let ids: Vec<ItemId> = ids.collect::<Result<_, _>>()?;
        let mut replaced = HashMap::new();
        if !ids.is_empty() {
            let now = self.clock.now();
            match self.chains.load_items(project, &ids, now, MAX_REFERENCED_BYTES).await? {
                FoundItems::TooLarge { size_bytes } => {
                    return Err(ConversationError::references_too_large(size_bytes, MAX_REFERENCED_BYTES));
                }
                FoundItems::All(found) => {
                    for (named, found) in named.iter().zip(found) {
                        match found {
                            // Reasoning that is not stored, or not with more than was posted, is kept as it came.
                            found if named.is_partial => {
                                let whole = found.filter(|found| item::sealed(&found.item).is_some());
                                replaced.extend(whole.map(|found| (named.position, found.item)));
                            }
                            Some(found) => drop(replaced.insert(named.position, found.item)),
                            None => return Err(unknown(&named.id)),
                        }
                    }
                }
            }
        }
        let mint = self.mint();
        let array = posted.array;
        let size_bytes = array.len();
        let prepare = move || Draft::all(&array, &replaced, mint);
        offload_if_long(size_bytes, prepare).await.map_err(|_| ConversationError::Internal)
    }

    /// An id for a turn that nobody served.
    fn mint(&self) -> ResponseId {
        ResponseId::mint(self.clock.now().unix_ms().unsigned_abs(), &rand::rng().random())
    }

    /// The drafts that are to be added. An item that the conversation has already is not added again; the places of the others
    /// in the reply are still empty.
    async fn without_known<'a>(
        &self,
        conversation: &StoredConversation,
        drafts: &'a [Draft],
    ) -> Result<(Vec<(usize, &'a Draft)>, Vec<Option<ConversationItem>>), ConversationError> {
        let with_id: Vec<ItemId> =
            drafts.iter().filter(|draft| draft.has_own_id).map(|draft| draft.id.clone()).collect();
        let found = match conversation.head {
            Some(_) if !with_id.is_empty() => {
                self.store().find_conversation_items(&conversation.project, conversation.id, &with_id).await?
            }
            _ => Vec::new(),
        };
        let known: HashMap<&ItemId, &ConversationItem> = found.iter().map(|item| (&item.id, item)).collect();
        let mut own: HashMap<&ItemId, &Bytes> = HashMap::new();
        let (mut fresh, mut shown) = (Vec::with_capacity(drafts.len()), vec![None; drafts.len()]);
        for (n, draft) in drafts.iter().enumerate() {
            let earlier = known.get(&draft.id).map(|known| &known.item);
            let earlier = earlier.or_else(|| own.get(&draft.id).copied()).filter(|_| draft.has_own_id);
            match earlier {
                None => {
                    own.insert(&draft.id, &draft.item);
                    fresh.push((n, draft));
                }
                Some(earlier) if draft.says_the_same_as(earlier) => {
                    shown[n] = known.get(&draft.id).map(|known| (*known).clone());
                }
                Some(_) => return Err(ConversationError::duplicate(draft.id.as_str())),
            }
        }
        Ok((fresh, shown))
    }

    /// `false` if the conversation has changed, or a turn runs in it. `begins` is the conversation if it is to be created.
    async fn append(
        &self,
        conversation: &StoredConversation,
        begins: Option<&StoredConversation>,
        drafts: &[(usize, &Draft)],
        shown: &mut [Option<ConversationItem>],
    ) -> Result<bool, ConversationError> {
        if drafts.is_empty() {
            return Ok(true);
        }
        let size_bytes = drafts.iter().map(|(_, draft)| draft.item.len() as u64).sum::<u64>();
        let grown = Grown {
            items: conversation.items + drafts.len() as u64,
            bytes: conversation.size_bytes + size_bytes,
            added_bytes: size_bytes + begins.map_or(0, |begun| begun.size_bytes),
        };
        self.check_room(&conversation.project, grown).await?;
        let (mut turns, mut items): (Vec<StoredTurn>, _) = (Vec::new(), Vec::with_capacity(drafts.len()));
        let mut rest = drafts;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(turn_len(rest));
            rest = later;
            let own = now.iter().map(|(_, draft)| &draft.item[..]);
            let input = antiphon_protocol::response::array(own);
            let turn = self.turn(conversation, turns.last(), input, Vec::new());
            for (position, (n, draft)) in (0..).zip(now) {
                let location = ItemLocation { turn: turn.id, position };
                let at = conversation.next_position + items.len() as u64;
                let Draft { id, otherwise, item, .. } = (*draft).clone();
                shown[*n] = Some(ConversationItem { id: id.clone(), position: at, location, item });
                items.push(AppendedItem { id, otherwise, location });
            }
            turns.push(turn);
        }
        let post = self.to_post(conversation, turns, items);
        let is_done = self.is_done(Post { begins: begins.cloned(), ..post }, conversation).await;
        if !matches!(is_done, Ok(true)) {
            self.give_back(&conversation.project, grown);
        }
        is_done
    }

    /// A turn that nobody served: it continues another one, or the head.
    fn turn(
        &self,
        conversation: &StoredConversation,
        before: Option<&StoredTurn>,
        input: Vec<u8>,
        deletes: Vec<ItemLocation>,
    ) -> StoredTurn {
        let input = if input.is_empty() { Bytes::from_static(b"[]") } else { input.into() };
        let items = json::elements(&input).count();
        StoredTurn {
            id: self.mint(),
            parent: before.map_or(conversation.head, |before| Some(before.id)),
            depth: before.map_or(conversation.depth, |before| before.depth) + 1,
            status: Status::Completed,
            account: String::new(),
            boundary: String::new(),
            upstream_id: None,
            model: String::new(),
            expires_at: None,
            // The ids name items of the conversation, which no upstream knows.
            referenced: (0..u32::try_from(items).unwrap_or(u32::MAX)).collect(),
            input,
            output: Bytes::from_static(b"[]"),
            deletes: Some(deletes),
        }
    }

    fn to_post(
        &self,
        conversation: &StoredConversation,
        turns: Vec<StoredTurn>,
        items: Vec<AppendedItem>,
    ) -> Post {
        let now = self.clock.now();
        let append = Append {
            conversation: conversation.id,
            holder: None,
            now,
            version: conversation.version,
            first_position: conversation.next_position,
            items,
        };
        let project = conversation.project.clone();
        Post { project, created_at: now, begins: None, turns, deletes: None, append }
    }

    async fn is_done(
        &self,
        post: Post,
        conversation: &StoredConversation,
    ) -> Result<bool, ConversationError> {
        match self.chains.post(post).await? {
            Appended::Done => Ok(true),
            Appended::Conflict => Ok(false),
            Appended::NoParent => Err(ConversationError::Internal),
            Appended::Deleted => Err(ConversationError::NotFound(conversation.id.to_string())),
        }
    }
}

/// How many of these items go into one turn.
fn turn_len(drafts: &[(usize, &Draft)]) -> usize {
    let mut size_bytes = 0;
    let is_within = |(_, draft): &&(usize, &Draft)| {
        let has_room = size_bytes < MAX_TURN_BYTES;
        size_bytes += draft.item.len();
        has_room
    };
    drafts.iter().take(MAX_TURN_ITEMS).take_while(is_within).count()
}

// === impl Draft ===

impl Draft {
    /// Whether another item with its id says the same, be it as it was sent or as it is listed.
    fn says_the_same_as(&self, other: &Bytes) -> bool {
        let parsed =
            |item: &[u8]| serde_json::from_slice::<serde_json::Value>(&item::listed(item, &self.id)).ok();
        self.item == *other || parsed(&self.item).is_some_and(|item| Some(item) == parsed(other))
    }

    /// All items of an array; `replaced` has those that stand in for references, by their positions. Ids are derived from
    /// `mint`, which belongs to no turn.
    fn all(array: &Bytes, replaced: &HashMap<u32, Bytes>, mint: ResponseId) -> Vec<Self> {
        let items = (0..).zip(json::elements(array).map_while(Result::ok));
        let draft = |(position, range)| {
            let item = replaced.get(&position).cloned().unwrap_or_else(|| array.slice(range));
            let derived = item::derived_id(&item, mint, position);
            match item::id(&item) {
                Some(id) => Self { id, otherwise: derived, item, has_own_id: true },
                None => Self {
                    item: item::with_id(&item, &derived).into(),
                    otherwise: derived.clone(),
                    id: derived,
                    has_own_id: false,
                },
            }
        };
        items.map(draft).collect()
    }
}
