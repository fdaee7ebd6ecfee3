//! An SQLite database as one end of a copy.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, params_from_iter};

use super::migrate::{MIGRATIONS, versions};
use super::path::has_log;
use super::readers::{Shared, lock};
use super::statement::cell;
use super::{error, item_index, open, statement};
use crate::copy::{Bounds, Key, Row, Side, Table};
use crate::migration::{outdated, to_apply};
use crate::sql::{Columns, Kind, Query};
use crate::url::SqliteTarget;
use crate::{Durability, StoreError};

/// A connection that is used only for copying.
struct SqliteSide {
    connection: Shared,
}

/// Reads one snapshot of the file, and changes nothing in it.
pub(crate) async fn source(target: &SqliteTarget) -> Result<Box<dyn Side>, StoreError> {
    let path = file(target)?;
    let connection = blocking(move || open_source(&path)).await?;
    Ok(Box::new(SqliteSide { connection: Arc::new(Mutex::new(connection)) }))
}

/// Creates the file and its directory if needed, and brings the schema up to date.
pub(crate) async fn target(target: &SqliteTarget) -> Result<Box<dyn Side>, StoreError> {
    let path = file(target)?;
    let connection = blocking(move || {
        open::migrate_file(&path)?;
        let connection = open::opener(Path::new(".").join(&path), Durability::Full)();
        connection
            .map_err(|error| StoreError::Unusable(format!("{} can't be opened: {error}", path.display())))
    });
    Ok(Box::new(SqliteSide { connection: connection.await? }))
}

fn file(target: &SqliteTarget) -> Result<PathBuf, StoreError> {
    match target {
        SqliteTarget::File(path) => Ok(path.clone()),
        SqliteTarget::Memory => Err(StoreError::Unusable(
            "a database in memory can't be copied: it belongs to one process".into(),
        )),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(StoreError::Unavailable(format!("the copy was aborted: {error}"))))
}

fn open_source(path: &Path) -> Result<Connection, StoreError> {
    let shown = path.display().to_string();
    let path = Path::new(".").join(path);
    if !path.exists() {
        return Err(StoreError::Unusable(format!("there is no file {shown}")));
    }
    let opened = begin(&path).and_then(|connection| Ok((applied(&connection)?, connection)));
    let (applied, connection) = opened.map_err(|error| match error::is_read_only(&error) {
        true => StoreError::Unusable(format!(
            "{shown} can't be read where it is, because SQLite writes files beside a database that it reads: copy it to a \
             writable directory"
        )),
        false => open::explain(&error, &path, &shown),
    })?;
    let Some(applied) = applied else {
        return Err(StoreError::Unusable(format!(
            "{shown} holds no store: run `antiphon migrate` on it first"
        )));
    };
    match to_apply(&MIGRATIONS, &applied, &shown)?.last() {
        None => Ok(connection),
        Some(newest) => Err(outdated(&shown, newest)),
    }
}

/// SQLite writes files beside a database even to read it, so a read-only connection could not open every database.
fn begin(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    // Keeps the last connection that closes from moving the write-ahead log into the file.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, has_log(path))?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    begin_snapshot(&connection)?;
    Ok(connection)
}

/// The end of a snapshot takes the temporary table and view with it.
fn begin_snapshot(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("PRAGMA query_only = false; BEGIN")?;
    if connection.table_exists(None, "new_items")? {
        item_index::complete(connection)?;
    }
    connection.pragma_update(None, "query_only", true)
}

/// Applied versions and their checksums; `None` if this is no store.
fn applied(connection: &Connection) -> rusqlite::Result<Option<Vec<(u32, String)>>> {
    if !connection.table_exists(None, "antiphon_schema")? {
        return Ok(None);
    }
    versions(connection).map(Some)
}

pub(super) fn page_statement(table: &Table, is_first: bool) -> String {
    let key = table.key_list();
    let placeholders = vec!["?"; table.key].join(", ");
    let after = if is_first { String::new() } else { format!(" WHERE ({key}) > ({placeholders})") };
    format!("SELECT {} FROM {}{after} ORDER BY {key}", table.column_list(), table.name)
}

pub(super) fn insert_statement(table: &Table) -> String {
    let values = vec!["?"; table.columns.len()].join(", ");
    format!("INSERT INTO {} ({}) VALUES ({values}) ON CONFLICT DO NOTHING", table.name, table.column_list())
}

#[async_trait]
impl Side for SqliteSide {
    async fn count(&self, table: &'static Table) -> Result<u64, StoreError> {
        let connection = Arc::clone(&self.connection);
        blocking(move || {
            let count =
                lock(&connection).query_row(&table.count_statement(), (), |row| row.get::<_, i64>(0))?;
            Ok(count.unsigned_abs())
        })
        .await
    }

    async fn page(
        &self,
        table: &'static Table,
        after: Option<Key>,
        bounds: Bounds,
    ) -> Result<Vec<Row>, StoreError> {
        let connection = Arc::clone(&self.connection);
        blocking(move || {
            let connection = lock(&connection);
            let mut statement = connection.prepare_cached(&page_statement(table, after.is_none()))?;
            let mut rows = statement.query(params_from_iter(after.into_iter().flatten()))?;
            let mut page = Vec::new();
            let mut bytes = 0;
            while page.len() < bounds.rows && bytes < bounds.bytes {
                let Some(row) = rows.next()? else { break };
                let row = cells(table, row)?;
                bytes += row.size_bytes();
                page.push(row);
            }
            Ok(page)
        })
        .await
    }

    async fn insert(&self, table: &'static Table, rows: Vec<Row>) -> Result<(), StoreError> {
        let connection = Arc::clone(&self.connection);
        blocking(move || {
            let mut connection = lock(&connection);
            let transaction = connection.transaction()?;
            let mut statement = transaction.prepare_cached(&insert_statement(table))?;
            for row in rows {
                statement.execute(params_from_iter(row.0))?;
            }
            drop(statement);
            Ok(transaction.commit()?)
        })
        .await
    }

    async fn select(&self, query: Query) -> Result<Vec<Columns>, StoreError> {
        let connection = Arc::clone(&self.connection);
        blocking(move || statement::query(&lock(&connection), &query)).await
    }

    async fn verify_pages(&self) -> Result<Vec<String>, StoreError> {
        let connection = Arc::clone(&self.connection);
        blocking(move || {
            let connection = lock(&connection);
            let mut statement = connection.prepare("PRAGMA integrity_check")?;
            let problems = statement.query_map((), |row| row.get(0))?;
            let problems: Vec<String> = problems.collect::<rusqlite::Result<_>>()?;
            Ok(problems.into_iter().filter(|problem| problem != "ok").collect())
        })
        .await
    }

    async fn renew(&self) -> Result<(), StoreError> {
        let connection = Arc::clone(&self.connection);
        blocking(move || {
            let connection = lock(&connection);
            // An error may have ended the transaction.
            if !connection.is_autocommit() {
                connection.execute_batch("ROLLBACK")?;
            }
            Ok(begin_snapshot(&connection)?)
        })
        .await
    }

    /// The connection is closed when it is dropped.
    async fn close(&self) {}
}

fn cells(table: &Table, row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    let cell = |(index, (_, kind)): (usize, &(&str, Kind))| cell(row, index, *kind);
    table.columns.iter().enumerate().map(cell).collect::<rusqlite::Result<_>>().map(Row)
}
