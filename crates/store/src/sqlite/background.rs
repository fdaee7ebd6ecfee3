//! The end of a background turn, with what belongs to it.

use rusqlite::Connection;

use super::insert::{insert_log, insert_record};
use super::{limits, statement};
use crate::background;
use crate::body::Encoder;
use crate::{BackgroundEnd, BackgroundResult};

/// Whether the turn's lease still held. Else nothing is written.
pub(super) fn end(
    connection: &Connection,
    end: &BackgroundEnd,
    encoder: &mut Encoder,
) -> rusqlite::Result<bool> {
    if !statement::execute(connection, &background::end(end))? {
        return Ok(false);
    }
    if let Some(settlement) = end.settlement() {
        limits::settle(connection, settlement)?;
    }
    match &end.result {
        BackgroundResult::Stored(record) => insert_record(connection, record, None, encoder)?,
        BackgroundResult::Kept { log, .. } => insert_log(connection, log)?,
    }
    Ok(true)
}
