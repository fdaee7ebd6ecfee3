//! Purging responses: looks for what can go among what has expired, beside the writes, and has it removed in small steps.

use uuid::Uuid;

use crate::sql::{Database, Kind, Query, id, number};
use crate::{Purged, StoreError, Timestamp};

/// How many expired responses are looked at at a time.
const SCANNED_ROWS: i64 = 1_000;

/// The expired responses after a place, and whether nothing continues them.
const LIST_EXPIRED: &str = "SELECT r.id, r.project, r.expires_at, CAST(CASE WHEN r.conversation_id IS NULL AND NOT EXISTS \
     (SELECT 1 FROM responses c WHERE c.parent_id = r.id AND c.project = r.project) THEN 1 ELSE 0 END AS bigint) \
     FROM (SELECT id, project, expires_at, conversation_id FROM responses \
       WHERE expires_at BETWEEN $1 AND $2 AND (expires_at > $1 OR id > $3) ORDER BY expires_at, id LIMIT $4) r \
     ORDER BY r.expires_at, r.id";

#[cfg(test)]
pub(crate) const STATEMENTS: [&str; 1] = [LIST_EXPIRED];

/// Where a purge is among the responses that have expired. A new one begins with the oldest.
///
/// Of the responses that it has passed, it removes only ancestors of those that it removes later.
#[derive(Debug)]
pub struct PurgeProgress {
    /// The last response that was looked at.
    expires_at: i64,
    id: Uuid,
    /// To remove next.
    leaves: Vec<Leaf>,
}

/// A response that nothing continues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leaf {
    pub(crate) id: Uuid,
    pub(crate) project: String,
}

/// What a step of a purge removes, as far as it can still go.
#[derive(Debug)]
pub(crate) struct PurgeStep {
    pub(crate) now: Timestamp,
    pub(crate) leaves: Vec<Leaf>,
    pub(crate) log_before: Option<Timestamp>,
    pub(crate) max_rows: u32,
}

pub(crate) async fn purge<D: Database>(
    database: &D,
    progress: &mut PurgeProgress,
    now: Timestamp,
    log_before: Option<Timestamp>,
    max_rows: u32,
) -> Result<Purged, StoreError> {
    loop {
        if progress.leaves.is_empty() {
            progress.find_leaves(database, now).await?;
        }
        let rest = progress.leaves.split_off(progress.leaves.len().min(max_rows as usize));
        let leaves = std::mem::replace(&mut progress.leaves, rest);
        let is_end = leaves.is_empty();
        if is_end && log_before.is_none() {
            return Ok(Purged::default());
        }
        let step = PurgeStep { now, leaves, log_before, max_rows };
        let (purged, mut next) = database.group().purge(step).await?;
        // Nothing was removed and nothing is left of these: they were continued or removed meanwhile. While another replica purges,
        // all of them are left.
        let can_go_on = purged == Purged::default() && next.is_empty() && !is_end;
        next.append(&mut progress.leaves);
        progress.leaves = next;
        if !can_go_on {
            return Ok(purged);
        }
    }
}

// === impl PurgeProgress ===

impl PurgeProgress {
    async fn find_leaves<D: Database>(&mut self, database: &D, now: Timestamp) -> Result<(), StoreError> {
        while self.leaves.is_empty() {
            let query = Query {
                text: LIST_EXPIRED,
                arguments: vec![
                    number(self.expires_at),
                    number(now.unix_ms()),
                    id(self.id),
                    number(SCANNED_ROWS),
                ],
                columns: &[Kind::Id, Kind::Text, Kind::Number, Kind::Number],
            };
            let rows = database.query(query).await?;
            if rows.is_empty() {
                break;
            }
            for mut row in rows {
                let (id, project) = (row.id()?, row.text()?);
                (self.expires_at, self.id) = (row.number()?, id);
                if row.number()? == 1 {
                    self.leaves.push(Leaf { id, project });
                }
            }
        }
        Ok(())
    }
}

impl Default for PurgeProgress {
    fn default() -> Self {
        Self { expires_at: i64::MIN, id: Uuid::nil(), leaves: Vec::new() }
    }
}
