//! Usage: sums over the request log, and over rows that were purged from it.
//!
//! A row counts exactly once, however late it is written and whatever is interrupted, because it is in one place at a time: in
//! the request log or, once purged, in the sums of parts 1 (by hour) and 2 (by day) of `usage_rollups`. The transaction that
//! removes a row from the log adds it to those sums. Part 0 holds sums over rows that are still in the log, by hour; they only
//! make reading faster. An hour is rolled up again when a row for it comes late, and hours after the last one in part 0 are
//! read from the log. Part 3 holds sums over the hours of part 0, by day, as a month with many keys has very many hours.
//!
//! Two bounds follow from the sums themselves, so no other state must be kept consistent with them: rows before the end of the
//! newest hour in part 1 are being purged, and rows after the end of the newest hour in part 0 are not rolled up yet.

use async_trait::async_trait;

use crate::sql::{Argument, Columns, Database, Kind, Query, Statement, number, optional_text, text};
use crate::{StoreError, Timestamp, overview};

pub const HOUR_MS: i64 = 3_600_000;
pub const DAY_MS: i64 = 24 * HOUR_MS;

/// Sums over turns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    pub turns: u64,
    /// Turns that failed, were refused or were lost.
    pub failed_turns: u64,
    /// Turns with tokens whose model had no price. Their cost is missing from the sum.
    pub unpriced_turns: u64,
    /// Turns whose tokens were estimated, because the upstream reported none.
    pub estimated_turns: u64,
    pub input_tokens: u64,
    pub cached_tokens: u64,
    pub output_tokens: u64,
    pub reasoning_tokens: u64,
    pub cost_nano_usd: u64,
}

/// What the turns of a group have in common; `None` where they have none, or where the query doesn't group by it. Lists are in
/// the order of this type.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct UsageGroup {
    /// When the hour or day begins.
    pub starts_at: Option<Timestamp>,
    pub project: Option<String>,
    pub key: Option<String>,
    /// The account that served the turn, or was tried last.
    pub account: Option<String>,
    /// `None` for turns for which no account was chosen.
    pub model: Option<String>,
}

/// How turns are grouped by time, in UTC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Span {
    #[default]
    All,
    Day,
    Hour,
}

/// Which turns to sum up, and how to group them.
#[derive(Debug, Clone, Default)]
pub struct UsageQuery {
    /// Whole hours count: from the beginning of the hour of `from` to the end of the hour of `to`.
    pub from: Timestamp,
    pub to: Timestamp,
    pub span: Span,
    pub by_project: bool,
    pub by_key: bool,
    pub by_account: bool,
    pub by_model: bool,
    /// Only turns of this project, key, account or model.
    pub only: UsageGroup,
    /// The last group of the page before.
    pub after: Option<UsageGroup>,
    pub max_groups: u32,
}

/// Usage.
#[async_trait]
pub trait Usage: Send + Sync {
    /// The groups that have turns, in order. A row counts as soon as it is written, unless its hour was rolled up before: then
    /// it counts once the hour is rolled up again ([`roll_up_hour`](Self::roll_up_hour)).
    ///
    /// # Errors
    /// A [read error](StoreError#read-errors).
    async fn list_usage(&self, query: UsageQuery) -> Result<Vec<(UsageGroup, Totals)>, StoreError>;

    /// Rolls up the first hour with rows in the log that begins at or after `from` and before `until`, and returns when that
    /// hour ends. `None` if there is no such hour. Replicas may do this again, or at the same time.
    ///
    /// # Errors
    /// A [read error](StoreError#read-errors) or a [write error](StoreError#write-errors).
    async fn roll_up_hour(&self, from: Timestamp, until: Timestamp) -> Result<Option<Timestamp>, StoreError>;

    /// Where the last hour ends that was rolled up.
    ///
    /// # Errors
    /// A [read error](StoreError#read-errors).
    async fn rolled_up_until(&self) -> Result<Timestamp, StoreError>;

    /// Removes about `max_rows` hourly and `max_rows` daily sums of purged rows that begin before these times. `false` if there
    /// were none.
    ///
    /// # Errors
    /// A [write error](StoreError#write-errors).
    async fn purge_usage(
        &self,
        hours_before: Option<Timestamp>,
        days_before: Option<Timestamp>,
        max_rows: u32,
    ) -> Result<bool, StoreError>;
}

