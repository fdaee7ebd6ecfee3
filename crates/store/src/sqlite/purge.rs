//! Purging: what nobody can see or replay any more leaves the disk.

use rusqlite::{Connection, Row, params};
use uuid::Uuid;

use crate::assemble::item_ids;
use crate::{Purged, Timestamp};

/// Dead responses without children, and from each of them up through the ancestors that are dead and have no other
/// child: what comes later in the result is a parent of something before it, so any beginning of it may be removed.
pub(super) const DOOMED: &str = "WITH RECURSIVE doomed (row, id, project, parent_id) AS (
       SELECT rowid, id, project, parent_id FROM (
         SELECT r.rowid, r.id, r.project, r.parent_id FROM responses r
         WHERE r.expires_at <= ?1
           AND NOT EXISTS (SELECT 1 FROM responses c WHERE c.parent_id = r.id AND c.project = r.project)
         ORDER BY r.expires_at LIMIT ?2)
       UNION ALL
       SELECT p.rowid, p.id, p.project, p.parent_id FROM doomed d
       CROSS JOIN responses p ON p.id = d.parent_id AND p.project = d.project
       WHERE p.expires_at <= ?1
         AND NOT EXISTS (SELECT 1 FROM responses c WHERE c.parent_id = p.id AND c.project = p.project AND c.id <> d.id)
       LIMIT ?2)
     SELECT d.row, d.project, d.id, r.input, r.output FROM doomed d CROSS JOIN responses r ON r.rowid = d.row";

pub(super) const DELETE_RESPONSE: &str = "DELETE FROM responses WHERE rowid = ?1";

/// An item that a later response has recorded again stays.
pub(super) const DELETE_ITEM: &str =
    "DELETE FROM items WHERE item_id = ?1 AND project = ?2 AND response_id = ?3";

pub(super) const DELETE_LOG: &str = "DELETE FROM request_log WHERE (at, response_id) IN \
     (SELECT at, response_id FROM request_log WHERE at < ?1 ORDER BY at LIMIT ?2)";

pub(super) fn purge(
    connection: &Connection,
    now: Timestamp,
    log_before: Option<Timestamp>,
    max_rows: u32,
) -> rusqlite::Result<Purged> {
    let mut purged = Purged::default();
    let mut rows: Vec<i64> = Vec::new();
    let mut items = Vec::new();
    let mut statement = connection.prepare_cached(DOOMED)?;
    let mut doomed = statement.query(params![now.unix_ms(), max_rows])?;
    while let Some(row) = doomed.next()? {
        rows.push(row.get(0)?);
        collect_items(row, &mut items)?;
    }
    let mut delete_item = connection.prepare_cached(DELETE_ITEM)?;
    for (item_id, project, response) in items {
        delete_item.execute(params![item_id, project, response])?;
    }
    let mut delete_response = connection.prepare_cached(DELETE_RESPONSE)?;
    for row in rows {
        purged.responses += delete_response.execute([row])? as u64;
    }
    if let Some(before) = log_before {
        let mut delete_log = connection.prepare_cached(DELETE_LOG)?;
        purged.log_rows = delete_log.execute(params![before.unix_ms(), max_rows])? as u64;
    }
    Ok(purged)
}

fn collect_items(row: &Row<'_>, ids: &mut Vec<(String, String, Uuid)>) -> rusqlite::Result<()> {
    let (project, response): (String, Uuid) = (row.get(1)?, row.get(2)?);
    for column in [3, 4] {
        let array = row.get_ref(column)?.as_blob()?;
        ids.extend(item_ids(array).map(|id| (id.as_str().to_owned(), project.clone(), response)));
    }
    Ok(())
}
