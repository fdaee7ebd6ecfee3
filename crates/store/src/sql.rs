//! Statements that both engines understand, and what goes into them and comes out.
//!
//! Tables that no turn waits for are written once, above the engines, with statements that are the same in both: no casts,
//! parameters as `$1`, `$2`, … in the order of their first use.

use async_trait::async_trait;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::StoreError;

/// The type of a column, or of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Id,
    Text,
    Number,
    Bytes,
}

/// One value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cell {
    Null,
    Id(Uuid),
    Text(String),
    Number(i64),
    Bytes(Vec<u8>),
}

/// A value for a parameter; the type is needed for those that are null.
pub(crate) type Argument = (Cell, Kind);

/// A write: a transaction of its own, or part of one with others.
#[derive(Debug, Clone)]
pub struct Statement {
    pub(crate) text: &'static str,
    pub(crate) arguments: Vec<Argument>,
    /// Written with it, if it wrote a row.
    pub(crate) then: Option<Box<Statement>>,
}

/// A read, and the types of the columns that it yields.
#[derive(Debug, Clone)]
pub struct Query {
    pub(crate) text: &'static str,
    pub(crate) arguments: Vec<Argument>,
    pub(crate) columns: &'static [Kind],
}

/// An engine, as far as such statements need one.
#[async_trait]
pub trait Database: Send + Sync {
    /// Whether a row was written, once that is durable.
    async fn execute(&self, statement: Statement) -> Result<bool, StoreError>;

    /// All of them or none, in one transaction; each as if it were the first.
    async fn execute_all(&self, statements: Vec<Statement>) -> Result<(), StoreError>;

    async fn query(&self, query: Query) -> Result<Vec<Columns>, StoreError>;
}

/// The values of one row, taken from the first on.
#[derive(Debug)]
pub struct Columns(std::vec::IntoIter<Cell>);

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

pub(crate) fn id(id: Uuid) -> Argument {
    (Cell::Id(id), Kind::Id)
}

// === impl Statement ===

impl Statement {
    pub(crate) fn new(text: &'static str, arguments: Vec<Argument>) -> Self {
        Self { text, arguments, then: None }
    }

    /// The same, and another one after what it has already, in one transaction; only if this one writes a row.
    #[must_use]
    pub(crate) fn then(mut self, next: Self) -> Self {
        self.then = Some(Box::new(match self.then.take() {
            Some(then) => then.then(next),
            None => next,
        }));
        self
    }

    /// It, and what is to be written with it.
    pub(crate) fn with_followers(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |statement| statement.then.as_deref())
    }
}

/// For the tests of both engines.
#[cfg(test)]
pub(crate) fn shared_statements() -> impl Iterator<Item = &'static str> {
    let of_accounts = crate::accounts::STATEMENTS.into_iter().chain(crate::admin::STATEMENTS);
    let of_keys = crate::audit::STATEMENTS.into_iter().chain(crate::keys::STATEMENTS);
    let of_turns = crate::usage::STATEMENTS.into_iter().chain(crate::limits::STATEMENTS);
    of_accounts.chain(of_keys).chain(of_turns)
}

// === impl Columns ===

impl Columns {
    pub(crate) fn new(cells: Vec<Cell>) -> Self {
        Self(cells.into_iter())
    }

    fn next(&mut self) -> Cell {
        self.0.next().unwrap_or(Cell::Null)
    }

    /// To be written as they were read.
    pub(crate) fn into_arguments(self, kinds: &[Kind]) -> Vec<Argument> {
        self.0.zip(kinds.iter().copied()).collect()
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

    pub(crate) fn id(&mut self) -> Result<Uuid, StoreError> {
        if let Cell::Id(id) = self.next() { Ok(id) } else { Err(missing()) }
    }

    pub(crate) fn optional_bytes(&mut self) -> Option<Vec<u8>> {
        if let Cell::Bytes(bytes) = self.next() { Some(bytes) } else { None }
    }
}

fn missing() -> StoreError {
    StoreError::Corrupt("a value is missing, or of another type".into())
}

// === impl Cell ===

impl Cell {
    /// A text. PostgreSQL can't store a NUL, so in both engines' rows another sign stands for it.
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