/// The key of a sum, and its figures.
macro_rules! usage_columns {
    () => {
        "starts_at, project, key_id, account, model, turns, failed_turns, unpriced_turns, estimated_turns, input_tokens, \
         cached_tokens, output_tokens, reasoning_tokens, cost_nano_usd"
    };
}

/// A row of the log as a sum of one turn.
macro_rules! turn_as_usage {
    () => {
        "SELECT at - at % 3600000 AS starts_at, project, coalesce(key_id, '') AS key_id, \
         coalesce(account, '') AS account, CASE WHEN account IS NULL THEN '' ELSE model END AS model, 1 AS turns, \
         CASE WHEN outcome IN ('failed', 'refused', 'lost') THEN 1 ELSE 0 END AS failed_turns, \
         CASE WHEN cost_nano_usd IS NULL AND input_tokens + output_tokens > 0 THEN 1 ELSE 0 END AS unpriced_turns, \
         estimated AS estimated_turns, input_tokens, cached_tokens, output_tokens, reasoning_tokens, coalesce(cost_nano_usd, 0) AS cost_nano_usd "
    };
}

/// The sums of a group. PostgreSQL's sum of bigints is wider than a bigint.
macro_rules! sums {
    () => {
        "CAST(sum(turns) AS bigint) AS turns, CAST(sum(failed_turns) AS bigint) AS failed_turns, \
         CAST(sum(unpriced_turns) AS bigint) AS unpriced_turns, \
         CAST(sum(estimated_turns) AS bigint) AS estimated_turns, CAST(sum(input_tokens) AS bigint) AS input_tokens, \
         CAST(sum(cached_tokens) AS bigint) AS cached_tokens, CAST(sum(output_tokens) AS bigint) AS output_tokens, \
         CAST(sum(reasoning_tokens) AS bigint) AS reasoning_tokens, \
         CAST(sum(cost_nano_usd) AS bigint) AS cost_nano_usd "
    };
}

/// Ends a statement that adds sums to existing ones. It writes them in the order of their keys, so that replicas don't deadlock.
macro_rules! add_up {
    () => {
        " GROUP BY 2, 3, 4, 5, 6 ORDER BY 2, 3, 4, 5, 6 \
         ON CONFLICT (part, starts_at, project, key_id, account, model) DO UPDATE SET \
         turns = usage_rollups.turns + excluded.turns, \
         failed_turns = usage_rollups.failed_turns + excluded.failed_turns, \
         unpriced_turns = usage_rollups.unpriced_turns + excluded.unpriced_turns, \
         estimated_turns = usage_rollups.estimated_turns + excluded.estimated_turns, \
         input_tokens = usage_rollups.input_tokens + excluded.input_tokens, \
         cached_tokens = usage_rollups.cached_tokens + excluded.cached_tokens, \
         output_tokens = usage_rollups.output_tokens + excluded.output_tokens, \
         reasoning_tokens = usage_rollups.reasoning_tokens + excluded.reasoning_tokens, \
         cost_nano_usd = usage_rollups.cost_nano_usd + excluded.cost_nano_usd"
    };
}

pub(crate) use {add_up, sums, turn_as_usage, usage_columns};

/// The sums of an hour. Reading them may take long, so it happens outside the transaction that writes them.
const READ_HOUR: &str = concat!(
    "SELECT starts_at, project, key_id, account, model, ",
    sums!(),
    "FROM (",
    turn_as_usage!(),
    "FROM request_log WHERE at >= $1 AND at < $2) turn GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5"
);

/// When two replicas roll up the same hour, the one that saw more rows is right: rows only come until the purge of that hour.
macro_rules! replace_sums {
    () => {
        " ON CONFLICT (part, starts_at, project, key_id, account, model) DO UPDATE SET turns = excluded.turns, \
         failed_turns = excluded.failed_turns, unpriced_turns = excluded.unpriced_turns, \
         estimated_turns = excluded.estimated_turns, \
         input_tokens = excluded.input_tokens, cached_tokens = excluded.cached_tokens, \
         output_tokens = excluded.output_tokens, reasoning_tokens = excluded.reasoning_tokens, \
         cost_nano_usd = excluded.cost_nano_usd WHERE excluded.turns > usage_rollups.turns"
    };
}

