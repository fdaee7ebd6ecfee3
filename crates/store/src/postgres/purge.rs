//! Purging: removes what nobody can see or replay any more.

use std::collections::{HashMap, HashSet};

use antiphon_protocol::id::ItemId;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error, Row};
use uuid::Uuid;

use crate::account_sums::{account_sums, add_up_accounts, turn_as_account};
use crate::assemble::item_ids;
use crate::overview::{
    self, add_up_latencies, add_up_outcomes, outcome_columns, outcome_sums, turn_as_outcome,
    turns_as_latencies,
};
use crate::purge::{Leaf, PurgeStep};
use crate::request_log::NEWEST_TO_PURGE;
use crate::usage::{PURGE_ROLLED_UP, add_up, sums, turn_as_usage, usage_columns};
use crate::{Purged, Timestamp};

/// "Antipurg" in ASCII.
const PURGE_LOCK: i64 = 0x416e_7469_7075_7267;

/// Both last until the end of the transaction. JIT-compiling the statements that follow would take longer than running them.
pub(super) const TRY_LOCK: &str =
    "SELECT pg_try_advisory_xact_lock($1::bigint), set_config('jit', 'off', true)";

/// Those of these responses that have expired and that nothing continues, and from each of them up the ancestors that have expired
/// and have no other child, unless their conversation lives. Parents come after their children, so any prefix of the result may be
/// removed. The planner misjudges a recursion; `OFFSET 0` keeps it from scanning the whole table instead of using an index.
pub(super) const DELETE_RESPONSES: &str = "WITH RECURSIVE purgeable (id, project, parent_id) AS (
       SELECT id, project, parent_id FROM (
         SELECT r.id, r.project, r.parent_id FROM unnest($2::uuid[], $3::text[]) l (id, project)
         CROSS JOIN LATERAL (SELECT * FROM responses r WHERE r.id = l.id AND r.project = l.project OFFSET 0) r
         WHERE r.expires_at <= $1::bigint AND r.conversation_id IS NULL
           AND NOT EXISTS (SELECT 1 FROM responses c WHERE c.parent_id = r.id AND c.project = r.project OFFSET 0)) leaves
       UNION ALL
       SELECT p.id, p.project, p.parent_id FROM purgeable d
       CROSS JOIN LATERAL (SELECT * FROM responses p WHERE p.id = d.parent_id AND p.project = d.project OFFSET 0) p
       WHERE p.expires_at <= $1::bigint AND p.conversation_id IS NULL AND NOT EXISTS (SELECT 1 FROM responses c
         WHERE c.parent_id = p.id AND c.project = p.project AND c.id <> d.id OFFSET 0))
     DELETE FROM responses r USING (SELECT id, project FROM purgeable LIMIT $4::bigint) d
     WHERE r.id = d.id AND r.project = d.project RETURNING r.project, r.id, r.input, r.output, r.parent_id";

/// Keeps an item that a later response has recorded again.
pub(super) const DELETE_ITEMS: &str =
    "DELETE FROM items i USING unnest($1::text[], $2::text[], $3::uuid[]) d (item_id, project, response_id)
     WHERE i.item_id = d.item_id AND i.project = d.project AND i.response_id = d.response_id";

