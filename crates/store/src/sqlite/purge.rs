//! Purging: removes what nobody can see or replay any more.

use antiphon_protocol::id::{ItemId, ProjectId};
use rusqlite::{Connection, Row, params};
use uuid::Uuid;

use super::item_index::Changes;
use crate::account_sums::{account_sums, add_up_accounts, turn_as_account};
use crate::assemble::item_ids;
use crate::overview::{
    self, add_up_latencies, add_up_outcomes, outcome_columns, outcome_sums, turn_as_outcome,
    turns_as_latencies,
};
use crate::purge::{Leaf, PurgeStep};
use crate::request_log::NEWEST_TO_PURGE;
use crate::usage::{PURGE_ROLLED_UP, add_up, sums, turn_as_usage, usage_columns};
use crate::{DAY_MS, HOUR_MS, Purged, Timestamp};

/// A response that has expired and that nothing continues, and from there up the ancestors that have expired and have no other
/// child, unless their conversation lives. Parents come after their children, so any prefix of the result may be removed.
pub(super) const PURGEABLE: &str = "WITH RECURSIVE purgeable (row, id, project, parent_id) AS (
       SELECT r.rowid, r.id, r.project, r.parent_id FROM responses r
       WHERE r.id = ?2 AND r.project = ?3 AND r.expires_at <= ?1 AND r.conversation_id IS NULL
         AND NOT EXISTS (SELECT 1 FROM responses c WHERE c.parent_id = r.id AND c.project = r.project)
       UNION ALL
       SELECT p.rowid, p.id, p.project, p.parent_id FROM purgeable d
       CROSS JOIN responses p ON p.id = d.parent_id AND p.project = d.project
       WHERE p.expires_at <= ?1 AND p.conversation_id IS NULL
         AND NOT EXISTS (SELECT 1 FROM responses c WHERE c.parent_id = p.id AND c.project = p.project AND c.id <> d.id)
       LIMIT ?4)
     SELECT d.row, d.project, d.id, r.input, r.output, d.parent_id FROM purgeable d CROSS JOIN responses r ON r.rowid = d.row";

pub(super) const DELETE_RESPONSE: &str = "DELETE FROM responses WHERE rowid = ?1";

/// Adds the rows that are purged to the sums of a part, whose unit has this length.
pub(super) const ADD_TO_SUMS: &str = concat!(
    "INSERT INTO usage_rollups (part, ",
    usage_columns!(),
    ") SELECT ?1, starts_at - starts_at % ?2, project, key_id, account, model, ",
    sums!(),
    "FROM (",
    turn_as_usage!(),
    "FROM request_log WHERE at <= ?3) turn WHERE true",
    add_up!()
);

/// As [`ADD_TO_SUMS`].
pub(super) const ADD_TO_OUTCOMES: &str = concat!(
    "INSERT INTO outcome_rollups (part, ",
    outcome_columns!(),
    ") SELECT ?1, starts_at - starts_at % ?2, model, outcome, ",
    outcome_sums!(),
    "FROM (",
    turn_as_outcome!(),
    "FROM request_log WHERE at <= ?3) turn WHERE true",
    add_up_outcomes!()
);

/// As [`ADD_TO_SUMS`].
pub(super) const ADD_TO_LATENCIES: &str = concat!(
    "INSERT INTO latency_rollups (part, starts_at, measure, up_to_us, turns) \
     SELECT ?1, starts_at - starts_at % ?2, measure, up_to_us, sum(turns) FROM (",
    turns_as_latencies!("request_log WHERE at <= ?3"),
    ") turn WHERE true",
    add_up_latencies!()
);

/// As [`ADD_TO_SUMS`].
pub(super) const ADD_TO_ACCOUNTS: &str = concat!(
    "INSERT INTO account_rollups (part, starts_at, account, turns, failed_turns) \
     SELECT ?1, starts_at - starts_at % ?2, account, ",
    account_sums!(),
    "FROM (",
    turn_as_account!("request_log WHERE at <= ?3"),
    ") turn WHERE true",
    add_up_accounts!()
);

pub(super) const DELETE_LOG: &str = "DELETE FROM request_log WHERE at <= ?1";

pub(super) fn purge(
    connection: &Connection,
    item_changes: &mut Changes,
    step: &PurgeStep,
) -> rusqlite::Result<(Purged, Vec<Leaf>)> {
    let (mut left, mut next) = (step.max_rows, Vec::new());
    for leaf in &step.leaves {
        if left == 0 {
            next.push(leaf.clone());
            continue;
        }
        let (removed, parent) = purge_from(connection, item_changes, step.now, leaf, left)?;
        left -= removed;
        if left == 0 {
            next.extend(parent.map(|id| Leaf { id, project: leaf.project.clone() }));
        }
    }
    let log_rows = match step.log_before {
        Some(before) => purge_log(connection, before, step.max_rows)?,
        None => 0,
    };
    Ok((Purged { responses: u64::from(step.max_rows - left), log_rows }, next))
}

/// Removes a response and its ancestors. Returns how many it removed, and the parent of the last one.
fn purge_from(
    connection: &Connection,
    item_changes: &mut Changes,
    now: Timestamp,
    leaf: &Leaf,
    max_rows: u32,
) -> rusqlite::Result<(u32, Option<Uuid>)> {
    let (mut removed, mut rows, mut items, mut parent): (u32, Vec<i64>, Vec<_>, _) = Default::default();
    let mut statement = connection.prepare_cached(PURGEABLE)?;
    let mut purgeable = statement.query(params![now.unix_ms(), leaf.id, leaf.project, max_rows])?;
    while let Some(row) = purgeable.next()? {
        removed += 1;
        rows.push(row.get(0)?);
        collect_items(row, &mut items)?;
        parent = row.get(5)?;
    }
    item_changes.remove(connection, items)?;
    let mut delete_response = connection.prepare_cached(DELETE_RESPONSE)?;
    for row in rows {
        delete_response.execute([row])?;
    }
    Ok((removed, parent))
}

/// Moves rows of the log to the sums over purged rows.
fn purge_log(connection: &Connection, before: Timestamp, max_rows: u32) -> rusqlite::Result<u64> {
    let mut newest = connection.prepare_cached(NEWEST_TO_PURGE)?;
    let Some(last): Option<i64> = newest.query_row(params![before.unix_ms(), max_rows], |row| row.get(0))?
    else {
        return Ok(0);
    };
    for delete in [PURGE_ROLLED_UP].into_iter().chain(overview::PURGE_ROLLED_UP) {
        connection.prepare_cached(delete)?.execute([last])?;
    }
    for (part, unit_ms) in [(1, HOUR_MS), (2, DAY_MS)] {
        for add in [ADD_TO_SUMS, ADD_TO_OUTCOMES, ADD_TO_LATENCIES, ADD_TO_ACCOUNTS] {
            connection.prepare_cached(add)?.execute(params![part, unit_ms, last])?;
        }
    }
    Ok(connection.prepare_cached(DELETE_LOG)?.execute([last])? as u64)
}

fn collect_items(row: &Row<'_>, ids: &mut Vec<(ItemId, ProjectId, Uuid)>) -> rusqlite::Result<()> {
    let (project, response) = (ProjectId::new(row.get_ref(1)?.as_str()?), row.get(2)?);
    for column in [3, 4] {
        let array = row.get_ref(column)?.as_blob()?;
        ids.extend(item_ids(array).map(|id| (id, project.clone(), response)));
    }
    Ok(())
}
