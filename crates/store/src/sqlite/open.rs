//! Opening a database: its file, its settings, and its schema.

use std::borrow::Cow;
use std::path::Path;
use std::time::Duration;

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection, SqlSafeStr};

use super::error;
use crate::url::SqliteTarget;
use crate::{Durability, StoreError, StoreOptions};

/// Turns of one or two kilobytes fill pages of this size well; larger ones cost a commit of few turns more to write.
const PAGE_SIZE: u32 = 8192;
/// Pages in the write-ahead log before it is copied into the database: rarely enough that pages which are written
/// again and again are copied once.
const CHECKPOINT_PAGES: u32 = 2048;
/// The log file is cut back to this when it had to grow.
const LOG_FILE_BYTES: u32 = 64 << 20;
/// Of a connection; those for many rows take some hundred kilobytes each.
const PREPARED_STATEMENTS: usize = 32;
/// How long another process may hold the write lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The connections of an open database.
pub(super) struct Opened {
    /// One connection.
    pub(super) writer: SqlitePool,
    /// For a database in memory, the writer's own: there, each connection would be a database for itself.
    pub(super) readers: SqlitePool,
    pub(super) is_file: bool,
}

pub(super) async fn open(target: &SqliteTarget, options: &StoreOptions) -> Result<Opened, StoreError> {
    match target {
        SqliteTarget::Memory => open_memory(options).await,
        SqliteTarget::File(path) => open_file(path, options).await,
    }
}

async fn open_memory(options: &StoreOptions) -> Result<Opened, StoreError> {
    let unusable =
        |error: sqlx::Error| StoreError::Unusable(format!("no database can be made in memory: {error}"));
    let connect = settings(options).in_memory(true).filename(":memory:");
    let pool = pool(1).connect_with(connect).await.map_err(unusable)?;
    let mut connection = pool.acquire().await.map_err(unusable)?;
    migrate(&mut connection, "the database in memory").await?;
    drop(connection);
    Ok(Opened { writer: pool.clone(), readers: pool, is_file: false })
}

async fn open_file(path: &Path, options: &StoreOptions) -> Result<Opened, StoreError> {
    let shown = path.display().to_string();
    create_parent(path)?;
    // Without this, SQLite could take a name for one of its own URIs.
    let path = Path::new(".").join(path);
    let connect = settings(options).filename(&path);
    prepare(&connect, &path, &shown).await?;
    let unusable = |error: sqlx::Error| explain(&error, &path, &shown);
    let writer = pool(1).connect_with(connect.clone()).await.map_err(unusable)?;
    let readers = pool(options.read_connections.max(1))
        .connect_with(connect.pragma("query_only", "ON"))
        .await
        .map_err(unusable)?;
    Ok(Opened { writer, readers, is_file: true })
}

fn create_parent(path: &Path) -> Result<(), StoreError> {
    let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) else { return Ok(()) };
    std::fs::create_dir_all(parent).map_err(|error| {
        StoreError::Unusable(format!("the directory {} can't be created: {error}", parent.display()))
    })
}

fn settings(options: &StoreOptions) -> SqliteConnectOptions {
    let synchronous = match options.durability {
        Durability::Full => SqliteSynchronous::Full,
        Durability::Normal => SqliteSynchronous::Normal,
    };
    SqliteConnectOptions::new()
        .synchronous(synchronous)
        .busy_timeout(BUSY_TIMEOUT)
        .statement_cache_capacity(PREPARED_STATEMENTS)
        .foreign_keys(false)
        .pragma("wal_autocheckpoint", CHECKPOINT_PAGES.to_string())
        .pragma("temp_store", "MEMORY")
        .pragma("journal_size_limit", LOG_FILE_BYTES.to_string())
        .disable_statement_logging()
}

/// Connections are kept for good: they cost a file handle each, and in memory they are the database.
fn pool(connections: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .test_before_acquire(false)
        .max_lifetime(None)
        .idle_timeout(None)
}

/// Creates the file if there is none, and brings its schema up to date.
async fn prepare(connect: &SqliteConnectOptions, path: &Path, shown: &str) -> Result<(), StoreError> {
    let connect =
        connect.clone().create_if_missing(true).page_size(PAGE_SIZE).journal_mode(SqliteJournalMode::Wal);
    let mut connection = connect_patiently(&connect).await.map_err(|error| explain(&error, path, shown))?;
    let migrated = migrate(&mut connection, shown).await;
    let closed = connection.close().await.map_err(|error| explain(&error, path, shown));
    migrated.and(closed)
}

/// Another process that opens the same new file at this moment locks it in a way that SQLite does not wait for.
async fn connect_patiently(connect: &SqliteConnectOptions) -> Result<SqliteConnection, sqlx::Error> {
    let deadline = tokio::time::Instant::now() + BUSY_TIMEOUT;
    loop {
        match connect.connect().await {
            Err(error) if error::is_busy(&error) && tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            result => return result,
        }
    }
}

/// The text for an operator whose file can't be used.
fn explain(error: &sqlx::Error, path: &Path, shown: &str) -> StoreError {
    let text = if error::is_not_a_database(error) {
        format!("{shown} is not an SQLite database")
    } else if path.is_dir() {
        format!("{shown} is a directory, not a database file")
    } else if error::is_not_openable(error) {
        // SQLite does not say why; the operating system does.
        match std::fs::OpenOptions::new().read(true).append(true).create(true).open(path) {
            Err(reason) => format!("{shown} can't be opened for reading and writing: {reason}"),
            Ok(_) => format!("{shown} can't be opened, or no file can be written beside it: {error}"),
        }
    } else {
        format!("{shown} can't be used as a database: {error}")
    };
    StoreError::Unusable(text)
}

fn migrator() -> Migrator {
    let responses = include_str!("../../migrations/sqlite/0001_responses.sql");
    let migration = |version, name, text: &'static str| {
        Migration::new(version, Cow::Borrowed(name), MigrationType::Simple, text.into_sql_str(), false)
    };
    Migrator::with_migrations(vec![migration(1, "responses", responses)])
}

/// In one transaction that holds the write lock from its beginning, so that of two processes one migrates.
async fn migrate(connection: &mut SqliteConnection, shown: &str) -> Result<(), StoreError> {
    let migrator = migrator();
    let unusable = |error: &dyn std::fmt::Display| {
        StoreError::Unusable(format!("the schema of {shown} can't be brought up to date: {error}"))
    };
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(|error| {
        if error::is_not_a_database(&error) {
            return StoreError::Unusable(format!("{shown} is not an SQLite database"));
        }
        unusable(&error)
    })?;
    let known = migrator.iter().map(|migration| migration.version).max().unwrap_or(0);
    let found = schema_version(&mut transaction).await.map_err(|error| unusable(&error))?;
    if found > known {
        return Err(StoreError::Unusable(format!(
            "{shown} has schema version {found}, and this build knows versions up to {known}: \
             run a build that knows version {found}, or use another database"
        )));
    }
    migrator.run_direct(None, &mut *transaction, false).await.map_err(|error| unusable(&error))?;
    transaction.commit().await.map_err(|error| unusable(&error))
}

async fn schema_version(connection: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    let has_versions: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = '_sqlx_migrations')")
            .fetch_one(&mut *connection)
            .await?;
    if !has_versions {
        return Ok(0);
    }
    let version: Option<i64> =
        sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations").fetch_one(connection).await?;
    Ok(version.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_migration_of_the_folder_is_embedded() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/sqlite");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        let embedded: Vec<String> =
            migrator().iter().map(|m| format!("{:04}_{}.sql", m.version, m.description)).collect();
        assert_eq!(embedded, files);
    }
}