const PUT_HOUR: &str = concat!(
    "INSERT INTO usage_rollups (part, ",
    usage_columns!(),
    ") VALUES (0, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
    replace_sums!()
);

/// Sums up the days from $1 to $2, of the hours that are rolled up.
const PUT_DAYS: &str = concat!(
    "INSERT INTO usage_rollups (part, ",
    usage_columns!(),
    ") SELECT 3, starts_at - starts_at % 86400000, project, key_id, account, model, ",
    sums!(),
    "FROM usage_rollups WHERE part = 0 AND starts_at >= $1 AND starts_at < $2 GROUP BY 2, 3, 4, 5, 6 ORDER BY 2, 3, 4, 5, 6",
    replace_sums!()
);

const FIRST_ROW: &str = "SELECT min(at) FROM request_log WHERE at >= $1 AND at < $2";

/// Where the newest hour of a part ends.
const END_OF_PART: &str = "SELECT coalesce(max(starts_at) + 3600000, 0) FROM usage_rollups WHERE part = $1";

/// Never removes the newest hour of part 1: it tells how far the log is purged.
const PURGE: &str = "DELETE FROM usage_rollups WHERE part = $1 AND starts_at <= (SELECT max(starts_at) FROM \
     (SELECT starts_at FROM usage_rollups WHERE part = $1 AND starts_at < $2 ORDER BY starts_at LIMIT $3) oldest) \
     AND starts_at < (SELECT max(starts_at) FROM usage_rollups WHERE part = $1)";

/// Purged rows: by day ($9 to $10), and by hour before ($11 to $12) and after ($13 to $14) those days. Rows in the log: hours that
/// are rolled up and not being purged, of whole days (up to $1) as sums by day; hours that are not rolled up; and what is left of hours
/// that are being purged.
const USAGE: &str = concat!(
    "WITH bounds AS (SELECT leaving, CASE WHEN first_day < $1 THEN first_day ELSE $2 END AS days_from, \
       CASE WHEN first_day < $1 THEN $1 ELSE $2 END AS days_to \
       FROM (SELECT leaving, leaving + (86400000 - leaving % 86400000) % 86400000 AS first_day FROM (SELECT max(t) AS leaving \
         FROM (SELECT $3 AS t UNION ALL SELECT max(starts_at) + 3600000 FROM usage_rollups WHERE part = 1) known) hours) days) \
     SELECT ",
    usage_columns!(),
    " FROM (SELECT starts_at - starts_at % $4 AS starts_at, CASE WHEN $5 = 1 THEN project ELSE '' END AS project, \
     CASE WHEN $6 = 1 THEN key_id ELSE '' END AS key_id, CASE WHEN $7 = 1 THEN account ELSE '' END AS account, \
     CASE WHEN $8 = 1 THEN model ELSE '' END AS model, ",
    sums!(),
    "FROM (SELECT ",
    usage_columns!(),
    " FROM usage_rollups WHERE part = 2 AND starts_at >= $9 AND starts_at < $10 UNION ALL SELECT ",
    usage_columns!(),
    " FROM usage_rollups WHERE part = 1 AND starts_at >= $11 AND starts_at < $12 UNION ALL SELECT ",
    usage_columns!(),
    " FROM usage_rollups WHERE part = 1 AND starts_at >= $13 AND starts_at < $14 UNION ALL SELECT ",
    usage_columns!(),
    " FROM usage_rollups WHERE part = 0 AND starts_at >= (SELECT leaving FROM bounds) \
       AND starts_at < (SELECT days_from FROM bounds) UNION ALL SELECT ",
    usage_columns!(),
    " FROM usage_rollups WHERE part = 3 AND starts_at >= (SELECT days_from FROM bounds) \
       AND starts_at < (SELECT days_to FROM bounds) UNION ALL SELECT ",
    usage_columns!(),
    " FROM usage_rollups WHERE part = 0 AND starts_at >= (SELECT days_to FROM bounds) AND starts_at < $2 UNION ALL ",
    turn_as_usage!(),
    "FROM request_log WHERE at >= (SELECT max(t) FROM (SELECT leaving AS t FROM bounds UNION ALL \
       SELECT max(starts_at) + 3600000 FROM usage_rollups WHERE part = 0) known) AND at < $2 UNION ALL ",
    turn_as_usage!(),
    "FROM request_log WHERE at >= $3 AND at < (SELECT min(t) FROM (SELECT $2 AS t UNION ALL \
       SELECT coalesce(max(starts_at) + 3600000, 0) FROM usage_rollups WHERE part = 1) leaving)) turns \
     WHERE (project = $15 OR $15 IS NULL) AND (key_id = $16 OR $16 IS NULL) AND (account = $17 OR $17 IS NULL) \
     AND (model = $18 OR $18 IS NULL) GROUP BY 1, 2, 3, 4, 5) summed \
     WHERE (starts_at, project, key_id, account, model) > ($19, $20, $21, $22, $23) ORDER BY 1, 2, 3, 4, 5 LIMIT $24"
);

