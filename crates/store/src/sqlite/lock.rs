//! The lock of a file that a gateway serves: a second one would release the reservations of the first.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::open::FILE_MODE;
use crate::StoreError;

/// How long a start waits for the gateway before it to end.
const PATIENCE: Duration = Duration::from_secs(5);
const INTERVAL: Duration = Duration::from_millis(20);
/// No process id is longer.
const MAX_ID_BYTES: u64 = 20;

/// Held for as long as the file is served. The kernel releases it when the process dies.
pub(super) struct ServingLock {
    _file: File,
}

// === impl ServingLock ===

impl ServingLock {
    /// Locks a file beside the database, which stays there afterwards. `shown` is the name of the database in errors.
    pub(super) fn take(database: &Path, shown: &str) -> Result<Self, StoreError> {
        let path = lock_path(database);
        let unusable = |error| {
            StoreError::Unusable(format!(
                "the lock of {shown} can't be taken: {}: {error}; give the user who runs Antiphon access to the directory, \
                 or use another path",
                path.display()
            ))
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE);
        let opened = options.open(&path);
        let mut file = opened.map_err(unusable)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(INTERVAL),
                Err(TryLockError::WouldBlock) => return Err(in_use(&mut file, &path, shown)),
                Err(TryLockError::Error(error)) => return Err(unusable(error)),
            }
        }
        file.set_len(0).and_then(|()| write!(file, "{}", std::process::id())).map_err(unusable)?;
        Ok(Self { _file: file })
    }
}

/// Every name of a file leads to one lock.
fn lock_path(database: &Path) -> PathBuf {
    let database = database.canonicalize().unwrap_or_else(|_| database.to_owned());
    let mut name = database.into_os_string();
    name.push(".lock");
    name.into()
}

fn in_use(file: &mut File, path: &Path, shown: &str) -> StoreError {
    let mut id = String::new();
    let is_known = file.take(MAX_ID_BYTES).read_to_string(&mut id).is_ok()
        && !id.is_empty()
        && id.bytes().all(|byte| byte.is_ascii_digit());
    let who = if is_known { format!(" (process {id})") } else { String::new() };
    StoreError::Unusable(format!(
        "another gateway{who} serves {shown}: stop it, or give this one another store.url. One SQLite file serves one \
         gateway; {} is its lock",
        path.display()
    ))
}
