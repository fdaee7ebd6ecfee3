//! Sums over turns for charts: by model and outcome, and by how long they took.
//!
//! They live like the sums of [`Usage`](crate::Usage), in the same transactions: `usage_rollups` tells which hours are rolled up
//! and which are being purged. They are apart from those, as there are many more of those where there are many keys.

use async_trait::async_trait;

use crate::account_sums::{self, AccountSum};
use crate::sql::{Argument, Columns, Database, Kind, Query, Statement, number};
use crate::{DAY_MS, StoreError, Timestamp};

/// Which turns to sum up, and in which intervals.
#[derive(Debug, Clone, Copy)]
pub struct OverviewQuery {
    /// Both are whole hours; with intervals of whole days, whole days.
    pub from: Timestamp,
    pub to: Timestamp,
    /// The length of an interval. Intervals begin at its multiples in UTC.
    pub interval_ms: i64,
}

/// The turns of an interval with the same model and outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutcomeSum {
    pub starts_at: Timestamp,
    /// Empty for turns that no account was chosen for.
    pub model: String,
    pub outcome: String,
    pub turns: u64,
    pub unpriced_turns: u64,
    pub input_tokens: u64,
    pub cached_tokens: u64,
    pub output_tokens: u64,
    pub reasoning_tokens: u64,
    pub cost_nano_usd: u64,
}

/// What took how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Latency {
    FirstEvent,
    Duration,
}

/// How many turns of an interval that an upstream served took so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LatencySum {
    pub starts_at: Timestamp,
    pub latency: Latency,
    /// The upper bound of the bucket.
    pub up_to_us: u64,
    pub turns: u64,
}

/// Sums for charts.
///
/// # Errors
/// [Read errors](StoreError#read-errors).
#[async_trait]
pub trait Overview: Send + Sync {
    async fn list_outcomes(&self, query: OverviewQuery) -> Result<Vec<OutcomeSum>, StoreError>;

    async fn list_latencies(&self, query: OverviewQuery) -> Result<Vec<LatencySum>, StoreError>;

    async fn list_account_sums(&self, query: OverviewQuery) -> Result<Vec<AccountSum>, StoreError>;
}

macro_rules! outcome_columns {
    () => {
        "starts_at, model, outcome, turns, unpriced_turns, input_tokens, cached_tokens, output_tokens, reasoning_tokens, \
         cost_nano_usd"
    };
}

/// A row of the log as a sum of one turn.
macro_rules! turn_as_outcome {
    () => {
        "SELECT at - at % 3600000 AS starts_at, CASE WHEN account IS NULL THEN '' ELSE model END AS model, outcome, 1 AS turns, \
         CASE WHEN cost_nano_usd IS NULL AND input_tokens + output_tokens > 0 THEN 1 ELSE 0 END AS unpriced_turns, \
         input_tokens, cached_tokens, output_tokens, reasoning_tokens, coalesce(cost_nano_usd, 0) AS cost_nano_usd "
    };
}

/// The sums of a group. PostgreSQL's sum of bigints is wider than a bigint.
macro_rules! outcome_sums {
    () => {
        "CAST(sum(turns) AS bigint) AS turns, CAST(sum(unpriced_turns) AS bigint) AS unpriced_turns, \
         CAST(sum(input_tokens) AS bigint) AS input_tokens, CAST(sum(cached_tokens) AS bigint) AS cached_tokens, \
         CAST(sum(output_tokens) AS bigint) AS output_tokens, CAST(sum(reasoning_tokens) AS bigint) AS reasoning_tokens, \
         CAST(sum(cost_nano_usd) AS bigint) AS cost_nano_usd "
    };
}

macro_rules! add_up_outcomes {
    () => {
        " GROUP BY 2, 3, 4 ORDER BY 2, 3, 4 ON CONFLICT (part, starts_at, model, outcome) DO UPDATE SET \
         turns = outcome_rollups.turns + excluded.turns, \
         unpriced_turns = outcome_rollups.unpriced_turns + excluded.unpriced_turns, \
         input_tokens = outcome_rollups.input_tokens + excluded.input_tokens, \
         cached_tokens = outcome_rollups.cached_tokens + excluded.cached_tokens, \
         output_tokens = outcome_rollups.output_tokens + excluded.output_tokens, \
         reasoning_tokens = outcome_rollups.reasoning_tokens + excluded.reasoning_tokens, \
         cost_nano_usd = outcome_rollups.cost_nano_usd + excluded.cost_nano_usd"
    };
}

