//! Purging: what nobody can see or replay any more leaves the disk.

use antiphon_protocol::{item, json};
use futures_util::TryStreamExt;
use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use uuid::Uuid;

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

pub(super) const DELETE_RESPONSES: &str =
    "DELETE FROM responses WHERE rowid IN (SELECT value FROM json_each(?1))";

/// An item that a later response has recorded again stays.
pub(super) const DELETE_ITEM: &str =
    "DELETE FROM items WHERE item_id = ?1 AND project = ?2 AND response_id = ?3";

pub(super) const DELETE_LOG: &str = "DELETE FROM request_log WHERE (at, response_id) IN \
     (SELECT at, response_id FROM request_log WHERE at < ?1 ORDER BY at LIMIT ?2)";

pub(super) async fn purge(
    connection: &mut SqliteConnection,
    now: Timestamp,
    log_before: Option<Timestamp>,
    max_rows: u32,
) -> Result<Purged, sqlx::Error> {
    let mut purged = Purged::default();
    let mut rows = Vec::new();
    let mut items = Vec::new();
    {
        let mut doomed = sqlx::query(DOOMED).bind(now.unix_ms()).bind(max_rows).fetch(&mut *connection);
        while let Some(row) = doomed.try_next().await? {
            rows.push(row.try_get::<i64, _>(0)?);
            collect_items(&row, &mut items)?;
        }
    }
    for (item_id, project, response) in items {
        sqlx::query(DELETE_ITEM).bind(item_id).bind(project).bind(response).execute(&mut *connection).await?;
    }
    if !rows.is_empty() {
        let rows = format!("{rows:?}");
        purged.responses =
            sqlx::query(DELETE_RESPONSES).bind(rows).execute(&mut *connection).await?.rows_affected();
    }
    if let Some(before) = log_before {
        let delete = sqlx::query(DELETE_LOG).bind(before.unix_ms()).bind(max_rows);
        purged.log_rows = delete.execute(connection).await?.rows_affected();
    }
    Ok(purged)
}

/// The ids of a response's items stand in the items themselves, which spares an index from responses to items.
fn collect_items(row: &SqliteRow, ids: &mut Vec<(String, String, Uuid)>) -> Result<(), sqlx::Error> {
    let (project, response): (&str, Uuid) = (row.try_get(1)?, row.try_get(2)?);
    for column in [3, 4] {
        let array: &[u8] = row.try_get(column)?;
        let items = json::elements(array).map_while(Result::ok);
        let found = items.filter_map(|range| item::id(&array[range]));
        ids.extend(found.map(|id| (id.as_str().to_owned(), project.to_owned(), response)));
    }
    Ok(())
}