/// Parts 0 and 3 lose the hours and days that are being purged from the log.
pub(crate) const PURGE_ROLLED_UP: &str = "DELETE FROM usage_rollups WHERE part IN (0, 3) AND starts_at <= $1";

/// For the tests of both engines.
#[cfg(test)]
pub(crate) const STATEMENTS: [&str; 8] =
    [READ_HOUR, PUT_HOUR, PUT_DAYS, FIRST_ROW, END_OF_PART, PURGE, USAGE, PURGE_ROLLED_UP];

/// The types of [`usage_columns!`].
const SUMS: [Kind; 14] = [
    Kind::Number,
    Kind::Text,
    Kind::Text,
    Kind::Text,
    Kind::Text,
    Kind::Number,
    Kind::Number,
    Kind::Number,
    Kind::Number,
    Kind::Number,
    Kind::Number,
    Kind::Number,
    Kind::Number,
    Kind::Number,
];

const IN_LOG: i64 = 0;
const HOURS: i64 = 1;
const DAYS: i64 = 2;

fn floor(ms: i64, unit: i64) -> i64 {
    ms - ms.rem_euclid(unit)
}

fn ceil(ms: i64, unit: i64) -> i64 {
    floor(ms.saturating_add(unit - 1), unit)
}

async fn read_number<D: Database>(
    database: &D,
    text: &'static str,
    arguments: Vec<Argument>,
) -> Result<Option<i64>, StoreError> {
    let rows = database.query(Query { text, arguments, columns: &[Kind::Number] }).await?;
    Ok(rows.into_iter().next().and_then(|mut row| row.optional_number()))
}

#[async_trait]
impl<D: Database> Usage for D {
    async fn list_usage(&self, query: UsageQuery) -> Result<Vec<(UsageGroup, Totals)>, StoreError> {
        let rows = self.query(Query { text: USAGE, arguments: query.arguments(), columns: &SUMS }).await?;
        rows.into_iter().map(|row| query.group(row)).collect()
    }

    async fn roll_up_hour(&self, from: Timestamp, until: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        let purged_until = read_number(self, END_OF_PART, vec![number(HOURS)]).await?.unwrap_or(0);
        let (from, until) =
            (floor(from.unix_ms(), HOUR_MS).max(purged_until), floor(until.unix_ms(), HOUR_MS));
        let Some(row) = read_number(self, FIRST_ROW, vec![number(from), number(until)]).await? else {
            return Ok(None);
        };
        let start = floor(row, HOUR_MS);
        let end = start + HOUR_MS;
        let arguments = vec![number(start), number(end)];
        let sums = self.query(Query { text: READ_HOUR, arguments, columns: &SUMS }).await?;
        let put = |row: Columns| Statement::new(PUT_HOUR, row.into_arguments(&SUMS));
        let mut statements: Vec<Statement> = sums.into_iter().map(put).collect();
        // The first hour of a day sums up the day before once more: a replica of an earlier version may have rolled up its last hour.
        let days = vec![number(floor(start - HOUR_MS, DAY_MS)), number(floor(start, DAY_MS) + DAY_MS)];
        statements.push(Statement::new(PUT_DAYS, days));
        statements.extend(overview::roll_up_hour(self, start, end).await?);
        self.group().execute_all(statements).await?;
        Ok(Some(Timestamp::from_unix_ms(end)))
    }

