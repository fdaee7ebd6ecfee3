//! The tables as both engines have them, and their rows as values of no engine.

use std::cmp::Ordering;

use sha2::{Digest, Sha256};
use uuid::Uuid;

/// A table whose rows are copied. In both engines its key orders rows byte by byte.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    /// The first two are the key.
    pub(crate) columns: &'static [(&'static str, Kind)],
}

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

pub(crate) type Key = [Cell; 2];

/// The values of one row, in the order of its table's columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row(pub(crate) Vec<Cell>);

/// In the order in which they are copied.
pub(crate) static TABLES: [Table; 3] = [
    Table {
        name: "responses",
        columns: &[
            ("id", Kind::Id),
            ("project", Kind::Text),
            ("parent_id", Kind::Id),
            ("conversation_id", Kind::Text),
            ("account", Kind::Text),
            ("boundary", Kind::Text),
            ("upstream_id", Kind::Text),
            ("model", Kind::Text),
            ("status", Kind::Number),
            ("depth", Kind::Number),
            ("created_at", Kind::Number),
            ("expires_at", Kind::Number),
            ("deleted_at", Kind::Number),
            ("input", Kind::Bytes),
            ("referenced", Kind::Bytes),
            ("output", Kind::Bytes),
            ("body", Kind::Bytes),
        ],
    },
    Table {
        name: "items",
        columns: &[
            ("item_id", Kind::Text),
            ("project", Kind::Text),
            ("response_id", Kind::Id),
            ("position", Kind::Number),
        ],
    },
    Table {
        name: "request_log",
        columns: &[
            ("at", Kind::Number),
            ("response_id", Kind::Id),
            ("project", Kind::Text),
            ("account", Kind::Text),
            ("model", Kind::Text),
            ("transport", Kind::Text),
            ("outcome", Kind::Text),
            ("http_status", Kind::Number),
            ("code", Kind::Text),
            ("depth", Kind::Number),
            ("input_tokens", Kind::Number),
            ("cached_tokens", Kind::Number),
            ("output_tokens", Kind::Number),
            ("reasoning_tokens", Kind::Number),
            ("duration_us", Kind::Number),
            ("first_event_us", Kind::Number),
        ],
    },
];

// === impl Table ===

impl Table {
    /// The columns' names, separated by commas.
    pub(crate) fn column_list(&self) -> String {
        self.columns.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    }

    pub(crate) fn key_columns(&self) -> [(&'static str, Kind); 2] {
        [self.columns[0], self.columns[1]]
    }
}

// === impl Cell ===

impl Cell {
    /// A text. PostgreSQL can't store a NUL, so in both engines' rows another sign stands for it.
    pub(crate) fn text(text: String) -> Self {
        Self::Text(if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text })
    }

    fn size_bytes(&self) -> usize {
        match self {
            Self::Null => 1,
            Self::Number(_) => 8,
            Self::Id(_) => 16,
            Self::Text(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }

    fn digest(&self, digest: &mut Sha256) {
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

/// As both engines order keys, which hold no nulls.
pub(crate) fn compare(a: &[Cell], b: &[Cell]) -> Ordering {
    let one = |(a, b): (&Cell, &Cell)| match (a, b) {
        (Cell::Id(a), Cell::Id(b)) => a.as_bytes().cmp(b.as_bytes()),
        (Cell::Text(a), Cell::Text(b)) => a.as_bytes().cmp(b.as_bytes()),
        (Cell::Number(a), Cell::Number(b)) => a.cmp(b),
        _ => Ordering::Equal,
    };
    a.iter().zip(b).map(one).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

// === impl Row ===

impl Row {
    pub(crate) fn key(&self) -> &[Cell] {
        &self.0[..2]
    }

    pub(crate) fn owned_key(&self) -> Key {
        [self.0[0].clone(), self.0[1].clone()]
    }

    pub(crate) fn size_bytes(&self) -> usize {
        self.0.iter().map(Cell::size_bytes).sum()
    }

    pub(crate) fn digest(&self, digest: &mut Sha256) {
        self.0.iter().for_each(|cell| cell.digest(digest));
    }
}
