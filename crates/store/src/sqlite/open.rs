//! Opening a database: its file, its settings and its schema. These functions block.

use std::fs::{DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::checkpoint::{CHECKPOINT_PAGES, MAX_LOG_PAGES};
use super::database_file::DatabaseFile;
use super::lock::ServingLock;
use super::path::{beside, has_log, log_of, resolve};
use super::readers::Shared;
use super::{error, migrate};
use crate::migration::{Migration, outdated};
use crate::url::SqliteTarget;
use crate::{Durability, Migrate, StoreError, StoreOptions};

/// Turns of one or two kilobytes fill pages of this size well. Larger pages make small commits write more.
const PAGE_SIZE: u32 = 8192;
/// A write-ahead log that grew beyond this is truncated to it.
const LOG_FILE_BYTES: u32 = MAX_LOG_PAGES * PAGE_SIZE;
/// More than there are statements.
const PREPARED_STATEMENTS: usize = 32;
/// Of what Antiphon creates. Responses are for nobody else on the machine.
const DIRECTORY_MODE: u32 = 0o700;
pub(super) const FILE_MODE: u32 = 0o600;
/// How long another process may hold the write lock.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens one more connection that writes.
pub(super) type Opener = Box<dyn FnMut() -> rusqlite::Result<Shared> + Send>;

/// The connections of an open database.
pub(super) struct Opened {
    pub(super) writer: Shared,
    /// For a database in memory this is the writer's connection, as another one would open another database.
    pub(super) readers: Vec<Shared>,
    /// `None` for a database in memory.
    pub(super) opener: Option<Opener>,
    /// `None` for a database in memory.
    pub(super) file: Option<DatabaseFile>,
    /// Where the file is served.
    pub(super) lock: Option<ServingLock>,
}

pub(super) fn open(target: &SqliteTarget, options: &StoreOptions) -> Result<Opened, StoreError> {
    match target {
        SqliteTarget::Memory => open_memory(options),
        SqliteTarget::File(path) => open_file(path, options),
    }
}

fn open_memory(options: &StoreOptions) -> Result<Opened, StoreError> {
    let opened = Connection::open_in_memory().and_then(|connection| {
        configure(&connection, options.durability)?;
        Ok(connection)
    });
    let mut connection = opened
        .map_err(|error| StoreError::Unusable(format!("a database in memory can't be created: {error}")))?;
    migrate::migrate(&mut connection, "the database in memory")?;
    let writer = share(connection);
    Ok(Opened { readers: vec![Arc::clone(&writer)], writer, opener: None, file: None, lock: None })
}

fn open_file(path: &Path, options: &StoreOptions) -> Result<Opened, StoreError> {
    let shown = path.display().to_string();
    create_parent(path)?;
    // Keeps SQLite from taking a name for one of its URIs.
    let path = Path::new(".").join(path);
    let mut lock =
        if options.serves && !path.is_dir() { Some(ServingLock::take(&path, &shown)?) } else { None };
    create_private(&path);
    // Before SQLite opens it and until SQLite has closed it, as the end of any descriptor ends SQLite's locks.
    let file = DatabaseFile::of(&path);
    if let (Some(lock), Ok(file)) = (&mut lock, &file) {
        lock.add_database(file, &shown)?;
    }
    prepare(&path, &shown, options)?;
    let file =
        file.map_err(|error| StoreError::Unusable(format!("{shown} can't be found any more: {error}")))?;
    let unusable = |error: rusqlite::Error| explain(&error, &path, &shown);
    let mut opener = opener(path.clone(), options.durability);
    let writer = opener().map_err(unusable)?;
    let readers: Result<Vec<Shared>, _> =
        (0..options.read_connections.max(1)).map(|_| reader(&path, options.durability)).collect();
    Ok(Opened { writer, readers: readers.map_err(unusable)?, opener: Some(opener), file: Some(file), lock })
}

/// Creates the directory if there is none.
fn create_parent(path: &Path) -> Result<(), StoreError> {
    let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) else { return Ok(()) };
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(DIRECTORY_MODE);
    builder.create(parent).map_err(|error| {
        StoreError::Unusable(format!(
            "the directory {} can't be created: {error}; create it for the user who runs Antiphon, or use another path",
            parent.display()
        ))
    })
}

fn share(connection: Connection) -> Shared {
    Arc::new(Mutex::new(connection))
}

/// Opens a connection without SQLite's own locks: only one thread at a time uses it.
fn connect(path: &Path, more: OpenFlags) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | more;
    Connection::open_with_flags(path, flags)
}

/// As [`connect`], but leaves a write-ahead log where it is until [`trust_log`]: after a backup was restored, the one beside it may
/// belong to another database, and would ruin the file.
fn connect_warily(path: &Path, more: OpenFlags) -> rusqlite::Result<Connection> {
    let has_log = has_log(path);
    let connection = connect(path, more)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, has_log)?;
    Ok(connection)
}

/// The schema could be read with the log.
fn trust_log(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false).map(|_| ())
}

