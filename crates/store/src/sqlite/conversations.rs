//! Appending to conversations.

use rusqlite::{Connection, params};

use super::insert::{Inserter, TurnRow};
use super::statement;
use crate::conversations::{Pending, is_live, remove_item};
use crate::{Appended, Post, Record};

/// A derived id is nobody else's.
pub(super) const INSERT_ITEM: &str = "INSERT INTO conversation_items (conversation_id, project, position, item_id, response_id, item_position) \
     SELECT ?1, ?2, ?3, CASE WHEN ?4 <> ?5 AND EXISTS (SELECT 1 FROM conversation_items WHERE item_id = ?4 \
     AND conversation_id = ?1 AND project = ?2) THEN ?5 ELSE ?4 END, ?6, ?7";

/// Records a turn, and moves the head of its conversation if it has one.
pub(super) fn record(inserter: &mut Inserter<'_>, record: &Record) -> rusqlite::Result<Appended> {
    if let Some(parent) = record.needed_parent()
        && !inserter.has(&record.project, parent)?
    {
        return Ok(Appended::NoParent);
    }
    let Some(pending) = Pending::of_record(record) else {
        return inserter.record(record, None).map(|()| Appended::Done);
    };
    let appended = append(inserter.connection, &pending)?;
    if appended != Appended::Conflict {
        let conversation = (appended == Appended::Done).then_some(pending.append.conversation);
        inserter.record(record, conversation)?;
    }
    Ok(appended)
}

/// Appends turns that nobody served.
pub(super) fn post(inserter: &mut Inserter<'_>, post: &Post) -> rusqlite::Result<Appended> {
    let connection = inserter.connection;
    let Post { project, created_at, begins, turns, deletes, append: to } = post;
    if let Some(conversation) = begins {
        statement::execute(connection, &conversation.insert())?;
    }
    let appended = append(connection, &Pending::of_post(post))?;
    if appended != Appended::Done {
        return Ok(appended);
    }
    for turn in turns {
        let conversation = Some(to.conversation);
        inserter.turn(&TurnRow { project, turn, created_at: *created_at, body: b"", conversation })?;
    }
    if let Some(position) = deletes {
        statement::execute(connection, &remove_item(project, to.conversation, *position))?;
    }
    Ok(appended)
}

fn append(connection: &Connection, pending: &Pending<'_>) -> rusqlite::Result<Appended> {
    let (project, conversation) = (pending.project, pending.append.conversation);
    if !statement::execute(connection, &pending.advance())? {
        let query = is_live(project, conversation);
        let arguments = query.arguments.iter().map(|(value, _)| value);
        let is_live = connection.prepare_cached(query.text)?.exists(rusqlite::params_from_iter(arguments))?;
        return Ok(if is_live { Appended::Conflict } else { Appended::Deleted });
    }
    let mut insert = connection.prepare_cached(INSERT_ITEM)?;
    for (position, item) in pending.items() {
        insert.execute(params![
            conversation.uuid(),
            project.as_str(),
            i64::try_from(position).unwrap_or(i64::MAX),
            item.id.as_str(),
            item.otherwise.as_str(),
            item.location.turn.uuid(),
            item.location.position,
        ])?;
    }
    Ok(Appended::Done)
}