/// How long turns took that an upstream served, in buckets whose bounds grow by 1.3 to 1.7. `$from` names rows of the log.
macro_rules! turns_as_latencies {
    ($from:literal) => {
        concat!(
            "SELECT at - at % 3600000 AS starts_at, CAST(measure AS bigint) AS measure, \
             CAST(CASE WHEN us <= 1000 THEN 1000 WHEN us <= 1500 THEN 1500 \
             WHEN us <= 2000 THEN 2000 WHEN us <= 3000 THEN 3000 WHEN us <= 5000 THEN 5000 WHEN us <= 7000 THEN 7000 \
             WHEN us <= 10000 THEN 10000 WHEN us <= 15000 THEN 15000 WHEN us <= 20000 THEN 20000 \
             WHEN us <= 30000 THEN 30000 WHEN us <= 50000 THEN 50000 WHEN us <= 70000 THEN 70000 \
             WHEN us <= 100000 THEN 100000 WHEN us <= 150000 THEN 150000 WHEN us <= 200000 THEN 200000 \
             WHEN us <= 300000 THEN 300000 WHEN us <= 500000 THEN 500000 WHEN us <= 700000 THEN 700000 \
             WHEN us <= 1000000 THEN 1000000 WHEN us <= 1500000 THEN 1500000 WHEN us <= 2000000 THEN 2000000 \
             WHEN us <= 3000000 THEN 3000000 WHEN us <= 5000000 THEN 5000000 WHEN us <= 7000000 THEN 7000000 \
             WHEN us <= 10000000 THEN 10000000 WHEN us <= 15000000 THEN 15000000 WHEN us <= 20000000 THEN 20000000 \
             WHEN us <= 30000000 THEN 30000000 WHEN us <= 50000000 THEN 50000000 WHEN us <= 70000000 THEN 70000000 \
             WHEN us <= 100000000 THEN 100000000 WHEN us <= 150000000 THEN 150000000 \
             WHEN us <= 200000000 THEN 200000000 WHEN us <= 300000000 THEN 300000000 \
             WHEN us <= 500000000 THEN 500000000 WHEN us <= 700000000 THEN 700000000 \
             WHEN us <= 1000000000 THEN 1000000000 WHEN us <= 1500000000 THEN 1500000000 \
             WHEN us <= 2000000000 THEN 2000000000 WHEN us <= 3000000000 THEN 3000000000 ELSE 7000000000 END AS bigint) AS up_to_us, \
             1 AS turns FROM (SELECT at, 0 AS measure, first_event_us AS us FROM ",
            $from,
            " AND first_event_us IS NOT NULL UNION ALL SELECT at, 1 AS measure, duration_us AS us FROM ",
            $from,
            " AND first_event_us IS NOT NULL) took "
        )
    };
}

macro_rules! add_up_latencies {
    () => {
        " GROUP BY 2, 3, 4 ORDER BY 2, 3, 4 ON CONFLICT (part, starts_at, measure, up_to_us) DO UPDATE SET \
         turns = latency_rollups.turns + excluded.turns"
    };
}

pub(crate) use {
    add_up_latencies, add_up_outcomes, outcome_columns, outcome_sums, turn_as_outcome, turns_as_latencies,
};

const READ_OUTCOMES: &str = concat!(
    "SELECT starts_at, model, outcome, ",
    outcome_sums!(),
    "FROM (",
    turn_as_outcome!(),
    "FROM request_log WHERE at >= $1 AND at < $2) turn GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
);

const PUT_OUTCOME: &str = concat!(
    "INSERT INTO outcome_rollups (part, ",
    outcome_columns!(),
    ") VALUES (0, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10) \
     ON CONFLICT (part, starts_at, model, outcome) DO UPDATE SET turns = excluded.turns, \
     unpriced_turns = excluded.unpriced_turns, input_tokens = excluded.input_tokens, \
     cached_tokens = excluded.cached_tokens, output_tokens = excluded.output_tokens, \
     reasoning_tokens = excluded.reasoning_tokens, cost_nano_usd = excluded.cost_nano_usd \
     WHERE excluded.turns > outcome_rollups.turns"
);

