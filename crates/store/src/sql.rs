//! Statements that both engines understand, with their arguments and the rows that they return. Private to this crate.
//!
//! Such a statement is written once, in the file of the trait that it serves. Its parameters are `$1`, `$2`, … in the order
//! of their first use, as SQLite numbers them by that. It needs no casts: PostgreSQL is told the type of each argument.

use antiphon_protocol::id::{ConversationId, ProjectId};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::StoreError;
use crate::group::Group;

/// The type of a column, or of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Id,
    Text,
    Number,
    Bytes,
}

/// One value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cell {
    Null,
    Id(Uuid),
    Text(String),
    Number(i64),
    Bytes(Vec<u8>),
}

/// A value for a parameter, and its type, which a null doesn't tell.
pub(crate) type Argument = (Cell, Kind);

/// A write: a transaction of its own, or part of one with others.
#[derive(Debug, Clone)]
pub(crate) struct Statement {
    pub(crate) text: &'static str,
    pub(crate) arguments: Vec<Argument>,
    /// Runs in the same transaction, but only if this statement changed a row.
    pub(crate) then: Option<Box<Statement>>,
    /// The conversation whose row it changes, and its project.
    pub(crate) conversation: Option<(Uuid, String)>,
}

/// A read, and the types of the columns that it returns.
#[derive(Debug, Clone)]
pub(crate) struct Query {
    pub(crate) text: &'static str,
    pub(crate) arguments: Vec<Argument>,
    pub(crate) columns: &'static [Kind],
}

/// An engine, as far as the traits that are implemented once for both need it.
pub(crate) trait Database: Send + Sync {
    /// Where writes are queued.
    fn group(&self) -> &Group;

    /// Reads for the gateway itself.
    fn query(&self, query: Query) -> impl Future<Output = Result<Vec<Columns>, StoreError>> + Send {
        self.query_for(None, query)
    }

    /// Reads for a project, which takes turns with the others.
    fn query_for(
        &self,
        project: Option<&ProjectId>,
        query: Query,
    ) -> impl Future<Output = Result<Vec<Columns>, StoreError>> + Send;
}

/// The values of one row, taken one after the other.
#[derive(Debug)]
pub(crate) struct Columns(std::vec::IntoIter<Cell>);

pub(crate) fn text(text: impl Into<String>) -> Argument {
    (Cell::text(text.into()), Kind::Text)
}

pub(crate) fn optional_text(text: Option<String>) -> Argument {
    (text.map_or(Cell::Null, Cell::text), Kind::Text)
}

pub(crate) fn number(number: impl Into<Option<i64>>) -> Argument {
    (number.into().map_or(Cell::Null, Cell::Number), Kind::Number)
}

pub(crate) fn bytes(bytes: Vec<u8>) -> Argument {
    (Cell::Bytes(bytes), Kind::Bytes)
}

pub(crate) fn optional_bytes(bytes: Option<Vec<u8>>) -> Argument {
    (bytes.map_or(Cell::Null, Cell::Bytes), Kind::Bytes)
}

pub(crate) fn id(id: Uuid) -> Argument {
    (Cell::Id(id), Kind::Id)
}

pub(crate) fn optional_id(id: Option<Uuid>) -> Argument {
    (id.map_or(Cell::Null, Cell::Id), Kind::Id)
}

// === impl Statement ===

impl Statement {
    pub(crate) fn new(text: &'static str, arguments: Vec<Argument>) -> Self {
        Self { text, arguments, then: None, conversation: None }
    }

    /// Says which conversation it changes: transactions lock the rows of conversations in one order.
    #[must_use]
    pub(crate) fn changing(mut self, conversation: ConversationId, project: &ProjectId) -> Self {
        self.conversation = Some((conversation.uuid(), project.to_string()));
        self
    }

    /// Adds a statement to the end, which runs in the same transaction if this one changes a row.
    #[must_use]
    pub(crate) fn then(mut self, next: Self) -> Self {
        self.then = Some(Box::new(match self.then.take() {
            Some(then) => then.then(next),
            None => next,
        }));
        self
    }

    pub(crate) fn size_bytes(&self) -> usize {
        let arguments = self.with_followers().flat_map(|statement| &statement.arguments);
        arguments.map(|(value, _)| value.size_bytes()).sum()
    }

    /// This statement, then those that follow it.
    pub(crate) fn with_followers(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |statement| statement.then.as_deref())
    }
}

