//! A short examination of a database: what its engine says of its structure and of the time.

use crate::copy::{Side, open_source};
use crate::sql::{Kind, Query};
use crate::{StoreError, StoreUrl, Timestamp};

/// Finds most of what a full check of the file finds, without comparing indexes with their tables.
const QUICK_CHECK: &str = "PRAGMA quick_check(10)";
/// The server's time; whether it is a standby; whether transactions may only read by default, whatever this one may; and the tables of
/// a turn in which this role may not write.
const SERVER: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint, pg_is_in_recovery()::int::bigint, \
     (SELECT (reset_val = 'on')::int::bigint FROM pg_settings WHERE name = 'default_transaction_read_only'), \
     (SELECT coalesce(string_agg(name, ', ' ORDER BY name), '') \
     FROM unnest(ARRAY['responses', 'items', 'request_log', 'reservations', 'counters']) AS name \
     WHERE NOT (has_table_privilege(name, 'SELECT') AND has_table_privilege(name, 'INSERT') \
     AND has_table_privilege(name, 'UPDATE') AND has_table_privilege(name, 'DELETE')))";

/// For the tests of the engines.
#[cfg(test)]
pub(crate) const SQLITE_STATEMENT: &str = QUICK_CHECK;
#[cfg(test)]
pub(crate) const POSTGRES_STATEMENT: &str = SERVER;

/// What an engine says of a database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Examination {
    /// What is wrong with the structure of an SQLite file.
    pub problems: Vec<String>,
    /// The clock of a database server.
    pub server_time: Option<Timestamp>,
    /// Why a gateway can't write to the database of a server.
    pub read_only: Option<String>,
}

/// Examines a database, which a gateway may use meanwhile. Changes nothing.
///
/// # Errors
/// [`StoreError::Unusable`] when an operator has to act first, such as for a database without a store, and
/// [`StoreError::Unavailable`] when the database can't be reached.
pub async fn examine(url: &StoreUrl) -> Result<Examination, StoreError> {
    let side = open_source(url).await?;
    let examined = match url {
        StoreUrl::Sqlite(_) => quick_check(&side).await,
        StoreUrl::Postgres(_) => ask_server(&side).await,
    };
    side.close().await;
    examined
}

async fn quick_check(side: &dyn Side) -> Result<Examination, StoreError> {
    let rows =
        side.select(Query { text: QUICK_CHECK, arguments: Vec::new(), columns: &[Kind::Text] }).await?;
    let problems = rows.into_iter().map(|mut row| row.text()).collect::<Result<Vec<_>, _>>()?;
    let problems = problems.into_iter().filter(|problem| problem != "ok").collect();
    Ok(Examination { problems, ..Examination::default() })
}

async fn ask_server(side: &dyn Side) -> Result<Examination, StoreError> {
    let columns = &[Kind::Number, Kind::Number, Kind::Number, Kind::Text];
    let rows = side.select(Query { text: SERVER, arguments: Vec::new(), columns }).await?;
    let Some(mut row) = rows.into_iter().next() else { return Ok(Examination::default()) };
    let server_time = Some(Timestamp::from_unix_ms(row.number()?));
    let (is_standby, is_read_only, forbidden) = (row.number()? != 0, row.number()? != 0, row.text()?);
    let read_only = if is_standby {
        Some("the server is a standby, which can only be read".to_owned())
    } else if is_read_only {
        Some("the database can only be read: default_transaction_read_only is on".to_owned())
    } else if !forbidden.is_empty() {
        Some(format!("the role may not read and write these tables: {forbidden}"))
    } else {
        None
    };
    Ok(Examination { problems: Vec::new(), server_time, read_only })
}