const READ_LATENCIES: &str = concat!(
    "SELECT starts_at, measure, up_to_us, CAST(sum(turns) AS bigint) FROM (",
    turns_as_latencies!("request_log WHERE at >= $1 AND at < $2"),
    ") turn GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
);

const PUT_LATENCY: &str = "INSERT INTO latency_rollups (part, starts_at, measure, up_to_us, turns) \
     VALUES (0, $1, $2, $3, $4) ON CONFLICT (part, starts_at, measure, up_to_us) DO UPDATE SET turns = excluded.turns \
     WHERE excluded.turns > latency_rollups.turns";

/// Where the newest hour of each part ends: of hours in the log that are rolled up, and of purged ones.
const BOUNDS: &str = "SELECT (SELECT coalesce(max(starts_at) + 3600000, 0) FROM usage_rollups WHERE part = 0), \
     (SELECT coalesce(max(starts_at) + 3600000, 0) FROM usage_rollups WHERE part = 1)";

/// Rows of $2, the part of purged rows; hours that are rolled up and not being purged ($5 to $6); hours that are not rolled up ($7 on);
/// and what is left of hours that are being purged (to $8). The bounds are numbers, so that PostgreSQL knows how few rows there are.
const OUTCOMES: &str = concat!(
    "SELECT starts_at - starts_at % $1, model, outcome, ",
    outcome_sums!(),
    "FROM (SELECT ",
    outcome_columns!(),
    " FROM outcome_rollups WHERE part = $2 AND starts_at >= $3 AND starts_at < $4 UNION ALL SELECT ",
    outcome_columns!(),
    " FROM outcome_rollups WHERE part = 0 AND starts_at >= $5 AND starts_at < $6 UNION ALL ",
    turn_as_outcome!(),
    "FROM request_log WHERE at >= $7 AND at < $4 UNION ALL ",
    turn_as_outcome!(),
    "FROM request_log WHERE at >= $3 AND at < $8) turns GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
);

/// As [`OUTCOMES`].
const LATENCIES: &str = concat!(
    "SELECT starts_at - starts_at % $1, measure, up_to_us, CAST(sum(turns) AS bigint) \
     FROM (SELECT starts_at, measure, up_to_us, turns FROM latency_rollups \
       WHERE part = $2 AND starts_at >= $3 AND starts_at < $4 UNION ALL \
     SELECT starts_at, measure, up_to_us, turns FROM latency_rollups \
       WHERE part = 0 AND starts_at >= $5 AND starts_at < $6 UNION ALL ",
    turns_as_latencies!("request_log WHERE at >= $7 AND at < $4"),
    " UNION ALL ",
    turns_as_latencies!("request_log WHERE at >= $3 AND at < $8"),
    ") turns GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
);

const PURGE_OUTCOMES: &str = "DELETE FROM outcome_rollups WHERE part = $1 AND starts_at < $2";

const PURGE_LATENCIES: &str = "DELETE FROM latency_rollups WHERE part = $1 AND starts_at < $2";

/// Part 0 loses the hours that are being purged from the log.
pub(crate) const PURGE_ROLLED_UP: [&str; 3] = [
    "DELETE FROM outcome_rollups WHERE part = 0 AND starts_at <= $1",
    "DELETE FROM latency_rollups WHERE part = 0 AND starts_at <= $1",
    account_sums::PURGE_ROLLED_UP,
];

/// For the tests of both engines.
#[cfg(test)]
pub(crate) const STATEMENTS: [&str; 11] = [
    READ_OUTCOMES,
    PUT_OUTCOME,
    READ_LATENCIES,
    PUT_LATENCY,
    BOUNDS,
    OUTCOMES,
    LATENCIES,
    PURGE_OUTCOMES,
    PURGE_LATENCIES,
    PURGE_ROLLED_UP[0],
    PURGE_ROLLED_UP[1],
];

/// The types of [`outcome_columns!`].
const OUTCOME_COLUMNS: [Kind; 10] = {
    use Kind::{Number, Text};
    [Number, Text, Text, Number, Number, Number, Number, Number, Number, Number]
};

const LATENCY_COLUMNS: [Kind; 4] = [Kind::Number; 4];

