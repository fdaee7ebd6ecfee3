//! What operators look at: responses of any project, what leads to them and what continues them. It is read without their items.

use antiphon_protocol::id::{ProjectId, ResponseId};
use async_trait::async_trait;
use uuid::Uuid;

use crate::assemble::status_of;
use crate::request_log::{COLUMNS, log_row};
use crate::sql::{Columns, Database, Kind, Query, id, number, text};
use crate::{BackgroundStatus, LogRow, Status, StoreError, Timestamp};

/// A stored turn without its items. It may be deleted or expired, and not purged yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TurnSummary {
    pub id: ResponseId,
    pub project: ProjectId,
    pub parent: Option<ResponseId>,
    pub conversation: Option<String>,
    pub account: String,
    pub boundary: String,
    pub upstream_id: Option<String>,
    pub model: String,
    pub status: Status,
    pub depth: u32,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub deleted_at: Option<Timestamp>,
    pub input_bytes: u64,
    pub output_bytes: u64,
    /// Whether nobody served it: its items were posted to a conversation, or deleted from one.
    pub is_posted: bool,
    /// Its row in the request log, unless that is purged.
    pub log: Option<LogRow>,
}

/// A turn of a chain, and the size of its items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainLink {
    pub id: ResponseId,
    pub bytes: u64,
}

/// Looks into the store, for operators. Projects are not told apart: an id of a response is unique.
///
/// # Errors
/// [Read errors](StoreError#read-errors).
#[async_trait]
pub trait Inspection: Send + Sync {
    /// The project of a response.
    async fn find_project(&self, response: ResponseId) -> Result<Option<ProjectId>, StoreError>;

    /// The row of a turn in the request log.
    async fn find_log_row(&self, response: ResponseId) -> Result<Option<LogRow>, StoreError>;

    /// The turns from this one towards the root, newest first.
    async fn list_turns(
        &self,
        project: &ProjectId,
        from: ResponseId,
        max_turns: u32,
    ) -> Result<Vec<TurnSummary>, StoreError>;

    /// As [`list_turns`](Self::list_turns), with less of each.
    async fn list_links(
        &self,
        project: &ProjectId,
        from: ResponseId,
        max_turns: u32,
    ) -> Result<Vec<ChainLink>, StoreError>;

    /// The child of this turn, the child of that, and so on: always the newest. Among very many children, one that is among the first
    /// thousand that are found.
    async fn list_descendants(
        &self,
        project: &ProjectId,
        from: ResponseId,
        max_turns: u32,
    ) -> Result<Vec<ChainLink>, StoreError>;

    /// The children of the turns from this one towards the root, each with its parent.
    async fn list_children(
        &self,
        project: &ProjectId,
        from: ResponseId,
        max_turns: u32,
        max_rows: u32,
    ) -> Result<Vec<(ResponseId, ResponseId)>, StoreError>;

    /// Background turns that are queued, run, or whose response is kept, newest first.
    async fn list_background(&self, query: BackgroundQuery) -> Result<Vec<BackgroundSummary>, StoreError>;

    /// How many background turns have not ended although their lease had by then.
    async fn count_abandoned_background(&self, leased_until: Timestamp) -> Result<u64, StoreError>;
}

/// A background turn, without its request and response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackgroundSummary {
    pub id: ResponseId,
    pub project: ProjectId,
    pub status: BackgroundStatus,
    pub is_streamed: bool,
    pub is_stored: bool,
    pub key: Option<String>,
    pub created_at: Timestamp,
    pub deadline: Timestamp,
    /// The process that runs it.
    pub owner: Uuid,
    pub lease_until: Timestamp,
    pub attempts: u32,
    pub ended_at: Option<Timestamp>,
}

/// Which background turns to list.
#[derive(Debug, Clone, Copy, Default)]
pub struct BackgroundQuery {
    /// Only this one.
    pub id: Option<ResponseId>,
    /// Only turns older than this one.
    pub after: Option<ResponseId>,
    /// Only turns that have not ended.
    pub is_active: bool,
    pub max_rows: u32,
}

const PROJECT: &str = "SELECT project FROM responses WHERE id = $1 LIMIT 1";

const LOG_ROW: &str = "SELECT at, response_id, project, key_id, account, model, transport, outcome, http_status, code, depth, \
     attempts, input_tokens, cached_tokens, output_tokens, reasoning_tokens, cost_nano_usd, duration_us, first_event_us, estimated, sent_us, \
     attempt_log, reasoning FROM request_log WHERE at = $1 AND response_id = $2";

/// From a turn towards the root.
macro_rules! chain {
    () => {
        "WITH RECURSIVE chain (id, parent_id, n) AS (SELECT id, parent_id, 1 FROM responses WHERE id = $1 AND project = $2 \
         UNION ALL SELECT p.id, p.parent_id, link.n + 1 FROM chain link CROSS JOIN responses p \
         WHERE p.id = link.parent_id AND p.project = $2 AND link.n < $3) "
    };
}

