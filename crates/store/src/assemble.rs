//! Encoding and decoding that all engines share: chains and single values.

use std::borrow::Cow;
use std::time::Duration;

use antiphon_protocol::id::{ItemId, ResponseId};
use antiphon_protocol::usage::MAX_TOKENS;
use antiphon_protocol::{item, json};

use crate::{ChainQuery, ItemLocation, Status, StoreError, StoredTurn};

/// The highest cost of a turn, a million dollars: prices and counts have no bound that keeps sums from overflowing.
pub const MAX_COST_NANO_USD: u64 = 1_000_000_000_000_000;

/// The columns of a turn, from a table named `r`. Both engines read them in this order. A deleted response reads as expired
/// since forever, and so does a turn in a conversation: whether it is visible, the row has to say each time.
macro_rules! turn_columns {
    () => {
        "r.id, r.parent_id, r.depth, r.status, r.account, r.boundary, r.upstream_id, r.model, \
         CASE WHEN r.deleted_at IS NULL AND r.conversation_id IS NULL THEN r.expires_at ELSE 0 END, r.input, r.referenced, \
         r.output, r.deletes, r.checksum"
    };
}

pub(crate) use turn_columns;

/// A status is stored as its index in this list.
const STATUSES: [Status; 4] = [Status::Completed, Status::Incomplete, Status::Failed, Status::Cancelled];

pub(crate) fn status_code(status: Status) -> i16 {
    (0..).zip(STATUSES).find(|(_, listed)| *listed == status).map_or(i16::MAX, |(code, _)| code)
}

pub(crate) fn status_of(code: i16) -> Result<Status, StoreError> {
    let listed = usize::try_from(code).ok().and_then(|code| STATUSES.get(code));
    listed.copied().ok_or_else(|| StoreError::Corrupt(format!("unknown status {code}")))
}

/// Positions as a JSON array; `None` if there are none.
pub(crate) fn encode_positions(positions: &[u32]) -> Option<Vec<u8>> {
    (!positions.is_empty()).then(|| format!("{positions:?}").into_bytes())
}

pub(crate) fn decode_positions(array: Option<&[u8]>) -> Result<Vec<u32>, StoreError> {
    let array = array.unwrap_or(b"[]");
    json::elements(array)
        .map(|range| std::str::from_utf8(&array[range.ok()?]).ok()?.parse().ok())
        .collect::<Option<_>>()
        .ok_or_else(|| {
            StoreError::Corrupt("the positions of referenced items are not a list of numbers".into())
        })
}

/// What one deleted item takes: the turn's id and a position.
const LOCATION_BYTES: usize = 20;

pub(crate) fn encode_locations(locations: &[ItemLocation]) -> Vec<u8> {
    let encoded = |location: &ItemLocation| {
        let mut bytes = [0; LOCATION_BYTES];
        bytes[..16].copy_from_slice(location.turn.uuid().as_bytes());
        bytes[16..].copy_from_slice(&location.position.to_be_bytes());
        bytes
    };
    locations.iter().flat_map(encoded).collect()
}

pub(crate) fn decode_locations(bytes: &[u8]) -> Result<Vec<ItemLocation>, StoreError> {
    let (locations, rest) = bytes.as_chunks::<LOCATION_BYTES>();
    if !rest.is_empty() {
        return Err(StoreError::Corrupt("the list of deleted items is cut off".into()));
    }
    let decoded = |bytes: &[u8; LOCATION_BYTES]| {
        let (turn, position) = bytes.split_first_chunk::<16>()?;
        let turn = ResponseId::from_uuid(uuid::Uuid::from_bytes(*turn));
        Some(ItemLocation { turn, position: u32::from_be_bytes(position.try_into().ok()?) })
    };
    Ok(locations.iter().filter_map(decoded).collect())
}

/// A count of tokens as it is stored, bounded so that sums can't overflow.
pub(crate) fn tokens(count: u64) -> i64 {
    i64::try_from(count.min(MAX_TOKENS)).unwrap_or(i64::MAX)
}

/// A cost as it is stored, bounded for the same reason.
pub(crate) fn nano_usd(cost: u64) -> i64 {
    i64::try_from(cost.min(MAX_COST_NANO_USD)).unwrap_or(i64::MAX)
}

/// Replaces NULs, which texts from outside may hold and PostgreSQL can't store.
pub(crate) fn without_nul(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { text.replace('\0', "\u{fffd}").into() } else { text.into() }
}

pub(crate) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// Sorts the turns of a chain, newest first, and checks that none is missing.
pub(crate) fn whole_chain(
    mut turns: Vec<StoredTurn>,
    query: &ChainQuery,
) -> Result<Vec<StoredTurn>, StoreError> {
    if turns.is_empty() {
        return Ok(turns);
    }
    // Sorted here because a sort in SQL would move the items, too.
    turns.sort_by_key(|turn| std::cmp::Reverse(turn.depth));
    let is_linked =
        |pair: &[StoredTurn]| pair[0].parent == Some(pair[1].id) && pair[0].depth == pair[1].depth + 1;
    let is_whole = turns.first().is_some_and(|newest| newest.id == query.from)
        && turns.windows(2).all(is_linked)
        && turns.last().is_none_or(|oldest| {
            oldest.parent.is_none() == (oldest.depth == 1)
                && (oldest.parent.is_none() || turns.len() == query.max_turns as usize)
        });
    if is_whole { Ok(turns) } else { Err(StoreError::BrokenChain { response: query.from }) }
}

/// The ids of items, read from the items themselves: that saves an index from responses to items.
pub(crate) fn item_ids(array: &[u8]) -> impl Iterator<Item = ItemId> {
    json::elements(array).map_while(Result::ok).filter_map(|range| item::id(&array[range]))
}
