//! A snapshot of a database as a file of its own, for backups.

use std::path::Path;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::{error, item_index, open};
use crate::StoreError;
use crate::url::SqliteTarget;

/// Writes what is committed now into an empty file. The gateway may go on meanwhile.
pub(crate) async fn write(target: &SqliteTarget, file: &Path) -> Result<(), StoreError> {
    let SqliteTarget::File(source) = target.clone() else {
        return Err(StoreError::Unusable(
            "a database in memory can't be backed up: it belongs to one process".into(),
        ));
    };
    let file = file.to_owned();
    blocking(move || write_file(&source, &file)).await
}

/// Makes the snapshot one file, and checks its structure. Returns its number of responses.
pub(crate) async fn finish(file: &Path) -> Result<u64, StoreError> {
    let file = file.to_owned();
    blocking(move || {
        let (problems, responses) = check(&file).map_err(|error| {
            StoreError::Unavailable(format!("the backup can't be read after it was written: {error}"))
        })?;
        match problems.first() {
            None => Ok(responses),
            Some(problem) => Err(StoreError::Corrupt(format!(
                "the backup's structure is wrong: {problem}; run `antiphon store check`"
            ))),
        }
    })
    .await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(StoreError::Unavailable(format!("the backup was aborted: {error}"))))
}

fn write_file(source: &Path, file: &Path) -> Result<(), StoreError> {
    let shown = source.display().to_string();
    let source = Path::new(".").join(source);
    if !source.exists() {
        return Err(StoreError::Unusable(format!("there is no file {shown}")));
    }
    let connection = connect(&source).map_err(|error| open::explain(&error, &source, &shown))?;
    let is_store = connection.table_exists(None, "antiphon_schema");
    if !is_store.map_err(|error| open::explain(&error, &source, &shown))? {
        return Err(StoreError::Unusable(format!("{shown} holds no store")));
    }
    let file = file.to_string_lossy();
    connection.execute("VACUUM INTO ?1", [file]).map(|_| ()).map_err(|error| {
        if error::is_not_a_database(&error) {
            open::explain(&error, &source, &shown)
        } else {
            StoreError::Unavailable(format!("the backup of {shown} failed: {error}"))
        }
    })
}

/// Leaves the write-ahead log where it is when the connection closes.
fn connect(source: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(source, flags)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.busy_timeout(open::BUSY_TIMEOUT)?;
    Ok(connection)
}

fn check(file: &Path) -> rusqlite::Result<(Vec<String>, u64)> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(file, flags)?;
    connection.pragma_update(None, "journal_mode", "DELETE")?;
    // A schema that is out of date may lack the table.
    if connection.table_exists(None, "new_items")? {
        item_index::move_all(&mut connection)?;
    }
    let mut statement = connection.prepare("PRAGMA integrity_check")?;
    let problems = statement.query_map((), |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
    let responses = connection.query_row("SELECT count(*) FROM responses", (), |row| row.get::<_, i64>(0))?;
    Ok((problems.into_iter().filter(|problem| problem != "ok").collect(), responses.unsigned_abs()))
}