const TURNS: &str = concat!(
    chain!(),
    "SELECT r.id, r.parent_id, r.conversation_id, r.account, r.boundary, r.upstream_id, r.model, CAST(r.status AS bigint), \
     r.depth, r.created_at, r.expires_at, r.deleted_at, CAST(length(r.input) AS bigint), CAST(length(r.output) AS bigint), \
     CAST(CASE WHEN r.deletes IS NULL THEN 0 ELSE 1 END AS bigint), l.at, l.response_id, l.project, l.key_id, l.account, \
     l.model, l.transport, l.outcome, l.http_status, l.code, l.depth, l.attempts, l.input_tokens, l.cached_tokens, \
     l.output_tokens, l.reasoning_tokens, l.cost_nano_usd, l.duration_us, l.first_event_us, l.estimated, l.sent_us, l.attempt_log, \
     l.reasoning FROM chain link CROSS JOIN responses r LEFT JOIN request_log l ON l.at = r.created_at AND l.response_id = r.id \
     WHERE r.id = link.id AND r.project = $2 ORDER BY link.n"
);

const LINKS: &str = concat!(
    chain!(),
    "SELECT r.id, CAST(length(r.input) + length(r.output) AS bigint) FROM chain link CROSS JOIN responses r \
     WHERE r.id = link.id AND r.project = $2 ORDER BY link.n"
);

const CHILDREN: &str = concat!(
    chain!(),
    "SELECT link.id, k.id FROM chain link CROSS JOIN responses k WHERE k.parent_id = link.id AND k.project = $2 LIMIT $4"
);

const DESCENDANTS: &str = "WITH RECURSIVE line (id, n) AS (SELECT id, 0 FROM responses WHERE id = $1 AND project = $2 UNION ALL \
     SELECT (SELECT newest.id FROM (SELECT r.id FROM responses r WHERE r.parent_id = step.id AND r.project = $2 LIMIT 1000) newest \
       ORDER BY newest.id DESC LIMIT 1), step.n + 1 FROM line step WHERE step.id IS NOT NULL AND step.n < $3) \
     SELECT r.id, CAST(length(r.input) + length(r.output) AS bigint) FROM line step CROSS JOIN responses r \
     WHERE r.id = step.id AND r.project = $2 AND step.n > 0 ORDER BY step.n";

const BACKGROUND: &str = "SELECT id, project, CAST(status AS bigint), streamed, stored, key_id, created_at, deadline, owner, \
     lease_until, attempts, ended_at FROM background_turns WHERE id >= $1 AND id <= $2 AND id <> $3 \
     AND (ended_at IS NULL OR $4 = 0) ORDER BY id DESC LIMIT $5";

const ABANDONED: &str = "SELECT count(*) FROM background_turns WHERE ended_at IS NULL AND lease_until < $1";

/// For the tests of both engines.
#[cfg(test)]
pub(crate) const STATEMENTS: [&str; 8] =
    [PROJECT, LOG_ROW, TURNS, LINKS, CHILDREN, DESCENDANTS, BACKGROUND, ABANDONED];

/// The columns of [`TURNS`] before those of the request log.
const TURN_COLUMNS: [Kind; 15] = {
    use Kind::{Id, Number, Text};
    [Id, Id, Text, Text, Text, Text, Text, Number, Number, Number, Number, Number, Number, Number, Number]
};

/// [`TURN_COLUMNS`], and those of the request log.
const ALL_COLUMNS: [Kind; 38] = {
    let mut columns = [Kind::Number; 38];
    let mut n = 0;
    while n < columns.len() {
        columns[n] = if n < TURN_COLUMNS.len() { TURN_COLUMNS[n] } else { COLUMNS[n - TURN_COLUMNS.len()] };
        n += 1;
    }
    columns
};

#[async_trait]
impl<D: Database> Inspection for D {
    async fn find_project(&self, response: ResponseId) -> Result<Option<ProjectId>, StoreError> {
        let arguments = vec![id(response.uuid())];
        let rows = self.query(Query { text: PROJECT, arguments, columns: &[Kind::Text] }).await?;
        let project = rows.into_iter().next().map(|mut row| row.text()).transpose()?;
        Ok(project.map(|project| ProjectId::new(&project)))
    }

    async fn find_log_row(&self, response: ResponseId) -> Result<Option<LogRow>, StoreError> {
        let arguments = vec![number(time_of(response)), id(response.uuid())];
        let rows = self.query(Query { text: LOG_ROW, arguments, columns: &COLUMNS }).await?;
        rows.into_iter().next().map(log_row).transpose()
    }

    async fn list_turns(
        &self,
        project: &ProjectId,
        from: ResponseId,
        max_turns: u32,
    ) -> Result<Vec<TurnSummary>, StoreError> {
        let query = of_chain(TURNS, project, from, max_turns, &ALL_COLUMNS);
        self.query(query).await?.into_iter().map(|row| turn_summary(row, project)).collect()
    }