    async fn rolled_up_until(&self) -> Result<Timestamp, StoreError> {
        let end = read_number(self, END_OF_PART, vec![number(IN_LOG)]).await?;
        Ok(Timestamp::from_unix_ms(end.unwrap_or(0)))
    }

    async fn purge_usage(
        &self,
        hours_before: Option<Timestamp>,
        days_before: Option<Timestamp>,
        max_rows: u32,
    ) -> Result<bool, StoreError> {
        let parts = [(HOURS, hours_before), (DAYS, days_before)];
        let before = parts.into_iter().filter_map(|(part, before)| Some((part, before?)));
        let purge = |(part, before): (i64, Timestamp)| {
            let arguments = vec![number(part), number(before.unix_ms()), number(i64::from(max_rows))];
            [Statement::new(PURGE, arguments)].into_iter().chain(overview::purge(part, before))
        };
        self.group().execute_all(before.flat_map(purge).collect()).await
    }
}

// === impl UsageQuery ===

impl UsageQuery {
    /// In the order of [`USAGE`].
    fn arguments(&self) -> Vec<Argument> {
        let from = floor(self.from.unix_ms(), HOUR_MS);
        let to = ceil(self.to.unix_ms(), HOUR_MS);
        let whole_days = (ceil(from, DAY_MS), floor(to, DAY_MS));
        let (days, before, after) = if self.span == Span::Hour || whole_days.0 >= whole_days.1 {
            ((0, 0), (from, to), (0, 0))
        } else {
            (whole_days, (from, whole_days.0), (whole_days.1, to))
        };
        let flag = |is_set: bool| number(i64::from(is_set));
        let only = &self.only;
        let after_group = self.after.clone().unwrap_or_default();
        let start = self.after.as_ref().map_or(-1, |group| group.starts_at.map_or(0, Timestamp::unix_ms));
        let whole_days_to = if self.span == Span::Hour { 0 } else { floor(to, DAY_MS) };
        vec![
            number(whole_days_to),
            number(to),
            number(from),
            number(self.span.unit_ms()),
            flag(self.by_project),
            flag(self.by_key),
            flag(self.by_account),
            flag(self.by_model),
            number(days.0),
            number(days.1),
            number(before.0),
            number(before.1),
            number(after.0),
            number(after.1),
            optional_text(only.project.clone()),
            optional_text(only.key.clone()),
            optional_text(only.account.clone()),
            optional_text(only.model.clone()),
            number(start),
            text(after_group.project.unwrap_or_default()),
            text(after_group.key.unwrap_or_default()),
            text(after_group.account.unwrap_or_default()),
            text(after_group.model.unwrap_or_default()),
            number(i64::from(self.max_groups)),
        ]
    }

    fn group(&self, mut row: Columns) -> Result<(UsageGroup, Totals), StoreError> {
        let start = Timestamp::from_unix_ms(row.number()?);
        let mut name = || row.text().map(|name| Some(name).filter(|name| !name.is_empty()));
        let group = UsageGroup {
            starts_at: (self.span != Span::All).then_some(start),
            project: name()?,
            key: name()?,
            account: name()?,
            model: name()?,
        };
        let mut count = || row.number().map(i64::unsigned_abs);
        let totals = Totals {
            turns: count()?,
            failed_turns: count()?,
            unpriced_turns: count()?,
            estimated_turns: count()?,
            input_tokens: count()?,
            cached_tokens: count()?,
            output_tokens: count()?,
            reasoning_tokens: count()?,
            cost_nano_usd: count()?,
        };
        Ok((group, totals))
    }
}

// === impl Span ===

impl Span {
    /// `All` is one unit that begins at zero.
    fn unit_ms(self) -> i64 {
        match self {
            Self::All => i64::MAX,
            Self::Day => DAY_MS,
            Self::Hour => HOUR_MS,
        }
    }
}
