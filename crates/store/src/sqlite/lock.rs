//! The lock of a file that a gateway serves: a second one would release the reservations of the first.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::database_file::DatabaseFile;
use super::open::FILE_MODE;
use super::path::{beside, resolve};
use crate::StoreError;

/// How long a start waits for the gateway before it to end.
const PATIENCE: Duration = Duration::from_secs(5);
const INTERVAL: Duration = Duration::from_millis(20);
/// No process id is longer.
const MAX_ID_BYTES: u64 = 20;

/// Held for as long as the file is served. The kernel releases it when the process dies.
pub(super) struct ServingLock {
    _file: File,
    /// The database itself, where it can be locked.
    database: Option<DatabaseFile>,
}

// === impl ServingLock ===

impl ServingLock {
    /// Locks a file beside the database, which stays there afterwards. `shown` is the name of the database in errors.
    pub(super) fn take(database: &Path, shown: &str) -> Result<Self, StoreError> {
        // Every name of a file leads to one lock.
        let path = beside(&resolve(database), ".lock");
        let unusable = |error| {
            StoreError::Unusable(format!(
                "the lock of {shown} can't be taken: {}: {error}; give the user who runs Antiphon access to that file and \
                 to its directory, or use another path",
                path.display()
            ))
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE);
        let opened = options.open(&path);
        let mut file = opened.map_err(unusable)?;
        match lock_patiently(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(in_use(&mut file, &path, shown)),
            Err(TryLockError::Error(error)) => return Err(unusable(error)),
        }
        file.set_len(0).and_then(|()| write!(file, "{}", std::process::id())).map_err(unusable)?;
        Ok(Self { _file: file, database: None })
    }

    /// Locks the database itself as well: a hard link or a bind mount is another path, with another lock beside it and another
    /// write-ahead log.
    pub(super) fn add_database(&mut self, database: &DatabaseFile, shown: &str) -> Result<(), StoreError> {
        if !has_separate_locks(database.file()) {
            return Ok(());
        }
        match lock_patiently(database.file()) {
            Ok(()) => {
                self.database = Some(database.clone());
                Ok(())
            }
            Err(TryLockError::WouldBlock) => Err(StoreError::Unusable(format!(
                "another gateway serves {shown} by another path, such as a hard link or a bind mount of the file: stop it, or \
                 give this one another store.url. One SQLite file serves one gateway"
            ))),
            Err(TryLockError::Error(error)) => {
                Err(StoreError::Unusable(format!("{shown} can't be locked: {error}; use another path")))
            }
        }
    }
}

/// Others may keep the database open for longer.
impl Drop for ServingLock {
    fn drop(&mut self) {
        if let Some(database) = &self.database {
            // Otherwise the lock ends when the file is closed.
            database.file().unlock().ok();
        }
    }
}

fn lock_patiently(file: &File) -> Result<(), TryLockError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(INTERVAL),
            locked => return locked,
        }
    }
}

/// Whether the lock of a whole file is none of the locks on its bytes, which SQLite takes: elsewhere, such as on network file
/// systems, it would shut SQLite out.
#[cfg(target_os = "linux")]
fn has_separate_locks(file: &File) -> bool {
    /// ext4, XFS, Btrfs, overlayfs, tmpfs, ZFS, F2FS and bcachefs.
    const LOCAL: [rustix::fs::FsWord; 8] =
        [0xef53, 0x5846_5342, 0x9123_683e, 0x794c_7630, 0x0102_1994, 0x2fc1_2fc1, 0xf2f5_2010, 0xca45_1a4e];
    rustix::fs::fstatfs(file).is_ok_and(|found| LOCAL.contains(&found.f_type))
}

#[cfg(not(target_os = "linux"))]
fn has_separate_locks(_file: &File) -> bool {
    false
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
