//! What can be written.

use antiphon_protocol::id::{ProjectId, ResponseId};

use crate::sql::Statement;
use crate::{LogRow, Purged, Record, Reservation, Reserved, Settlement, Timestamp};

/// A write.
#[derive(Debug)]
pub(crate) enum Operation {
    Record(Box<Record>),
    Delete {
        project: ProjectId,
        id: ResponseId,
        now: Timestamp,
    },
    Purge {
        now: Timestamp,
        log_before: Option<Timestamp>,
        max_rows: u32,
    },
    /// A row of the request log, and what its turn came to, if it has reserved.
    Log(Box<LogRow>, Option<Settlement>),
    Reserve(Box<Reservation>),
    Settle(Settlement),
    Sweep {
        now: Timestamp,
        max_rows: u32,
    },
    /// One that all engines understand.
    Execute(Statement),
    ExecuteAll(Vec<Statement>),
    /// Writes what any other operation would need to be able to write.
    Check,
}

/// What a write did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// Whether a row was written.
    Changed(bool),
    Purged(Purged),
    Reserved(Box<Reserved>),
    /// How many reservations were given back.
    Swept(u64),
}

// === impl Operation ===

impl Operation {
    /// What a turn came to that is written with it.
    pub(crate) fn settlement(&self) -> Option<&Settlement> {
        match self {
            Self::Record(record) => record.settlement.as_ref(),
            Self::Log(_, settlement) => settlement.as_ref(),
            Self::Settle(settlement) => Some(settlement),
            Self::Delete { .. }
            | Self::Purge { .. }
            | Self::Reserve(_)
            | Self::Sweep { .. }
            | Self::Execute(_)
            | Self::ExecuteAll(_)
            | Self::Check => None,
        }
    }

    /// The time that its row in the log bears.
    pub(super) fn logged_at(&self) -> Option<Timestamp> {
        match self {
            Self::Record(record) => Some(record.log.at),
            Self::Log(row, _) => Some(row.at),
            _ => None,
        }
    }

    /// Whether nobody waits for it, and it is kept while the store is away.
    pub(super) fn is_unawaited(&self) -> bool {
        matches!(self, Self::Log(..) | Self::Settle(_))
    }

    /// About how much it writes.
    pub(super) fn size_bytes(&self) -> usize {
        match self {
            Self::Record(record) => {
                let response = &record.response;
                response.turn.input.len() + response.turn.output.len() + response.body.len()
            }
            Self::Delete { .. }
            | Self::Purge { .. }
            | Self::Log(..)
            | Self::Reserve(_)
            | Self::Settle(_)
            | Self::Sweep { .. }
            | Self::Execute(_)
            | Self::ExecuteAll(_)
            | Self::Check => 0,
        }
    }
}
