//! Sums over the turns of each account, for charts: part of the [overview](crate::overview).

use crate::sql::{Argument, Columns, Database, Kind, Query};
use crate::{StoreError, Timestamp};

/// The turns of an interval that an account served, or was tried for last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountSum {
    pub starts_at: Timestamp,
    pub account: String,
    pub turns: u64,
    /// Turns that failed, were refused or were lost.
    pub failed_turns: u64,
}

/// A row of the log as a sum of one turn. `$from` names rows of the log.
macro_rules! turn_as_account {
    ($from:literal) => {
        concat!(
            "SELECT at - at % 3600000 AS starts_at, account, 1 AS turns, \
             CASE WHEN outcome IN ('failed', 'refused', 'lost') THEN 1 ELSE 0 END AS failed_turns FROM ",
            $from,
            " AND account IS NOT NULL "
        )
    };
}

/// The sums of a group. PostgreSQL's sum of bigints is wider than a bigint.
macro_rules! account_sums {
    () => {
        "CAST(sum(turns) AS bigint) AS turns, CAST(sum(failed_turns) AS bigint) AS failed_turns "
    };
}

macro_rules! add_up_accounts {
    () => {
        " GROUP BY 2, 3 ORDER BY 2, 3 ON CONFLICT (part, starts_at, account) DO UPDATE SET \
         turns = account_rollups.turns + excluded.turns, \
         failed_turns = account_rollups.failed_turns + excluded.failed_turns"
    };
}

pub(crate) use {account_sums, add_up_accounts, turn_as_account};

pub(crate) const READ_ACCOUNTS: &str = concat!(
    "SELECT starts_at, account, ",
    account_sums!(),
    "FROM (",
    turn_as_account!("request_log WHERE at >= $1 AND at < $2"),
    ") turn GROUP BY 1, 2 ORDER BY 1, 2"
);

pub(crate) const PUT_ACCOUNT: &str = "INSERT INTO account_rollups (part, starts_at, account, turns, failed_turns) \
     VALUES (0, $1, $2, $3, $4) ON CONFLICT (part, starts_at, account) DO UPDATE SET turns = excluded.turns, \
     failed_turns = excluded.failed_turns WHERE excluded.turns > account_rollups.turns";

/// As the outcomes of the overview.
const ACCOUNTS: &str = concat!(
    "SELECT starts_at - starts_at % $1, account, ",
    account_sums!(),
    "FROM (SELECT starts_at, account, turns, failed_turns FROM account_rollups \
       WHERE part = $2 AND starts_at >= $3 AND starts_at < $4 UNION ALL \
     SELECT starts_at, account, turns, failed_turns FROM account_rollups \
       WHERE part = 0 AND starts_at >= $5 AND starts_at < $6 UNION ALL ",
    turn_as_account!("request_log WHERE at >= $7 AND at < $4"),
    "UNION ALL ",
    turn_as_account!("request_log WHERE at >= $3 AND at < $8"),
    ") turns GROUP BY 1, 2 ORDER BY 1, 2"
);

pub(crate) const PURGE_ACCOUNTS: &str = "DELETE FROM account_rollups WHERE part = $1 AND starts_at < $2";

pub(crate) const PURGE_ROLLED_UP: &str = "DELETE FROM account_rollups WHERE part = 0 AND starts_at <= $1";

/// For the tests of both engines.
#[cfg(test)]
pub(crate) const STATEMENTS: [&str; 5] =
    [READ_ACCOUNTS, PUT_ACCOUNT, ACCOUNTS, PURGE_ACCOUNTS, PURGE_ROLLED_UP];

pub(crate) const COLUMNS: [Kind; 4] = [Kind::Number, Kind::Text, Kind::Number, Kind::Number];

/// The arguments are those of a query of the overview.
pub(crate) async fn list<D: Database>(
    database: &D,
    arguments: Vec<Argument>,
) -> Result<Vec<AccountSum>, StoreError> {
    let rows = database.query(Query { text: ACCOUNTS, arguments, columns: &COLUMNS }).await?;
    rows.into_iter().map(account_sum).collect()
}

fn account_sum(mut row: Columns) -> Result<AccountSum, StoreError> {
    Ok(AccountSum {
        starts_at: Timestamp::from_unix_ms(row.number()?),
        account: row.text()?,
        turns: row.integer()?,
        failed_turns: row.integer()?,
    })
}
