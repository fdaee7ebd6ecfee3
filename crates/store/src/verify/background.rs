//! Verifies that the logs of background turns hold whole events, with the numbers that they are found by.

use antiphon_protocol::event::sequence_number;
use antiphon_protocol::id::{ProjectId, ResponseId};
use antiphon_protocol::sse::Decoder;
use uuid::Uuid;

use super::Verifier;
use crate::StoreError;
use crate::background::events::StoredEvents;
use crate::sql::{Columns, Kind, Query, id, number, text};

const CHUNKS: &str = "SELECT id, project, first_sequence, last_sequence, bytes, checksum FROM background_events \
     WHERE (id, project, first_sequence) > ($1, $2, $3) ORDER BY id, project, first_sequence LIMIT $4";

/// For the tests of both engines.
#[cfg(test)]
pub(crate) const STATEMENTS: [&str; 1] = [CHUNKS];

/// How many chunks are read at once.
const PAGE: i64 = 32;

impl Verifier<'_> {
    pub(super) async fn verify_logs(&mut self) -> Result<(), StoreError> {
        const COLUMNS: [Kind; 6] =
            [Kind::Id, Kind::Text, Kind::Number, Kind::Number, Kind::Bytes, Kind::Number];
        let mut last = (Uuid::nil(), String::new(), -1);
        loop {
            let arguments = vec![id(last.0), text(last.1.clone()), number(last.2), number(PAGE)];
            let rows = match self.select(Query { text: CHUNKS, arguments, columns: &COLUMNS }).await {
                Ok(rows) => rows,
                Err(error) => return self.unreadable(None, "the log of background turns", &error).await,
            };
            if rows.is_empty() {
                return Ok(());
            }
            for row in rows {
                let (of, first, is_intact) = verify_chunk(row)?;
                last = (of.1.uuid(), of.0.as_str().to_owned(), first);
                if !is_intact {
                    self.add(Some(of), format!("its event log is damaged from event {first} on"));
                }
            }
        }
    }
}

/// Whose chunk it is, its first number, and whether it holds the events that it should.
fn verify_chunk(mut row: Columns) -> Result<((ProjectId, ResponseId), i64, bool), StoreError> {
    let id = ResponseId::from_uuid(row.id()?);
    let project = ProjectId::new(&row.text()?);
    let stored = StoredEvents::of(row)?;
    let first = stored.first;
    let is_intact = stored.decode(&project, id).is_ok_and(|chunk| {
        let mut decoder = Decoder::new(usize::MAX);
        decoder.push(chunk.bytes);
        let numbers: Vec<u64> = std::iter::from_fn(|| decoder.next_frame().ok().flatten())
            .filter_map(|frame| sequence_number(&frame.data()?))
            .collect();
        numbers.first() == Some(&chunk.first)
            && numbers.last() == Some(&chunk.last)
            && numbers.is_sorted_by(|a, b| a < b)
            && decoder.finish().is_none()
    });
    Ok(((project, id), first, is_intact))
}
