//! The items of a conversation: found by its index, and read from the turns that have them.

use std::collections::HashMap;

use antiphon_protocol::id::{ConversationId, ItemId, ProjectId, ResponseId};
use antiphon_protocol::json;
use antiphon_runtime::offload::{Aborted, offload_if_long};
use bytes::Bytes;

use super::{ConversationItem, ConversationQuery, ItemLocation, ItemPage, PageEnd, statements, stored};
use crate::sql::{Argument, Columns, Database, Kind, Query, id, number, text};
use crate::{ChainQuery, Responses, StoreError};

/// How many ids [`statements::FIND_ITEMS`] takes.
const IDS_AT_ONCE: usize = 8;
const COLUMNS: [Kind; 4] = [Kind::Text, Kind::Number, Kind::Id, Kind::Number];

/// An entry of the index.
struct Entry {
    id: ItemId,
    position: u64,
    location: ItemLocation,
}

pub(super) async fn list<D: Database + Responses>(
    database: &D,
    query: ConversationQuery,
) -> Result<ItemPage, StoreError> {
    let (text, before_first) = match query.descending {
        true => (statements::ITEMS_DESCENDING, i64::MAX),
        false => (statements::ITEMS_ASCENDING, -1),
    };
    let arguments = vec![
        id(query.conversation.uuid()),
        crate::sql::text(query.project.as_str()),
        number(query.after.map_or(before_first, stored)),
        number(i64::from(query.max_items) + 1),
    ];
    let rows = database.query_for(Some(&query.project), Query { text, arguments, columns: &COLUMNS }).await?;
    let mut entries = rows.into_iter().map(entry).collect::<Result<Vec<_>, _>>()?;
    let has_more = entries.len() > query.max_items as usize;
    entries.truncate(query.max_items as usize);
    let count = entries.len();
    let items = read(database, &query.project, entries, query.max_bytes).await?;
    let end = if has_more || items.len() < count { PageEnd::More } else { PageEnd::Last };
    Ok(ItemPage { items, end })
}

pub(super) async fn find<D: Database + Responses>(
    database: &D,
    project: &ProjectId,
    conversation: ConversationId,
    ids: &[ItemId],
) -> Result<Vec<ConversationItem>, StoreError> {
    let key = vec![id(conversation.uuid()), text(project.as_str())];
    let entries = find_entries(database, project, statements::FIND_ITEMS, &key, ids).await?;
    read(database, project, entries, usize::MAX).await
}

/// The items with these ids in any conversation of the project, each once; up to the one that reaches `max_bytes`.
pub(super) async fn find_anywhere<D: Database + Responses>(
    database: &D,
    project: &ProjectId,
    ids: &[ItemId],
    max_bytes: usize,
) -> Result<Vec<ConversationItem>, StoreError> {
    let key = vec![text(project.as_str())];
    let mut entries = find_entries(database, project, statements::FIND_ITEMS_ANYWHERE, &key, ids).await?;
    // Of several conversations, the newest turn counts.
    entries.sort_by(|a, b| (&a.id, b.location).cmp(&(&b.id, a.location)));
    entries.dedup_by(|a, b| a.id == b.id);
    read(database, project, entries, max_bytes).await
}

async fn find_entries<D: Database>(
    database: &D,
    project: &ProjectId,
    statement: &'static str,
    key: &[Argument],
    ids: &[ItemId],
) -> Result<Vec<Entry>, StoreError> {
    let mut entries = Vec::new();
    for some in ids.chunks(IDS_AT_ONCE) {
        // No item has an empty id.
        let ids = some.iter().map(ItemId::as_str).chain(std::iter::repeat("")).take(IDS_AT_ONCE);
        let arguments = key.iter().cloned().chain(ids.map(text)).collect();
        let query = Query { text: statement, arguments, columns: &COLUMNS };
        for row in database.query_for(Some(project), query).await? {
            entries.push(entry(row)?);
        }
    }
    Ok(entries)
}

fn entry(mut row: Columns) -> Result<Entry, StoreError> {
    let item = row.text()?;
    let id = ItemId::new(&item).ok_or_else(|| StoreError::Corrupt(format!("{item:?} is no item's id")))?;
    let position = row.integer()?;
    let turn = ResponseId::from_uuid(row.id()?);
    Ok(Entry { id, position, location: ItemLocation { turn, position: row.integer()? } })
}

/// Reads the items turn by turn, up to the one that reaches `max_bytes`.
async fn read<D: Responses>(
    database: &D,
    project: &ProjectId,
    entries: Vec<Entry>,
    max_bytes: usize,
) -> Result<Vec<ConversationItem>, StoreError> {
    let mut positions: HashMap<ResponseId, Vec<u32>> = HashMap::new();
    for entry in &entries {
        positions.entry(entry.location.turn).or_default().push(entry.location.position);
    }
    let mut found: HashMap<ItemLocation, Bytes> = HashMap::new();
    let (mut items, mut size_bytes) = (Vec::with_capacity(entries.len()), 0);
    for Entry { id, position, location } in entries {
        if let Some(wanted) = positions.remove(&location.turn) {
            found.extend(read_turn(database, project, location.turn, wanted).await?);
        }
        let item = found.remove(&location).ok_or_else(|| {
            StoreError::Corrupt(format!("item {id} of a conversation is not in its turn"))
                .of_response(location.turn)
        })?;
        size_bytes += item.len();
        items.push(ConversationItem { id, position, location, item });
        if size_bytes >= max_bytes {
            break;
        }
    }
    Ok(items)
}

/// Copies the items at these positions out of a turn, be that visible or not.
async fn read_turn<D: Responses>(
    database: &D,
    project: &ProjectId,
    turn: ResponseId,
    mut wanted: Vec<u32>,
) -> Result<Vec<(ItemLocation, Bytes)>, StoreError> {
    let query = ChainQuery { from: turn, visible_at: None, max_turns: 1 };
    let Some(stored) = database.load_chain(project, query).await?.into_iter().next() else {
        return Err(StoreError::BrokenChain { response: turn });
    };
    wanted.sort_unstable();
    let size_bytes = stored.items_bytes();
    let copy = move || {
        let arrays = [&stored.input, &stored.output];
        let items = arrays
            .into_iter()
            .flat_map(|array| json::elements(array).map_while(Result::ok).map(move |range| &array[range]));
        let is_wanted = |(position, _): &(u32, &[u8])| wanted.binary_search(position).is_ok();
        let located = |(position, item)| (ItemLocation { turn, position }, Bytes::copy_from_slice(item));
        (0..).zip(items).filter(is_wanted).map(located).collect()
    };
    offload_if_long(size_bytes, copy).await.map_err(|Aborted| StoreError::unread(turn))
}
