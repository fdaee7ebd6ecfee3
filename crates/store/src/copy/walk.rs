//! Reads two databases side by side, row by row.

use super::table::{Key, Row, Table, compare};
use super::{PAGE_BOUNDS, Side};
use crate::StoreError;

/// The rows with one key: the source's, the target's, or both.
pub(super) type Pair = (Option<Row>, Option<Row>);

/// A table of both databases, in the order of its keys. Holds at most a page of each.
pub(super) struct Pairs<'a> {
    source: Walk<'a>,
    target: Walk<'a>,
}

/// The rows of a table, one after the other.
struct Walk<'a> {
    table: &'static Table,
    side: &'a dyn Side,
    page: std::iter::Peekable<std::vec::IntoIter<Row>>,
    last: Option<Key>,
    is_over: bool,
}

// === impl Pairs ===

impl<'a> Pairs<'a> {
    pub(super) fn new(table: &'static Table, source: &'a dyn Side, target: &'a dyn Side) -> Self {
        Self { source: Walk::new(table, source), target: Walk::new(table, target) }
    }

    /// `None` at the end of both. Misses rows that are inserted meanwhile with a key that was passed.
    pub(super) async fn next(&mut self) -> Result<Option<Pair>, StoreError> {
        let table = self.source.table;
        let order = match (self.source.peek().await?, self.target.peek().await?) {
            (Some(row), Some(other)) => compare(table.key_of(row), table.key_of(other)),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (None, None) => return Ok(None),
        };
        let row = if order.is_le() { self.source.page.next() } else { None };
        let other = if order.is_ge() { self.target.page.next() } else { None };
        Ok(Some((row, other)))
    }
}

// === impl Walk ===

impl<'a> Walk<'a> {
    fn new(table: &'static Table, side: &'a dyn Side) -> Self {
        Self { table, side, page: Vec::new().into_iter().peekable(), last: None, is_over: false }
    }

    async fn peek(&mut self) -> Result<Option<&Row>, StoreError> {
        if self.page.peek().is_none() && !self.is_over {
            let page = self.side.page(self.table, self.last.take(), PAGE_BOUNDS).await?;
            self.last = page.last().map(|row| self.table.key_of(row).to_vec());
            self.is_over = page.is_empty();
            self.page = page.into_iter().peekable();
        }
        Ok(self.page.peek())
    }
}
