//! How the events of a log are stored: compressed, and with a checksum, so that damaged ones are an error.

use std::cell::RefCell;

use antiphon_protocol::id::{ProjectId, ResponseId};

use super::{EventChunk, TurnLease};
use crate::body::{self, Encoder};
use crate::sql::Columns;
use crate::{StoreError, checksum};

thread_local! {
    static ENCODER: RefCell<Encoder> = RefCell::new(Encoder::new());
}

/// A chunk of events as it is stored.
pub(crate) struct StoredEvents {
    pub(crate) first: i64,
    last: i64,
    stored: Vec<u8>,
    /// `None` for events of earlier versions, which are not compressed.
    checksum: Option<i64>,
}

/// The bytes to store, and their checksum.
pub(super) fn encode(lease: &TurnLease, chunk: &EventChunk) -> (Vec<u8>, i64) {
    let stored = ENCODER.with_borrow_mut(|encoder| encoder.encode(&chunk.bytes));
    let checksum = checksum::of_events(&lease.project, lease.id, (chunk.first, chunk.last), &stored);
    (stored, checksum)
}

// === impl StoredEvents ===

impl StoredEvents {
    /// From a row with the numbers of the first and the last event, the events and their checksum.
    pub(crate) fn of(mut row: Columns) -> Result<Self, StoreError> {
        let (first, last) = (row.number()?, row.number()?);
        let stored = row.optional_bytes().unwrap_or_default();
        Ok(Self { first, last, stored, checksum: row.optional_number() })
    }

    /// An error that names the events if they are damaged.
    pub(crate) fn decode(self, project: &ProjectId, id: ResponseId) -> Result<EventChunk, StoreError> {
        let first = self.first;
        self.try_decode(project, id).ok_or_else(|| {
            StoreError::Corrupt(format!("the event log of {id} is damaged from event {first} on"))
        })
    }

    fn try_decode(self, project: &ProjectId, id: ResponseId) -> Option<EventChunk> {
        let (first, last) = (self.first.try_into().ok()?, self.last.try_into().ok()?);
        let Some(expected) = self.checksum else {
            return Some(EventChunk { first, last, bytes: self.stored.into() });
        };
        let found = checksum::of_events(project, id, (first, last), &self.stored);
        let bytes = (found == expected).then(|| body::decode(&self.stored).ok())??;
        Some(EventChunk { first, last, bytes })
    }
}
