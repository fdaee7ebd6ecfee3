//! Checksums of responses, of background turns and of event logs: a row that is damaged on disk is an error instead of a wrong answer.
//!
//! They cover all that a row is written with. What a deletion changes is left out.

use antiphon_protocol::id::{ProjectId, ResponseId};
use crc32fast::Hasher;

use crate::assemble::{encode_locations, status_code};
use crate::{StoreError, StoredTurn, Timestamp};

/// The checksum of a row without its body.
pub(crate) fn of_turn(project: &ProjectId, turn: &StoredTurn) -> i64 {
    let mut sum = Sum::of_key(project, turn.id);
    sum.add_optional(turn.parent.map(|parent| *parent.uuid().as_bytes()));
    sum.add(&turn.depth.to_le_bytes());
    sum.add(&status_code(turn.status).to_le_bytes());
    for text in [&turn.account, &turn.boundary, &turn.model] {
        sum.add(text.as_bytes());
    }
    sum.add_optional(turn.upstream_id.as_ref());
    sum.add(&turn.input);
    for position in &turn.referenced {
        sum.add(&position.to_le_bytes());
    }
    sum.add(&turn.output);
    if let Some(deletes) = &turn.deletes {
        sum.add(&encode_locations(deletes));
    }
    sum.finish()
}

/// The checksum of a row's body, as it is stored.
pub(crate) fn of_body(project: &ProjectId, id: ResponseId, created_at: Timestamp, body: &[u8]) -> i64 {
    let mut sum = Sum::of_key(project, id);
    sum.add(&created_at.unix_ms().to_le_bytes());
    sum.add(body);
    sum.finish()
}

/// The checksum of what a background turn is run from, without its headers.
pub(crate) fn of_request(project: &ProjectId, id: ResponseId, request: &[u8], input: Option<&[u8]>) -> i64 {
    let mut sum = Sum::of_key(project, id);
    sum.add(request);
    sum.add_optional(input);
    sum.finish()
}

/// The checksum of the rest of a background turn that has not ended.
pub(crate) fn of_queued(project: &ProjectId, id: ResponseId, headers: &str, response: &[u8]) -> i64 {
    let mut sum = Sum::of_key(project, id);
    sum.add(headers.as_bytes());
    sum.add(response);
    sum.finish()
}

/// The checksum of what an ended background turn keeps of its response.
pub(crate) fn of_ended(project: &ProjectId, id: ResponseId, response: &[u8]) -> i64 {
    let mut sum = Sum::of_key(project, id);
    sum.add(response);
    sum.finish()
}

/// The checksum of neighbouring events of a log, as they are stored.
pub(crate) fn of_events(
    project: &ProjectId,
    id: ResponseId,
    (first, last): (u64, u64),
    stored: &[u8],
) -> i64 {
    let mut sum = Sum::of_key(project, id);
    sum.add(&first.to_le_bytes());
    sum.add(&last.to_le_bytes());
    sum.add(stored);
    sum.finish()
}

/// Compares the checksum of what was read with the one that was stored with it, if there is one.
pub(crate) fn verify(found: i64, stored: Option<i64>) -> Result<(), StoreError> {
    if stored.is_none_or(|stored| stored == found) {
        return Ok(());
    }
    Err(StoreError::Corrupt("its checksum is wrong".into()))
}

struct Sum(Hasher);

impl Sum {
    fn of_key(project: &ProjectId, id: ResponseId) -> Self {
        let mut sum = Self(Hasher::new());
        sum.add(project.as_str().as_bytes());
        sum.add(id.uuid().as_bytes());
        sum
    }

    /// Adds the length as well, so that no bytes can move from one value to the next.
    fn add(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    fn add_optional(&mut self, bytes: Option<impl AsRef<[u8]>>) {
        match bytes {
            Some(bytes) => self.add(bytes.as_ref()),
            None => self.0.update(&u64::MAX.to_le_bytes()),
        }
    }

    fn finish(self) -> i64 {
        self.0.finalize().into()
    }
}
