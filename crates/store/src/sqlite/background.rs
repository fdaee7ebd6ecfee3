//! The end of a background turn, with what belongs to it.

use super::insert::Inserter;
use super::{conversations, limits, statement};
use crate::background;
use crate::{Appended, BackgroundEnd, BackgroundResult};

/// What became of its append; `None` if the turn's lease no longer held. Then nothing is written, nor after a conflict or without a
/// parent.
pub(super) fn end(inserter: &mut Inserter<'_>, end: &BackgroundEnd) -> rusqlite::Result<Option<Appended>> {
    if !end.is_conditional() {
        return write(inserter, end);
    }
    let connection = inserter.connection;
    connection.execute_batch("SAVEPOINT ending")?;
    let ended = write(inserter, end)?;
    if matches!(ended, Some(Appended::Conflict | Appended::NoParent)) {
        connection.execute_batch("ROLLBACK TO ending")?;
    }
    connection.execute_batch("RELEASE ending")?;
    Ok(ended)
}

fn write(inserter: &mut Inserter<'_>, end: &BackgroundEnd) -> rusqlite::Result<Option<Appended>> {
    let connection = inserter.connection;
    if !statement::execute(connection, &background::end(end))? {
        return Ok(None);
    }
    let appended = match &end.result {
        BackgroundResult::Stored(record) => conversations::record(inserter, record)?,
        BackgroundResult::Kept { log, .. } => inserter.log(log).map(|()| Appended::Done)?,
    };
    let is_written = matches!(appended, Appended::Done | Appended::Deleted);
    if let Some(settlement) = end.settlement().filter(|_| is_written) {
        limits::settle(connection, settlement)?;
    }
    Ok(Some(appended))
}