/// Moves rows of the log to the sums over purged rows. It is one statement, so that it adds exactly the rows that it deletes while
/// others are being inserted.
pub(super) const DELETE_LOG: &str = concat!(
    "WITH gone AS (DELETE FROM request_log WHERE at <= $1::bigint RETURNING at, project, key_id, account, model, \
       outcome, input_tokens, cached_tokens, output_tokens, reasoning_tokens, cost_nano_usd, estimated, duration_us, \
       first_event_us),
     turn AS (",
    turn_as_usage!(),
    "FROM gone),
     hours AS (INSERT INTO usage_rollups (part, ",
    usage_columns!(),
    ") SELECT 1, starts_at, project, key_id, account, model, ",
    sums!(),
    "FROM turn",
    add_up!(),
    "),
     days AS (INSERT INTO usage_rollups (part, ",
    usage_columns!(),
    ") SELECT 2, starts_at - starts_at % 86400000, project, key_id, account, model, ",
    sums!(),
    "FROM turn",
    add_up!(),
    "),
     outcomes AS (",
    turn_as_outcome!(),
    "FROM gone),
     outcome_hours AS (INSERT INTO outcome_rollups (part, ",
    outcome_columns!(),
    ") SELECT 1, starts_at, model, outcome, ",
    outcome_sums!(),
    "FROM outcomes",
    add_up_outcomes!(),
    "),
     outcome_days AS (INSERT INTO outcome_rollups (part, ",
    outcome_columns!(),
    ") SELECT 2, starts_at - starts_at % 86400000, model, outcome, ",
    outcome_sums!(),
    "FROM outcomes",
    add_up_outcomes!(),
    "),
     latencies AS (",
    turns_as_latencies!("gone WHERE true"),
    "),
     latency_hours AS (INSERT INTO latency_rollups (part, starts_at, measure, up_to_us, turns)
       SELECT 1, starts_at, measure, up_to_us, CAST(sum(turns) AS bigint) FROM latencies",
    add_up_latencies!(),
    "),
     latency_days AS (INSERT INTO latency_rollups (part, starts_at, measure, up_to_us, turns)
       SELECT 2, starts_at - starts_at % 86400000, measure, up_to_us, CAST(sum(turns) AS bigint) FROM latencies",
    add_up_latencies!(),
    "),
     accounts AS (",
    turn_as_account!("gone WHERE true"),
    "),
     account_hours AS (INSERT INTO account_rollups (part, starts_at, account, turns, failed_turns)
       SELECT 1, starts_at, account, ",
    account_sums!(),
    "FROM accounts",
    add_up_accounts!(),
    "),
     account_days AS (INSERT INTO account_rollups (part, starts_at, account, turns, failed_turns)
       SELECT 2, starts_at - starts_at % 86400000, account, ",
    account_sums!(),
    "FROM accounts",
    add_up_accounts!(),
    ")
     SELECT count(*) FROM gone"
);

/// Runs in a transaction. Removes nothing while another replica is purging.
pub(super) async fn purge(client: &Client, step: &PurgeStep) -> Result<(Purged, Vec<Leaf>), Error> {
    let (now, max_rows) = (step.now.unix_ms(), i64::from(step.max_rows));
    let locked = client.query_typed_one(TRY_LOCK, &[(&PURGE_LOCK, Type::INT8)]).await?;
    if !locked.try_get::<_, bool>(0)? {
        return Ok((Purged::default(), step.leaves.clone()));
    }
    let ids: Vec<Uuid> = step.leaves.iter().map(|leaf| leaf.id).collect();
    let projects: Vec<&str> = step.leaves.iter().map(|leaf| leaf.project.as_str()).collect();
    let arguments: [(&(dyn ToSql + Sync), Type); 4] = [
        (&now, Type::INT8),
        (&ids, Type::UUID_ARRAY),
        (&projects, Type::TEXT_ARRAY),
        (&max_rows, Type::INT8),
    ];
    let gone = client.query_typed(DELETE_RESPONSES, &arguments).await?;
    delete_items(client, &gone).await?;
    let log_rows = match step.log_before.map(Timestamp::unix_ms) {
        Some(before) => purge_log(client, before, max_rows).await?,
        None => 0,
    };
    Ok((Purged { responses: gone.len() as u64, log_rows }, parents(&gone)?))
}

/// The parents that are still there. They may have lost their last child.
fn parents(gone: &[Row]) -> Result<Vec<Leaf>, Error> {
    let (mut ids, mut parents) = (HashSet::new(), HashMap::new());
    for row in gone {
        ids.insert(row.try_get::<_, Uuid>(1)?);
        if let Some(parent) = row.try_get::<_, Option<Uuid>>(4)? {
            parents.insert(parent, row.try_get::<_, String>(0)?);
        }
    }
    parents.retain(|id, _| !ids.contains(id));
    Ok(parents.into_iter().map(|(id, project)| Leaf { id, project }).collect())
}

async fn purge_log(client: &Client, before: i64, max_rows: i64) -> Result<u64, Error> {
    let arguments: [(&(dyn ToSql + Sync), Type); 2] = [(&before, Type::INT8), (&max_rows, Type::INT8)];
    let row = client.query_typed_one(NEWEST_TO_PURGE, &arguments).await?;
    let Some(last) = row.try_get::<_, Option<i64>>(0)? else { return Ok(0) };
    for delete in [PURGE_ROLLED_UP].into_iter().chain(overview::PURGE_ROLLED_UP) {
        client.execute_typed(delete, &[(&last, Type::INT8)]).await?;
    }
    let gone = client.query_typed_one(DELETE_LOG, &[(&last, Type::INT8)]).await?;
    Ok(gone.try_get::<_, i64>(0)?.unsigned_abs())
}

async fn delete_items(client: &Client, gone: &[Row]) -> Result<(), Error> {
    let mut items: Vec<(ItemId, &str, Uuid)> = Vec::new();
    for row in gone {
        let (project, response) = (row.try_get(0)?, row.try_get(1)?);
        for column in [2, 3] {
            items.extend(item_ids(row.try_get(column)?).map(|id| (id, project, response)));
        }
    }
    let ids: Vec<&str> = items.iter().map(|(id, _, _)| id.as_str()).collect();
    let projects: Vec<&str> = items.iter().map(|(_, project, _)| *project).collect();
    let responses: Vec<Uuid> = items.iter().map(|(_, _, response)| *response).collect();
    let columns: [(&(dyn ToSql + Sync), Type); 3] =
        [(&ids, Type::TEXT_ARRAY), (&projects, Type::TEXT_ARRAY), (&responses, Type::UUID_ARRAY)];
    client.execute_typed(DELETE_ITEMS, &columns).await.map(|_| ())
}
