//! Searches of the request log: pages of rows, the newest first.
//!
//! A search reads a bounded number of rows, whatever it looks for. When it has not filled its page by then, it says where it stopped,
//! and the next page goes on from there. Indexes find turns that did not go well. Hours without rows of a key, an account, a
//! model or a project are skipped, as the sums of these hours tell: this costs the turns nothing.

use antiphon_protocol::id::ResponseId;
use uuid::Uuid;

use crate::request_log::{COLUMNS, log_row};
use crate::sql::{Argument, Columns, Database, Kind, Query, id, number, optional_text, text};
use crate::{HOUR_MS, LogRow, StoreError, Timestamp};

/// How many rows one search reads at most. It reads few at first, and then more at once.
const MAX_SCANNED: i64 = 60_000;
const FIRST_STEP: i64 = 1_000;
const MAX_STEP: i64 = 20_000;

/// Which rows of the request log to list. Only rows to which everything that is given applies.
#[derive(Debug, Clone, Default)]
pub struct LogQuery {
    pub project: Option<String>,
    /// The id of a key.
    pub key: Option<String>,
    pub account: Option<String>,
    pub model: Option<String>,
    pub outcome: Option<String>,
    pub code: Option<String>,
    /// Only rows of this time or later.
    pub since: Option<Timestamp>,
    /// Only rows before this time.
    pub until: Option<Timestamp>,
    /// Only rows older than this position.
    pub after: Option<LogPosition>,
    pub max_rows: u32,
}

/// A place between two rows: after that of this turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogPosition {
    pub at: Timestamp,
    pub response: Uuid,
}

/// Rows, the newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPage {
    pub rows: Vec<LogRow>,
    /// Where the search goes on; `None` if there is nothing more to be found. A page can be short, or empty, and have this.
    pub next: Option<LogPosition>,
}

/// Of the rows of a step that meet a condition, those that the filters let through. The step has both bounds, so that it reads no more
/// rows whatever PostgreSQL believes how many there are.
macro_rules! search {
    ($condition:literal) => {
        concat!(
            "SELECT at, response_id, project, key_id, account, model, transport, outcome, http_status, code, depth, attempts, \
             input_tokens, cached_tokens, output_tokens, reasoning_tokens, cost_nano_usd, duration_us, first_event_us, estimated, sent_us, \
             attempt_log, reasoning FROM request_log WHERE ",
            $condition,
            " AND (at, response_id) < ($2, $3) AND (at, response_id) >= ($4, $5) \
             AND (project = $6 OR $6 IS NULL) AND (key_id = $7 OR $7 IS NULL) AND (account = $8 OR $8 IS NULL) \
             AND (model = $9 OR $9 IS NULL) AND (outcome = $10 OR $10 IS NULL) AND (code = $11 OR $11 IS NULL) \
             ORDER BY at DESC, response_id DESC LIMIT $12"
        )
    };
}

/// The last row of a step: the one after so many others.
macro_rules! end_of_step {
    ($condition:literal) => {
        concat!(
            "SELECT at, response_id FROM request_log WHERE ",
            $condition,
            " AND (at, response_id) < ($2, $3) AND at >= $4 ORDER BY at DESC, response_id DESC LIMIT 1 OFFSET $5"
        )
    };
}

/// $1 is an empty text.
const ALL: [&str; 2] = [search!("outcome >= $1"), end_of_step!("outcome >= $1")];

const BY_OUTCOME: [&str; 2] = [
    search!("outcome = $1 AND outcome <> 'completed'"),
    end_of_step!("outcome = $1 AND outcome <> 'completed'"),
];

const BY_CODE: [&str; 2] = [search!("code = $1"), end_of_step!("code = $1")];

const ROLLED_UP_UNTIL: &str =
    "SELECT coalesce(max(starts_at) + 3600000, 0) FROM usage_rollups WHERE part = 0";

/// The last hour that begins at $1 or earlier and has turns like these. Turns without an account have no model there.
const LAST_HOUR: &str = "SELECT starts_at FROM usage_rollups WHERE part = 0 AND starts_at <= $1 \
     AND (project = $2 OR $2 IS NULL) AND (key_id = $3 OR $3 IS NULL) AND (account = $4 OR $4 IS NULL) \
     AND (model = $5 OR model = '' OR $5 IS NULL) ORDER BY starts_at DESC LIMIT 1";

/// For the tests of both engines.
#[cfg(test)]
pub(crate) const STATEMENTS: [&str; 8] =
    [ALL[0], ALL[1], BY_OUTCOME[0], BY_OUTCOME[1], BY_CODE[0], BY_CODE[1], ROLLED_UP_UNTIL, LAST_HOUR];

/// A search that is under way.
struct Search<'a> {
    query: &'a LogQuery,
    /// The statements, and the value of their condition.
    statements: &'static [&'static str; 2],
    condition: String,
    since: i64,
    position: LogPosition,
}

