//! A short examination of a database: what its engine says of its structure and of the time.

use crate::copy::{Side, open_source};
use crate::sql::{Kind, Query};
use crate::{StoreError, StoreUrl, Timestamp};

/// Finds most of what a full check of the file finds, without comparing indexes with their tables.
const QUICK_CHECK: &str = "PRAGMA quick_check(10)";
const SERVER_TIME: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint";

/// For the tests of the engines.
#[cfg(test)]
pub(crate) const SQLITE_STATEMENT: &str = QUICK_CHECK;
#[cfg(test)]
pub(crate) const POSTGRES_STATEMENT: &str = SERVER_TIME;

/// What an engine says of a database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Examination {
    /// What is wrong with the structure of an SQLite file.
    pub problems: Vec<String>,
    /// The clock of a database server.
    pub server_time: Option<Timestamp>,
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
        StoreUrl::Postgres(_) => server_time(&side).await,
    };
    side.close().await;
    examined
}

async fn quick_check(side: &dyn Side) -> Result<Examination, StoreError> {
    let rows =
        side.select(Query { text: QUICK_CHECK, arguments: Vec::new(), columns: &[Kind::Text] }).await?;
    let problems = rows.into_iter().map(|mut row| row.text()).collect::<Result<Vec<_>, _>>()?;
    let problems = problems.into_iter().filter(|problem| problem != "ok").collect();
    Ok(Examination { problems, server_time: None })
}

async fn server_time(side: &dyn Side) -> Result<Examination, StoreError> {
    let rows =
        side.select(Query { text: SERVER_TIME, arguments: Vec::new(), columns: &[Kind::Number] }).await?;
    let time = rows.into_iter().next().map(|mut row| row.number()).transpose()?;
    Ok(Examination { problems: Vec::new(), server_time: time.map(Timestamp::from_unix_ms) })
}
