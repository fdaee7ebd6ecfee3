//! The finished output items of a reply, which are kept until its turn is recorded.

use antiphon_protocol::event::output_index;
use antiphon_protocol::json;
use bytes::Bytes;

use super::record::Items;

pub struct Kept {
    items: Items,
    size_bytes: usize,
    /// `None` keeps none.
    max_bytes: Option<usize>,
}

// === impl Kept ===

impl Kept {
    pub fn new(max_bytes: Option<usize>) -> Self {
        Self { items: Items::new(), size_bytes: 0, max_bytes }
    }

    /// Whether items are kept at all.
    pub fn is_wanted(&self) -> bool {
        self.max_bytes.is_some()
    }

    pub fn items(&self) -> &Items {
        &self.items
    }

    /// The memory that it takes.
    pub fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// Keeps the item of an event. `false` once all of them take more than they may.
    pub fn keep(&mut self, data: &[u8]) -> bool {
        let Some(max_bytes) = self.max_bytes else { return true };
        let Some(item) = json::member(data, "item") else { return true };
        // Clients read text that is not UTF-8 like this, too.
        let item = String::from_utf8_lossy(item);
        self.size_bytes += item.len() + size_of::<((u64, usize), Bytes)>();
        if self.size_bytes > max_bytes {
            return false;
        }
        let last = || self.items.last_key_value().map_or(0, |((position, _), _)| *position);
        let place = (output_index(data).unwrap_or_else(last), self.items.len());
        self.items.insert(place, Bytes::copy_from_slice(item.as_bytes()));
        true
    }
}
