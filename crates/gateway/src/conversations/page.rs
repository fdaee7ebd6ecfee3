//! Lists of items, as clients see them.

use antiphon_protocol::include::HiddenParts;
use antiphon_protocol::{item, json};
use antiphon_store::{ConversationItem, ConversationQuery, PageEnd, StoredConversation};

use super::{ConversationError, Conversations};

/// A page ends early with the item that reaches this: a client asks for the next one.
const MAX_PAGE_BYTES: usize = 8 << 20;

/// Which items of a conversation to list, and how.
#[derive(Debug, Clone)]
pub struct ItemQuery {
    pub limit: u32,
    pub descending: bool,
    /// The id of the last item of the page before.
    pub after: Option<String>,
}

/// A list of items.
#[derive(Debug)]
pub struct ShownItems {
    pub items: Vec<ConversationItem>,
    pub has_more: bool,
}

// === impl Conversations ===

impl Conversations {
    pub async fn list(
        &self,
        conversation: &StoredConversation,
        query: &ItemQuery,
    ) -> Result<ShownItems, ConversationError> {
        let after = match &query.after {
            None => None,
            Some(name) => Some(self.item(conversation, name).await?.position),
        };
        let query = ConversationQuery {
            project: conversation.project.clone(),
            conversation: conversation.id,
            after,
            descending: query.descending,
            max_items: query.limit,
            max_bytes: MAX_PAGE_BYTES,
        };
        let page = self.store().list_conversation_items(query).await?;
        Ok(ShownItems { items: page.items, has_more: page.end == PageEnd::More })
    }
}

// === impl ShownItems ===

impl ShownItems {
    pub fn size_bytes(&self) -> usize {
        self.items.iter().map(|item| item.item.len()).sum()
    }

    /// The list as JSON.
    pub fn to_json(&self, hidden: HiddenParts) -> Vec<u8> {
        let mut out = br#"{"object":"list","data":["#.to_vec();
        for (n, item) in self.items.iter().enumerate() {
            if n > 0 {
                out.push(b',');
            }
            out.extend(item_to_json(item, hidden));
        }
        out.extend_from_slice(br#"],"first_id":"#);
        write_id(&mut out, self.items.first());
        out.extend_from_slice(br#","last_id":"#);
        write_id(&mut out, self.items.last());
        out.extend_from_slice(format!(r#","has_more":{}}}"#, self.has_more).as_bytes());
        out
    }
}

/// An item as JSON, without the parts that its reader did not ask for.
pub fn item_to_json(item: &ConversationItem, hidden: HiddenParts) -> Vec<u8> {
    item::listed(&hidden.hide(&item.item), &item.id)
}

fn write_id(out: &mut Vec<u8>, item: Option<&ConversationItem>) {
    match item {
        Some(item) => json::write_string(out, item.id.as_str()),
        None => out.extend_from_slice(b"null"),
    }
}
