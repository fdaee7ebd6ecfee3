//! Verifies that conversations lead to their turns, and their items to items with their ids.

use antiphon_protocol::id::{ConversationId, ItemId, ProjectId, ResponseId};
use antiphon_protocol::{item, json};
use uuid::Uuid;

use super::{PAGE, Verifier, VerifyProgress, VerifyStep};
use crate::StoreError;
use crate::sql::{Columns, Kind, Query, id, number, text};

const COUNT: &str = "SELECT count(*) FROM conversation_items";

/// The depth of the head is that of its row; both are 0 where there is none.
const WRONG_HEADS: &str = "SELECT c.id, c.project FROM conversations c WHERE c.deleted_at IS NULL AND c.depth <> \
     coalesce((SELECT r.depth FROM responses r WHERE r.id = c.head_id AND r.project = c.project), 0) \
     ORDER BY c.id, c.project LIMIT $1";

const PAGE_OF_ITEMS: &str = "SELECT i.conversation_id, i.project, i.position, i.item_id, i.response_id, i.item_position \
     FROM conversation_items i WHERE (i.conversation_id, i.project, i.position) > ($1, $2, $3) \
     AND EXISTS (SELECT 1 FROM conversations c WHERE c.id = i.conversation_id AND c.project = i.project \
     AND c.deleted_at IS NULL) ORDER BY i.conversation_id, i.project, i.position LIMIT $4";

const ARRAYS: &str = "SELECT input, output FROM responses WHERE id = $1 AND project = $2";

/// For the tests of both engines.
#[cfg(test)]
pub(crate) const STATEMENTS: [&str; 4] = [COUNT, WRONG_HEADS, PAGE_OF_ITEMS, ARRAYS];

/// An entry of the index.
struct Entry {
    conversation: Uuid,
    project: String,
    position: i64,
    item: String,
    turn: Uuid,
    item_position: u32,
}

/// The items of the turn that was read last: neighbours in a conversation are often of one turn.
#[derive(Default)]
struct LastTurn {
    key: Option<(Uuid, String)>,
    /// The own id of each item; `None` for a turn that is missing.
    ids: Option<Vec<Option<ItemId>>>,
}

impl Verifier<'_> {
    pub(super) async fn verify_conversations(&mut self) -> Result<(), StoreError> {
        let arguments = vec![number(PAGE)];
        let query = Query { text: WRONG_HEADS, arguments, columns: &[Kind::Id, Kind::Text] };
        match self.select(query).await {
            Ok(rows) => {
                for mut row in rows {
                    let (conversation, project) = (ConversationId::from_uuid(row.id()?), row.text()?);
                    let problem =
                        format!("the newest turn of {conversation} of project {project} is missing");
                    self.add(None, problem);
                }
            }
            Err(error) => self.unreadable(None, "the table of conversations", &error).await?,
        }
        self.verify_conversation_items().await
    }

    async fn verify_conversation_items(&mut self) -> Result<(), StoreError> {
        let of_rows = self.count(COUNT).await?;
        self.report.conversation_items = of_rows;
        let (mut last, mut rows) = ((Uuid::nil(), String::new(), -1), 0);
        let mut turn = LastTurn::default();
        loop {
            let arguments = vec![id(last.0), text(last.1.clone()), number(last.2), number(PAGE)];
            let columns = &[Kind::Id, Kind::Text, Kind::Number, Kind::Text, Kind::Id, Kind::Number];
            let entries = match self.select(Query { text: PAGE_OF_ITEMS, arguments, columns }).await {
                Ok(rows) => rows.into_iter().map(entry).collect::<Result<Vec<_>, _>>()?,
                Err(error) => {
                    return self.unreadable(None, "the index of conversations' items", &error).await;
                }
            };
            let Some(newest) = entries.last() else { return Ok(()) };
            last = (newest.conversation, newest.project.clone(), newest.position);
            for entry in &entries {
                self.verify_conversation_item(entry, &mut turn).await?;
                rows += 1;
                (self.progress)(VerifyProgress { step: VerifyStep::ConversationItems, rows, of_rows });
            }
        }
    }

    async fn verify_conversation_item(
        &mut self,
        entry: &Entry,
        last: &mut LastTurn,
    ) -> Result<(), StoreError> {
        let key = (entry.turn, entry.project.clone());
        if last.key.as_ref() != Some(&key) {
            let arguments = vec![id(entry.turn), text(entry.project.clone())];
            let query = Query { text: ARRAYS, arguments, columns: &[Kind::Bytes, Kind::Bytes] };
            let Ok(rows) = self.select(query).await else {
                // The turn itself is reported already.
                return self.side.renew().await;
            };
            *last = LastTurn { key: Some(key), ids: rows.into_iter().next().map(ids) };
        }
        let conversation = ConversationId::from_uuid(entry.conversation);
        let problem = match &last.ids {
            None => format!("{conversation} leads from {} to it, but it is missing", entry.item),
            Some(ids) if entry.is_among(ids) => return Ok(()),
            Some(_) => format!(
                "{conversation} leads from {} to position {}, where another item is",
                entry.item, entry.item_position
            ),
        };
        self.add(Some((ProjectId::new(&entry.project), ResponseId::from_uuid(entry.turn))), problem);
        Ok(())
    }
}

// === impl Entry ===

impl Entry {
    /// An item without an id of its own, or with one that another item had already, has a derived one.
    fn is_among(&self, ids: &[Option<ItemId>]) -> bool {
        let found = usize::try_from(self.item_position).ok().and_then(|position| ids.get(position));
        let is_derived = || ItemId::new(&self.item).is_some_and(|id| id.as_derived().is_some());
        found.is_some_and(|own| own.as_ref().is_some_and(|own| own.as_str() == self.item) || is_derived())
    }
}

fn entry(mut row: Columns) -> Result<Entry, StoreError> {
    Ok(Entry {
        conversation: row.id()?,
        project: row.text()?,
        position: row.number()?,
        item: row.text()?,
        turn: row.id()?,
        item_position: row.integer()?,
    })
}

fn ids(mut row: Columns) -> Vec<Option<ItemId>> {
    let mut array = || row.optional_bytes().unwrap_or_default();
    let arrays = [array(), array()];
    let items = arrays.iter().flat_map(|array| {
        json::elements(array).map_while(Result::ok).map(move |range| item::id(&array[range]))
    });
    items.collect()
}
