//! The writes that are queued, and their outcomes.

use antiphon_protocol::id::ProjectId;

use crate::limits::Sweep;
use crate::purge::{Leaf, PurgeStep};
use crate::sql::Statement;
use crate::{
    Appended, BackgroundEnd, BackgroundResult, LogRow, Post, Purged, Record, Reservation, Reserved,
    Settlement, Timestamp,
};

/// An operation with more rows is [large](Operation::is_large): to write them takes about as long as a commit.
const LARGE_ROWS: usize = 1024;

/// A write.
#[derive(Debug)]
pub(crate) enum Operation {
    Record(Box<Record>),
    Post(Box<Post>),
    /// Written only if the turn's lease still holds.
    EndBackground(Box<BackgroundEnd>),
    Purge(Box<PurgeStep>),
    /// A row of the request log, with the settlement of its turn if that holds a reservation.
    Log(Box<LogRow>, Option<Settlement>),
    Reserve(Box<Reservation>),
    Settle(Settlement),
    Sweep(Sweep),
    /// Statements that all engines understand.
    Execute(Vec<Statement>),
    /// The same, if nobody waits for it.
    ExecuteSoon(Box<Statement>),
}

/// What a write has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// Whether a row was changed.
    Changed(bool),
    /// What was removed, and what can be looked at next.
    Purged(Purged, Vec<Leaf>),
    Reserved(Box<Reserved>),
    Appended(Appended),
    /// What became of the append; `None` if the turn's lease no longer held.
    Ended(Option<Appended>),
    /// How many reservations were released.
    Swept(u64),
}

// === impl Operation ===

impl Operation {
    /// The settlement that is written with it in any case.
    pub(crate) fn settlement(&self) -> Option<&Settlement> {
        match self {
            Self::Record(record) => record.settlement.as_ref(),
            Self::Log(_, settlement) => settlement.as_ref(),
            Self::Settle(settlement) => Some(settlement),
            Self::Post(_)
            | Self::EndBackground(_)
            | Self::Purge(_)
            | Self::Reserve(_)
            | Self::Sweep(_)
            | Self::Execute(_)
            | Self::ExecuteSoon(_) => None,
        }
    }

    /// The project of a client that it is written for, as far as it may be large.
    pub(super) fn project(&self) -> Option<&ProjectId> {
        match self {
            Self::Record(record) => Some(&record.project),
            Self::Post(post) => Some(&post.project),
            Self::EndBackground(end) => Some(&end.lease.project),
            _ => None,
        }
    }

    /// The time of its row in the log.
    pub(super) fn logged_at(&self) -> Option<Timestamp> {
        match self {
            Self::Record(record) => Some(record.log.at),
            Self::EndBackground(end) => Some(end.log().at),
            Self::Log(row, _) => Some(row.at),
            _ => None,
        }
    }

    /// Whether nobody waits for it: then it is kept while the store is unavailable.
    pub(super) fn is_unawaited(&self) -> bool {
        matches!(self, Self::Log(..) | Self::Settle(_) | Self::ExecuteSoon(_))
    }

    /// Whether it may be there twice if it is written although its caller was told of a failure.
    pub(super) fn is_void_unheard(&self) -> bool {
        match self {
            Self::Execute(_) | Self::Post(_) => true,
            Self::Record(record) => record.append.is_some(),
            _ => false,
        }
    }

    /// Whether turns can't be served without it, be they in conversations or not.
    pub(super) fn is_vital(&self) -> bool {
        match self {
            Self::Record(record) => record.append.is_none(),
            Self::Log(..) | Self::Reserve(_) | Self::Settle(_) => true,
            Self::Post(_)
            | Self::EndBackground(_)
            | Self::Purge(_)
            | Self::Sweep(_)
            | Self::Execute(_)
            | Self::ExecuteSoon(_) => false,
        }
    }

    /// Whether it would keep others waiting that are in its transaction.
    pub(super) fn is_large(&self) -> bool {
        self.rows() > LARGE_ROWS
    }

    /// Roughly how many rows it inserts. A client may send as many small items as its body has room for.
    pub(super) fn rows(&self) -> usize {
        match self {
            Self::Record(record) => rows_of_record(record),
            Self::Post(post) => post.turns.len() + post.append.items.len(),
            Self::EndBackground(end) => match &end.result {
                BackgroundResult::Stored(record) => rows_of_record(record),
                BackgroundResult::Kept { .. } => 1,
            },
            _ => 1,
        }
    }

    /// Roughly how much it writes.
    pub(super) fn size_bytes(&self) -> usize {
        match self {
            Self::Record(record) => size_of_record(record),
            Self::Post(post) => post.turns.iter().map(|turn| turn.input.len()).sum(),
            Self::EndBackground(end) => match &end.result {
                BackgroundResult::Stored(record) => size_of_record(record),
                BackgroundResult::Kept { response, .. } => response.len(),
            },
            Self::Execute(statements) => statements.iter().map(Statement::size_bytes).sum(),
            Self::Purge(_)
            | Self::Log(..)
            | Self::Reserve(_)
            | Self::Settle(_)
            | Self::Sweep(_)
            | Self::ExecuteSoon(_) => 0,
        }
    }
}

fn rows_of_record(record: &Record) -> usize {
    1 + record.items.len() + record.append.as_ref().map_or(0, |append| append.items.len())
}

fn size_of_record(record: &Record) -> usize {
    let response = &record.response;
    response.turn.input.len() + response.turn.output.len() + response.body.len()
}
