//! The tables, and their rows in a form that belongs to no engine.

use std::cmp::Ordering;

use sha2::Sha256;

use crate::sql::{Cell, Kind};

/// A table whose rows are copied. Both engines order its rows by key, byte by byte.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    /// How many columns the key has. They come first.
    pub(crate) key: usize,
    pub(crate) columns: &'static [(&'static str, Kind)],
}

pub(crate) type Key = Vec<Cell>;

/// The values of one row, in the order of its table's columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row(pub(crate) Vec<Cell>);

/// In the order of copying. Replicas are not copied, as those of the source do not serve the target, nor are sign-ins that wait.
pub(crate) static TABLES: [Table; 21] = [
    Table {
        name: "responses",
        key: 2,
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
            ("checksum", Kind::Number),
            ("body_checksum", Kind::Number),
            ("deletes", Kind::Bytes),
        ],
    },
    Table {
        name: "items",
        key: 2,
        columns: &[
            ("item_id", Kind::Text),
            ("project", Kind::Text),
            ("response_id", Kind::Id),
            ("position", Kind::Number),
        ],
    },
    Table {
        name: "request_log",
        key: 2,
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
            ("key_id", Kind::Text),
            ("attempts", Kind::Number),
            ("cost_nano_usd", Kind::Number),
            ("estimated", Kind::Number),
            ("sent_us", Kind::Number),
            ("attempt_log", Kind::Text),
            ("reasoning", Kind::Text),
        ],
    },
    Table {
        name: "background_turns",
        key: 2,
        columns: &[
            ("id", Kind::Id),
            ("project", Kind::Text),
            ("status", Kind::Number),
            ("streamed", Kind::Number),
            ("stored", Kind::Number),
            ("key_id", Kind::Text),
            ("created_at", Kind::Number),
            ("deadline", Kind::Number),
            ("request", Kind::Bytes),
            ("headers", Kind::Text),
            ("input", Kind::Bytes),
            ("response", Kind::Bytes),
            ("owner", Kind::Id),
            ("epoch", Kind::Number),
            ("lease_until", Kind::Number),
            ("attempts", Kind::Number),
            ("cancel_requested", Kind::Number),
            ("last_sequence", Kind::Number),
            ("upstream_account", Kind::Text),
            ("upstream_id", Kind::Text),
            ("ended_at", Kind::Number),
            ("kept_until", Kind::Number),
            ("size_bytes", Kind::Number),
            ("request_checksum", Kind::Number),
            ("queued_checksum", Kind::Number),
            ("ended_checksum", Kind::Number),
        ],
    },
    Table {
        name: "background_events",
        key: 3,
        columns: &[
            ("id", Kind::Id),
            ("project", Kind::Text),
            ("first_sequence", Kind::Number),
            ("last_sequence", Kind::Number),
            ("bytes", Kind::Bytes),
            ("checksum", Kind::Number),
        ],
    },
    Table {
        name: "usage_rollups",
        key: 6,
        columns: &[
            ("part", Kind::Number),
            ("starts_at", Kind::Number),
            ("project", Kind::Text),
            ("key_id", Kind::Text),
            ("account", Kind::Text),
            ("model", Kind::Text),
            ("turns", Kind::Number),
            ("failed_turns", Kind::Number),
            ("unpriced_turns", Kind::Number),
            ("input_tokens", Kind::Number),
            ("cached_tokens", Kind::Number),
            ("output_tokens", Kind::Number),
            ("reasoning_tokens", Kind::Number),
            ("cost_nano_usd", Kind::Number),
            ("estimated_turns", Kind::Number),
        ],
    },
    Table {
        name: "outcome_rollups",
        key: 4,
        columns: &[
            ("part", Kind::Number),
            ("starts_at", Kind::Number),
            ("model", Kind::Text),
            ("outcome", Kind::Text),
            ("turns", Kind::Number),
            ("unpriced_turns", Kind::Number),
            ("input_tokens", Kind::Number),
            ("cached_tokens", Kind::Number),
            ("output_tokens", Kind::Number),
            ("reasoning_tokens", Kind::Number),
            ("cost_nano_usd", Kind::Number),
        ],
    },
    Table {
        name: "latency_rollups",
        key: 4,
        columns: &[
            ("part", Kind::Number),
            ("starts_at", Kind::Number),
            ("measure", Kind::Number),
            ("up_to_us", Kind::Number),
            ("turns", Kind::Number),
        ],
    },
    Table {
        name: "account_rollups",
        key: 3,
        columns: &[
            ("part", Kind::Number),
            ("starts_at", Kind::Number),
            ("account", Kind::Text),
            ("turns", Kind::Number),
            ("failed_turns", Kind::Number),
        ],
    },
    Table {
        name: "accounts",
        key: 1,
        columns: &[
            ("name", Kind::Text),
            ("identity", Kind::Text),
            ("changed_at", Kind::Number),
            ("cooling_until", Kind::Number),
            ("cooling_reason", Kind::Text),
            ("disabled_at", Kind::Number),
            ("paused_at", Kind::Number),
        ],
    },
    Table {
        name: "credentials",
        key: 1,
        columns: &[
            ("account", Kind::Text),
            ("origin", Kind::Text),
            ("sealed", Kind::Bytes),
            ("refreshed_at", Kind::Number),
            ("locked_by", Kind::Id),
            ("locked_until", Kind::Number),
        ],
    },
    Table {
        name: "admin_tokens",
        key: 1,
        columns: &[("name", Kind::Text), ("hash", Kind::Bytes), ("created_at", Kind::Number)],
    },
    Table {
        name: "sessions",
        key: 1,
        columns: &[
            ("id", Kind::Id),
            ("hash", Kind::Bytes),
            ("role", Kind::Text),
            ("address", Kind::Text),
            ("created_at", Kind::Number),
            ("expires_at", Kind::Number),
            ("operator", Kind::Text),
        ],
    },
    Table {
        name: "counters",
        key: 3,
        columns: &[
            ("scope", Kind::Text),
            ("rule", Kind::Text),
            ("window_start", Kind::Number),
            ("window_end", Kind::Number),
            ("used", Kind::Number),
            ("held", Kind::Number),
        ],
    },
    Table {
        name: "reservations",
        key: 1,
        columns: &[
            ("id", Kind::Id),
            ("expires_at", Kind::Number),
            ("swept_at", Kind::Number),
            ("holds", Kind::Text),
            ("replica", Kind::Id),
        ],
    },
    Table {
        name: "keys",
        key: 1,
        columns: &[
            ("id", Kind::Id),
            ("name", Kind::Text),
            ("project", Kind::Text),
            ("hash", Kind::Bytes),
            ("prefix", Kind::Text),
            ("models", Kind::Text),
            ("limits", Kind::Text),
            ("created_at", Kind::Number),
            ("expires_at", Kind::Number),
            ("revoked_at", Kind::Number),
            ("last_used_at", Kind::Number),
            ("previous_hash", Kind::Bytes),
            ("previous_until", Kind::Number),
        ],
    },
    Table {
        name: "key_clients",
        key: 2,
        columns: &[("key_id", Kind::Id), ("client", Kind::Text), ("used_at", Kind::Number)],
    },
    Table {
        name: "audit",
        key: 2,
        columns: &[
            ("at", Kind::Number),
            ("id", Kind::Id),
            ("actor", Kind::Text),
            ("action", Kind::Text),
            ("target", Kind::Text),
            ("detail", Kind::Text),
            ("operator", Kind::Text),
        ],
    },
    Table { name: "changes", key: 1, columns: &[("topic", Kind::Text), ("number", Kind::Number)] },
    Table {
        name: "conversations",
        key: 2,
        columns: &[
            ("id", Kind::Id),
            ("project", Kind::Text),
            ("created_at", Kind::Number),
            ("metadata", Kind::Bytes),
            ("head_id", Kind::Id),
            ("depth", Kind::Number),
            ("version", Kind::Number),
            ("next_position", Kind::Number),
            ("locked_by", Kind::Id),
            ("locked_until", Kind::Number),
            ("deleted_at", Kind::Number),
            ("retention_ms", Kind::Number),
            ("item_count", Kind::Number),
            ("size_bytes", Kind::Number),
            ("used_at", Kind::Number),
        ],
    },
    Table {
        name: "conversation_items",
        key: 3,
        columns: &[
            ("conversation_id", Kind::Id),
            ("project", Kind::Text),
            ("position", Kind::Number),
            ("item_id", Kind::Text),
            ("response_id", Kind::Id),
            ("item_position", Kind::Number),
        ],
    },
];

// === impl Table ===

impl Table {
    /// The columns' names, separated by commas.
    pub(crate) fn column_list(&self) -> String {
        self.columns.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    }

    pub(crate) fn key_columns(&self) -> &'static [(&'static str, Kind)] {
        &self.columns[..self.key]
    }

    /// The names of the columns of the key, separated by commas.
    pub(crate) fn key_list(&self) -> String {
        self.key_columns().iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    }

    pub(crate) fn count_statement(&self) -> String {
        format!("SELECT count(*) FROM {}", self.name)
    }

    pub(crate) fn key_of<'a>(&self, row: &'a Row) -> &'a [Cell] {
        &row.0[..self.key]
    }
}

/// The order of keys in both engines. Keys hold no nulls.
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
    pub(crate) fn size_bytes(&self) -> usize {
        self.0.iter().map(Cell::size_bytes).sum()
    }

    pub(crate) fn digest(&self, digest: &mut Sha256) {
        self.0.iter().for_each(|cell| cell.digest(digest));
    }
}