/// Every statement that is written once: tests prepare each on both engines.
#[cfg(test)]
pub(crate) fn shared_statements() -> impl Iterator<Item = &'static str> {
    [
        crate::responses::STATEMENTS.as_slice(),
        &crate::conversations::STATEMENTS,
        &crate::conversations::INDEXED,
        &crate::request_log::STATEMENTS,
        &crate::usage::STATEMENTS,
        &crate::overview::STATEMENTS,
        &crate::account_sums::STATEMENTS,
        &crate::log_search::STATEMENTS,
        &crate::inspection::STATEMENTS,
        &crate::limits::STATEMENTS,
        &crate::replicas::STATEMENTS,
        &crate::background::STATEMENTS,
        &crate::accounts::STATEMENTS,
        &crate::keys::STATEMENTS,
        &crate::key_clients::STATEMENTS,
        &crate::admin::STATEMENTS,
        &crate::sessions::STATEMENTS,
        &crate::sign_ins::STATEMENTS,
        &crate::audit::STATEMENTS,
        &crate::store::STATEMENTS,
        &crate::probe::STATEMENTS,
        &crate::purge::STATEMENTS,
        &crate::verify::RESPONSES,
        &crate::verify::ITEMS,
        &crate::verify::CONVERSATIONS,
        &crate::verify::BACKGROUND,
        &crate::migration::STATEMENTS,
    ]
    .into_iter()
    .flatten()
    .copied()
}

// === impl Columns ===

impl Columns {
    pub(crate) fn new(cells: Vec<Cell>) -> Self {
        Self(cells.into_iter())
    }

    fn next(&mut self) -> Cell {
        self.0.next().unwrap_or(Cell::Null)
    }

    /// The values as arguments of a statement that writes them unchanged.
    pub(crate) fn into_arguments(self, kinds: &[Kind]) -> Vec<Argument> {
        self.0.zip(kinds.iter().copied()).collect()
    }

    /// The remaining values; `None` if the first of them is null.
    pub(crate) fn optional_rest(self) -> Option<Self> {
        let is_there = self.0.as_slice().first().is_some_and(|cell| *cell != Cell::Null);
        is_there.then_some(self)
    }

    pub(crate) fn optional_text(&mut self) -> Option<String> {
        if let Cell::Text(text) = self.next() { Some(text) } else { None }
    }

    pub(crate) fn text(&mut self) -> Result<String, StoreError> {
        self.optional_text().ok_or_else(missing)
    }

    pub(crate) fn optional_number(&mut self) -> Option<i64> {
        if let Cell::Number(number) = self.next() { Some(number) } else { None }
    }

    pub(crate) fn number(&mut self) -> Result<i64, StoreError> {
        self.optional_number().ok_or_else(missing)
    }

    /// A number of a column that is wider than what is written to it.
    pub(crate) fn integer<T: TryFrom<i64>>(&mut self) -> Result<T, StoreError> {
        T::try_from(self.number()?).map_err(|_| StoreError::Corrupt("a number is out of range".into()))
    }

    pub(crate) fn id(&mut self) -> Result<Uuid, StoreError> {
        if let Cell::Id(id) = self.next() { Ok(id) } else { Err(missing()) }
    }

    pub(crate) fn optional_id(&mut self) -> Option<Uuid> {
        if let Cell::Id(id) = self.next() { Some(id) } else { None }
    }

    pub(crate) fn optional_bytes(&mut self) -> Option<Vec<u8>> {
        if let Cell::Bytes(bytes) = self.next() { Some(bytes) } else { None }
    }
}

fn missing() -> StoreError {
    StoreError::Corrupt("a column is null or of an unexpected type".into())
}

// === impl Cell ===

impl Cell {
    /// A text. PostgreSQL can't store a NUL, so both engines store U+FFFD instead.
    pub(crate) fn text(text: String) -> Self {
        Self::Text(if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text })
    }

    pub(crate) fn size_bytes(&self) -> usize {
        match self {
            Self::Null => 1,
            Self::Number(_) => 8,
            Self::Id(_) => 16,
            Self::Text(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }

    pub(crate) fn digest(&self, digest: &mut Sha256) {
        let mut add = |kind: u8, bytes: &[u8]| {
            digest.update([kind]);
            digest.update((bytes.len() as u64).to_le_bytes());
            digest.update(bytes);
        };
        match self {
            Self::Null => add(0, b""),
            Self::Id(id) => add(1, id.as_bytes()),
            Self::Text(text) => add(2, text.as_bytes()),
            Self::Number(number) => add(3, &number.to_le_bytes()),
            Self::Bytes(bytes) => add(4, bytes),
        }
    }
}