pub(crate) async fn search<D: Database>(database: &D, query: &LogQuery) -> Result<LogPage, StoreError> {
    let mut search = Search::new(query);
    let mut rows: Vec<LogRow> = Vec::new();
    let max_rows = i64::from(query.max_rows);
    let (mut scanned, mut step) = (0, FIRST_STEP);
    while scanned < MAX_SCANNED {
        let end = search.end_of_step(database, step).await?;
        let found = search.read(database, end, max_rows - rows.len() as i64).await?;
        rows.extend(found);
        if let Some(last) = rows.last().filter(|_| rows.len() as i64 >= max_rows) {
            let next = Some(LogPosition { at: last.at, response: last.response.uuid() });
            return Ok(LogPage { rows, next });
        }
        match end {
            Some(end) => search.position = end,
            None => return Ok(LogPage { rows, next: None }),
        }
        (scanned, step) = (scanned + step, MAX_STEP.min(step * 4));
        if !search.skip_hours(database).await? {
            return Ok(LogPage { rows, next: None });
        }
    }
    Ok(LogPage { rows, next: Some(search.position) })
}

// === impl Search ===

impl<'a> Search<'a> {
    fn new(query: &'a LogQuery) -> Self {
        let (statements, condition) = match (&query.code, query.outcome.as_deref()) {
            (Some(code), _) => (&BY_CODE, code.clone()),
            (None, Some(outcome)) if outcome != "completed" => (&BY_OUTCOME, outcome.to_owned()),
            _ => (&ALL, String::new()),
        };
        let until = query.until.unwrap_or(Timestamp::from_unix_ms(i64::MAX));
        let newest = LogPosition { at: until, response: Uuid::nil() };
        let position = query.after.map_or(newest, |after| after.min(newest));
        let since = query.since.map_or(0, Timestamp::unix_ms);
        Self { query, statements, condition, since, position }
    }

    /// What the search looks for, and where it has come to.
    fn start(&self) -> Vec<Argument> {
        vec![text(self.condition.clone()), number(self.position.at.unix_ms()), id(self.position.response)]
    }

    /// Reads a step: to this position, or to the end.
    async fn read<D: Database>(
        &self,
        database: &D,
        end: Option<LogPosition>,
        max_rows: i64,
    ) -> Result<Vec<LogRow>, StoreError> {
        let LogQuery { project, key, account, model, outcome, code, .. } = self.query;
        let mut arguments = self.start();
        arguments.extend(match end {
            Some(end) => [number(end.at.unix_ms()), id(end.response)],
            None => [number(self.since), id(Uuid::nil())],
        });
        arguments
            .extend([project, key, account, model, outcome, code].map(|name| optional_text(name.clone())));
        arguments.push(number(max_rows));
        let rows = database.query(Query { text: self.statements[0], arguments, columns: &COLUMNS }).await?;
        rows.into_iter().map(log_row).collect()
    }

    /// The last of so many rows; `None` if there are fewer.
    async fn end_of_step<D: Database>(
        &self,
        database: &D,
        rows: i64,
    ) -> Result<Option<LogPosition>, StoreError> {
        let mut arguments = self.start();
        arguments.extend([number(self.since), number(rows - 1)]);
        let columns = &[Kind::Number, Kind::Id];
        let rows = database.query(Query { text: self.statements[1], arguments, columns }).await?;
        let Some(mut row) = rows.into_iter().next() else { return Ok(None) };
        Ok(Some(LogPosition { at: Timestamp::from_unix_ms(row.number()?), response: row.id()? }))
    }

    /// Moves on to the next hour with rows of this kind, as far as hours are rolled up. `false` if there is none.
    async fn skip_hours<D: Database>(&mut self, database: &D) -> Result<bool, StoreError> {
        let LogQuery { project, key, account, model, .. } = self.query;
        if [project, key, account, model].into_iter().all(Option::is_none) {
            return Ok(true);
        }
        let at = self.position.at.unix_ms();
        let mut arguments = vec![number(at)];
        arguments.extend([project, key, account, model].map(|name| optional_text(name.clone())));
        let first = |rows: Vec<Columns>| rows.into_iter().next().and_then(|mut row| row.optional_number());
        let query = |text, arguments| Query { text, arguments, columns: &[Kind::Number] };
        let rolled_up_until = first(database.query(query(ROLLED_UP_UNTIL, Vec::new())).await?).unwrap_or(0);
        if at >= rolled_up_until {
            return Ok(true);
        }
        let Some(hour) = first(database.query(query(LAST_HOUR, arguments)).await?) else { return Ok(false) };
        let end = LogPosition { at: Timestamp::from_unix_ms(hour + HOUR_MS), response: Uuid::nil() };
        self.position = self.position.min(end);
        Ok(true)
    }
}

// === impl LogPosition ===

impl LogPosition {
    /// Just after the row of this turn.
    pub fn after(row: &LogRow) -> Self {
        Self { at: row.at, response: ResponseId::uuid(row.response) }
    }
}
