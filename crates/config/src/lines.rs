//! The lines of a TOML file that keys are written in.

use std::ops::Range;

use toml_edit::{Array, ArrayOfTables, ImDocument, Item, TableLike, Value};

/// A file whose keys are looked up.
pub(super) struct Lines {
    document: ImDocument<String>,
}

/// What a key can lead into.
enum Node<'a> {
    Table(&'a dyn TableLike),
    Tables(&'a ArrayOfTables),
    List(&'a Array),
    Scalar,
}

type Found<'a> = (Option<Range<usize>>, Node<'a>);

// === impl Lines ===

impl Lines {
    /// `None` if the text is not valid TOML.
    pub(super) fn parse(text: &str) -> Option<Self> {
        Some(Self { document: ImDocument::parse(text.to_owned()).ok()? })
    }

    /// The line of a key such as `accounts[1].base_url`, or else of the innermost table that lacks it.
    pub(super) fn find(&self, key: &str) -> Option<usize> {
        let mut node = Node::Table(self.document.as_table());
        let mut last = None;
        for segment in key.split(['.', '[', ']']).filter(|segment| !segment.is_empty()) {
            let Some((span, next)) = node.step(segment) else { break };
            last = span.or(last);
            node = next;
        }
        let start = last?.start;
        Some(self.document.raw().get(..start)?.matches('\n').count() + 1)
    }
}

// === impl Node ===

impl<'a> Node<'a> {
    fn of_item(item: &'a Item) -> Self {
        match item {
            Item::Table(table) => Self::Table(table),
            Item::ArrayOfTables(tables) => Self::Tables(tables),
            Item::Value(value) => Self::of_value(value),
            Item::None => Self::Scalar,
        }
    }

    fn of_value(value: &'a Value) -> Self {
        match value {
            Value::InlineTable(table) => Self::Table(table),
            Value::Array(list) => Self::List(list),
            _ => Self::Scalar,
        }
    }

    fn step(&self, segment: &str) -> Option<Found<'a>> {
        match self {
            Self::Table(table) => {
                let (key, item) = table.get_key_value(segment)?;
                Some((key.span().or_else(|| item.span()), Self::of_item(item)))
            }
            Self::Tables(tables) => {
                let table = tables.get(segment.parse().ok()?)?;
                Some((table.span(), Self::Table(table)))
            }
            Self::List(list) => {
                let value = list.get(segment.parse().ok()?)?;
                Some((value.span(), Self::of_value(value)))
            }
            Self::Scalar => None,
        }
    }
}