/// What rolls up the hour that begins and ends at these times.
pub(crate) async fn roll_up_hour<D: Database>(
    database: &D,
    start: i64,
    end: i64,
) -> Result<Vec<Statement>, StoreError> {
    let kinds: [(&'static str, &'static str, &'static [Kind]); 3] = [
        (READ_OUTCOMES, PUT_OUTCOME, &OUTCOME_COLUMNS),
        (READ_LATENCIES, PUT_LATENCY, &LATENCY_COLUMNS),
        (account_sums::READ_ACCOUNTS, account_sums::PUT_ACCOUNT, &account_sums::COLUMNS),
    ];
    let mut statements = Vec::new();
    for (text, put, columns) in kinds {
        let arguments = vec![number(start), number(end)];
        let rows = database.query(Query { text, arguments, columns }).await?;
        let put = |row: Columns| Statement::new(put, row.into_arguments(columns));
        statements.extend(rows.into_iter().map(put));
    }
    Ok(statements)
}

/// What removes the sums of purged rows of this part that begin before this time.
pub(crate) fn purge(part: i64, before: Timestamp) -> [Statement; 3] {
    [PURGE_OUTCOMES, PURGE_LATENCIES, account_sums::PURGE_ACCOUNTS]
        .map(|text| Statement::new(text, vec![number(part), number(before.unix_ms())]))
}

#[async_trait]
impl<D: Database> Overview for D {
    async fn list_outcomes(&self, query: OverviewQuery) -> Result<Vec<OutcomeSum>, StoreError> {
        let arguments = query.arguments(self).await?;
        self.query(Query { text: OUTCOMES, arguments, columns: &OUTCOME_COLUMNS })
            .await?
            .into_iter()
            .map(outcome_sum)
            .collect()
    }

    async fn list_latencies(&self, query: OverviewQuery) -> Result<Vec<LatencySum>, StoreError> {
        let arguments = query.arguments(self).await?;
        self.query(Query { text: LATENCIES, arguments, columns: &LATENCY_COLUMNS })
            .await?
            .into_iter()
            .map(latency_sum)
            .collect()
    }

    async fn list_account_sums(&self, query: OverviewQuery) -> Result<Vec<AccountSum>, StoreError> {
        account_sums::list(self, query.arguments(self).await?).await
    }
}

fn outcome_sum(mut row: Columns) -> Result<OutcomeSum, StoreError> {
    let starts_at = Timestamp::from_unix_ms(row.number()?);
    let (model, outcome) = (row.text()?, row.text()?);
    let mut count = || row.number().map(i64::unsigned_abs);
    Ok(OutcomeSum {
        starts_at,
        model,
        outcome,
        turns: count()?,
        unpriced_turns: count()?,
        input_tokens: count()?,
        cached_tokens: count()?,
        output_tokens: count()?,
        reasoning_tokens: count()?,
        cost_nano_usd: count()?,
    })
}

fn latency_sum(mut row: Columns) -> Result<LatencySum, StoreError> {
    Ok(LatencySum {
        starts_at: Timestamp::from_unix_ms(row.number()?),
        latency: if row.number()? == 0 { Latency::FirstEvent } else { Latency::Duration },
        up_to_us: row.integer()?,
        turns: row.integer()?,
    })
}

// === impl OverviewQuery ===

impl OverviewQuery {
    /// In the order of [`OUTCOMES`]. Purged rows are summed by hour, and by day for longer.
    async fn arguments<D: Database>(self, database: &D) -> Result<Vec<Argument>, StoreError> {
        let columns = &[Kind::Number, Kind::Number];
        let rows = database.query(Query { text: BOUNDS, arguments: Vec::new(), columns }).await?;
        let bounds =
            rows.into_iter().next().map(|mut row| Ok::<_, StoreError>((row.number()?, row.number()?)));
        let (rolled_up, purged) = bounds.transpose()?.unwrap_or((0, 0));
        let (from, to) = (self.from.unix_ms(), self.to.unix_ms());
        let part = if self.interval_ms % DAY_MS == 0 { 2 } else { 1 };
        let in_log = from.max(purged);
        let numbers = [
            self.interval_ms,
            part,
            from,
            to,
            in_log,
            to.min(rolled_up),
            in_log.max(rolled_up),
            to.min(purged),
        ];
        Ok(numbers.map(number).into())
    }
}