    async fn list_links(
        &self,
        project: &ProjectId,
        from: ResponseId,
        max_turns: u32,
    ) -> Result<Vec<ChainLink>, StoreError> {
        let query = of_chain(LINKS, project, from, max_turns, &[Kind::Id, Kind::Number]);
        self.query(query).await?.into_iter().map(link).collect()
    }

    async fn list_descendants(
        &self,
        project: &ProjectId,
        from: ResponseId,
        max_turns: u32,
    ) -> Result<Vec<ChainLink>, StoreError> {
        let query = of_chain(DESCENDANTS, project, from, max_turns, &[Kind::Id, Kind::Number]);
        self.query(query).await?.into_iter().map(link).collect()
    }

    async fn list_children(
        &self,
        project: &ProjectId,
        from: ResponseId,
        max_turns: u32,
        max_rows: u32,
    ) -> Result<Vec<(ResponseId, ResponseId)>, StoreError> {
        let mut query = of_chain(CHILDREN, project, from, max_turns, &[Kind::Id, Kind::Id]);
        query.arguments.push(number(i64::from(max_rows)));
        let pair =
            |mut row: Columns| Ok((ResponseId::from_uuid(row.id()?), ResponseId::from_uuid(row.id()?)));
        self.query(query).await?.into_iter().map(pair).collect()
    }

    async fn list_background(&self, query: BackgroundQuery) -> Result<Vec<BackgroundSummary>, StoreError> {
        const COLUMNS: [Kind; 12] = {
            use Kind::{Id, Number, Text};
            [Id, Text, Number, Number, Number, Text, Number, Number, Id, Number, Number, Number]
        };
        let (oldest, newest) = match (query.id, query.after) {
            (Some(only), _) => (only.uuid(), only.uuid()),
            (None, Some(after)) => (Uuid::nil(), after.uuid()),
            (None, None) => (Uuid::nil(), Uuid::max()),
        };
        let excluded = query.after.filter(|_| query.id.is_none()).map_or(Uuid::nil(), ResponseId::uuid);
        let arguments = vec![
            id(oldest),
            id(newest),
            id(excluded),
            number(i64::from(query.is_active)),
            number(i64::from(query.max_rows)),
        ];
        let rows = self.query(Query { text: BACKGROUND, arguments, columns: &COLUMNS }).await?;
        rows.into_iter().map(background_summary).collect()
    }

    async fn count_abandoned_background(&self, leased_until: Timestamp) -> Result<u64, StoreError> {
        let arguments = vec![number(leased_until.unix_ms())];
        let rows = self.query(Query { text: ABANDONED, arguments, columns: &[Kind::Number] }).await?;
        rows.into_iter().next().map_or(Ok(0), |mut row| row.integer())
    }
}

fn background_summary(mut row: Columns) -> Result<BackgroundSummary, StoreError> {
    Ok(BackgroundSummary {
        id: ResponseId::from_uuid(row.id()?),
        project: ProjectId::new(&row.text()?),
        status: BackgroundStatus::from_code(row.number()?)?,
        is_streamed: row.number()? != 0,
        is_stored: row.number()? != 0,
        key: row.optional_text(),
        created_at: Timestamp::from_unix_ms(row.number()?),
        deadline: Timestamp::from_unix_ms(row.number()?),
        owner: row.id()?,
        lease_until: Timestamp::from_unix_ms(row.number()?),
        attempts: row.integer()?,
        ended_at: row.optional_number().map(Timestamp::from_unix_ms),
    })
}

fn of_chain(
    statement: &'static str,
    project: &ProjectId,
    from: ResponseId,
    max_turns: u32,
    columns: &'static [Kind],
) -> Query {
    let arguments = vec![id(from.uuid()), text(project.as_str()), number(i64::from(max_turns))];
    Query { text: statement, arguments, columns }
}

/// When a turn was admitted: the first 48 bits of a UUIDv7. Its row in the request log has the same time.
fn time_of(response: ResponseId) -> i64 {
    i64::try_from(response.uuid().as_u128() >> 80).unwrap_or(i64::MAX)
}

fn link(mut row: Columns) -> Result<ChainLink, StoreError> {
    Ok(ChainLink { id: ResponseId::from_uuid(row.id()?), bytes: row.integer()? })
}

fn turn_summary(mut row: Columns, project: &ProjectId) -> Result<TurnSummary, StoreError> {
    let time = |number: Option<i64>| number.map(Timestamp::from_unix_ms);
    Ok(TurnSummary {
        id: ResponseId::from_uuid(row.id()?),
        project: project.clone(),
        parent: row.optional_id().map(ResponseId::from_uuid),
        conversation: row.optional_text(),
        account: row.text()?,
        boundary: row.text()?,
        upstream_id: row.optional_text(),
        model: row.text()?,
        status: status_of(row.integer()?)?,
        depth: row.integer()?,
        created_at: Timestamp::from_unix_ms(row.number()?),
        expires_at: time(row.optional_number()),
        deleted_at: time(row.optional_number()),
        input_bytes: row.integer()?,
        output_bytes: row.integer()?,
        is_posted: row.number()? != 0,
        log: row.optional_rest().map(log_row).transpose()?,
    })
}
