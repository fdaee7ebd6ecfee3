//! Verifies background turns: that they are what was stored, and that their logs hold whole events, with the numbers that they are
//! found by.

use antiphon_protocol::event::sequence_number;
use antiphon_protocol::id::{ProjectId, ResponseId};
use antiphon_protocol::sse::Decoder;
use uuid::Uuid;

use super::Verifier;
use crate::background::events::StoredEvents;
use crate::sql::{Columns, Kind, Query, id, number, text};
use crate::{StoreError, checksum};

const CHUNKS: &str = "SELECT id, project, first_sequence, last_sequence, bytes, checksum FROM background_events \
     WHERE (id, project, first_sequence) > ($1, $2, $3) ORDER BY id, project, first_sequence LIMIT $4";

const TURNS: &str = "SELECT id, project, request, headers, input, response, stored, ended_at, request_checksum, \
     queued_checksum, ended_checksum FROM background_turns WHERE (id, project) > ($1, $2) ORDER BY id, project LIMIT $3";

/// For the tests of both engines.
#[cfg(test)]
pub(crate) const STATEMENTS: [&str; 2] = [CHUNKS, TURNS];

/// How many chunks are read at once.
const PAGE: i64 = 32;
/// How many turns are read at once. Each may have a large request.
const TURNS_PAGE: i64 = 8;

impl Verifier<'_> {
    pub(super) async fn verify_turns(&mut self) -> Result<(), StoreError> {
        const COLUMNS: [Kind; 11] = [
            Kind::Id,
            Kind::Text,
            Kind::Bytes,
            Kind::Text,
            Kind::Bytes,
            Kind::Bytes,
            Kind::Number,
            Kind::Number,
            Kind::Number,
            Kind::Number,
            Kind::Number,
        ];
        let mut last = (Uuid::nil(), String::new());
        loop {
            let arguments = vec![id(last.0), text(last.1.clone()), number(TURNS_PAGE)];
            let rows = match self.select(Query { text: TURNS, arguments, columns: &COLUMNS }).await {
                Ok(rows) => rows,
                Err(error) => return self.unreadable(None, "the background turns", &error).await,
            };
            if rows.is_empty() {
                return Ok(());
            }
            for row in rows {
                let (turn, damaged) = verify_turn(row)?;
                last = (turn.1.uuid(), turn.0.as_str().to_owned());
                for what in damaged {
                    self.add(Some(turn.clone()), format!("its {what} as a background turn is damaged"));
                }
            }
        }
    }

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
                let (turn, first, is_intact) = verify_chunk(row)?;
                last = (turn.1.uuid(), turn.0.as_str().to_owned(), first);
                if !is_intact {
                    self.add(Some(turn), format!("its event log is damaged from event {first} on"));
                }
            }
        }
    }
}

/// Whose turn it is, and what of it is not what was stored.
fn verify_turn(mut row: Columns) -> Result<((ProjectId, ResponseId), Vec<&'static str>), StoreError> {
    let id = ResponseId::from_uuid(row.id()?);
    let project = ProjectId::new(&row.text()?);
    let request = row.optional_bytes().unwrap_or_default();
    let (headers, input) = (row.text()?, row.optional_bytes());
    let response = row.optional_bytes().unwrap_or_default();
    let (is_stored, has_ended) = (row.number()? != 0, row.optional_number().is_some());
    let (of_request, of_queued, of_ended) =
        (row.optional_number(), row.optional_number(), row.optional_number());
    let (found, stored) = match has_ended {
        false => (checksum::of_queued(&project, id, &headers, &response), of_queued),
        true => (checksum::of_ended(&project, id, &response), of_ended),
    };
    let mut damaged = Vec::new();
    // The request of a stored response is gone at the end.
    let has_request = !has_ended || !is_stored;
    let found_request = checksum::of_request(&project, id, &request, input.as_deref());
    if has_request && checksum::verify(found_request, of_request).is_err() {
        damaged.push("request");
    }
    if checksum::verify(found, stored).is_err() {
        damaged.push("response");
    }
    Ok(((project, id), damaged))
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
