//! The end of a background turn, with what belongs to it.

use rusqlite::Connection;

use super::insert::insert_log;
use super::{conversations, limits, statement};
use crate::background;
use crate::body::Encoder;
use crate::{Appended, BackgroundEnd, BackgroundResult};

/// What became of its append; `None` if the turn's lease no longer held. Then nothing is written, nor after a conflict.
pub(super) fn end(
    connection: &Connection,
    end: &BackgroundEnd,
    encoder: &mut Encoder,
) -> rusqlite::Result<Option<Appended>> {
    if !end.appends() {
        return write(connection, end, encoder);
    }
    connection.execute_batch("SAVEPOINT ending")?;
    let ended = write(connection, end, encoder)?;
    if ended == Some(Appended::Conflict) {
        connection.execute_batch("ROLLBACK TO ending")?;
    }
    connection.execute_batch("RELEASE ending")?;
    Ok(ended)
}

fn write(
    connection: &Connection,
    end: &BackgroundEnd,
    encoder: &mut Encoder,
) -> rusqlite::Result<Option<Appended>> {
    if !statement::execute(connection, &background::end(end))? {
        return Ok(None);
    }
    let appended = match &end.result {
        BackgroundResult::Stored(record) => conversations::record(connection, record, encoder)?,
        BackgroundResult::Kept { log, .. } => insert_log(connection, log).map(|()| Appended::Done)?,
    };
    if let Some(settlement) = end.settlement().filter(|_| appended != Appended::Conflict) {
        limits::settle(connection, settlement)?;
    }
    Ok(Some(appended))
}