fn configure(connection: &Connection, durability: Durability) -> rusqlite::Result<()> {
    let synchronous = match durability {
        Durability::Full => "FULL",
        Durability::Normal => "NORMAL",
    };
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(PREPARED_STATEMENTS);
    connection.pragma_update(None, "synchronous", synchronous)?;
    connection.pragma_update(None, "foreign_keys", false)?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "journal_size_limit", LOG_FILE_BYTES)
}

pub(super) fn opener(path: PathBuf, durability: Durability) -> Opener {
    Box::new(move || {
        let connection = connect(&path, OpenFlags::empty())?;
        configure(&connection, durability)?;
        Ok(share(connection))
    })
}

fn reader(path: &Path, durability: Durability) -> rusqlite::Result<Shared> {
    let connection = connect(path, OpenFlags::empty())?;
    configure(&connection, durability)?;
    connection.pragma_update(None, "query_only", true)?;
    // From its first read on it keeps the write-ahead log: no other connection that closes as the last one deletes that.
    connection.pragma_query_value(None, "schema_version", |_| Ok(()))?;
    Ok(share(connection))
}

/// Creates the file if there is none, and brings its schema up to date.
fn prepare(path: &Path, shown: &str, options: &StoreOptions) -> Result<(), StoreError> {
    let mut connection =
        create_patiently(path, options.durability).map_err(|error| explain(&error, path, shown))?;
    match options.migrate {
        Migrate::Auto => migrate::migrate(&mut connection, shown).map(|_| ())?,
        Migrate::Manual => {
            if let Some(newest) = migrate::pending(&mut connection, shown)?.last() {
                return Err(outdated(shown, newest));
            }
        }
    }
    trust_log(&connection).map_err(|error| explain(&error, path, shown))
}

/// Brings the schema of a file up to date, and creates the file if there is none. Returns what was applied.
pub(super) fn migrate_file(path: &Path) -> Result<&'static [Migration], StoreError> {
    let shown = path.display().to_string();
    create_parent(path)?;
    let path = Path::new(".").join(path);
    let unusable = |error: rusqlite::Error| explain(&error, &path, &shown);
    let mut connection = create_patiently(&path, Durability::Full).map_err(unusable)?;
    let applied = migrate::migrate(&mut connection, &shown)?;
    trust_log(&connection).map_err(unusable)?;
    Ok(applied)
}

/// What [`migrate_file`] would apply. Changes nothing.
pub(super) fn pending_in_file(path: &Path) -> Result<&'static [Migration], StoreError> {
    let shown = path.display().to_string();
    let path = Path::new(".").join(path);
    if !path.exists() {
        return Ok(&migrate::MIGRATIONS);
    }
    let connection = connect_warily(&path, OpenFlags::empty());
    migrate::pending(&mut connection.map_err(|error| explain(&error, &path, &shown))?, &shown)
}

/// Retries while another process that opens the same new file holds a lock for which SQLite doesn't wait.
fn create_patiently(path: &Path, durability: Durability) -> rusqlite::Result<Connection> {
    let deadline = Instant::now() + BUSY_TIMEOUT;
    loop {
        match create(path, durability) {
            Err(error) if error::is_busy(&error) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            result => return result,
        }
    }
}

/// Creates the file for its owner alone, if there is none. SQLite gives the files beside it the same mode.
fn create_private(path: &Path) {
    // SQLite reports why a file can't be created.
    OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(resolve(path)).ok();
}

fn create(path: &Path, durability: Durability) -> rusqlite::Result<Connection> {
    create_private(path);
    let connection = connect_warily(path, OpenFlags::SQLITE_OPEN_CREATE)?;
    connection.pragma_update(None, "page_size", PAGE_SIZE)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    configure(&connection, durability)?;
    Ok(connection)
}

/// Explains to an operator why a file can't be used.
pub(super) fn explain(error: &rusqlite::Error, path: &Path, shown: &str) -> StoreError {
    let text = if error::is_not_a_database(error) {
        format!("{shown} is not an SQLite database; use another path, or restore a backup of it")
    } else if path.is_dir() {
        format!("{shown} is a directory, not a database file; use a path in it, such as {shown}/antiphon.db")
    } else if error::is_not_openable(error) || error::is_read_only(error) {
        // SQLite does not say why; the operating system does.
        match OpenOptions::new().read(true).append(true).create(true).open(path) {
            Err(reason) => format!(
                "{shown} can't be opened for reading and writing: {reason}; give the user who runs Antiphon access to it \
                 and to its directory, or use another path"
            ),
            Ok(_) => format!("{shown} can't be opened, or its directory is not writable: {error}"),
        }
    } else {
        format!("{shown} can't be used as a database: {error}{}", advice_on_log(error, path))
    };
    StoreError::Unusable(text)
}

/// What to do if the file is damaged only together with the write-ahead log beside it.
pub(super) fn advice_on_log(error: &rusqlite::Error, path: &Path) -> String {
    if !error::is_corrupt(error) || !has_log(path) {
        return String::new();
    }
    format!(
        ". If the file is a restored backup, {} belongs to the database before it: move it and {} away, and try again",
        log_of(path).display(),
        beside(&resolve(path), "-shm").display()
    )
}
