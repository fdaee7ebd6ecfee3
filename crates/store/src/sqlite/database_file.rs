//! The files of a database: waits until they are on the disk, and detects that one was deleted or replaced, as SQLite would go on
//! writing to it.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::path::{beside, resolve};

/// An open file with its path, its device and its inode.
///
/// Closing any descriptor of a file releases the locks of the whole process on it, also SQLite's. So this must live as long as
/// the connections to the file.
#[derive(Debug, Clone)]
pub(super) struct DatabaseFile {
    path: Arc<PathBuf>,
    file: Arc<File>,
    identity: (u64, u64),
    /// The write-ahead log and its index, which SQLite makes when it first needs them.
    beside: Arc<[Beside; 2]>,
}

/// It is never opened here, because of the locks.
#[derive(Debug)]
struct Beside {
    path: PathBuf,
    identity: OnceLock<(u64, u64)>,
}

// === impl DatabaseFile ===

impl DatabaseFile {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let identity = identity(&file.metadata()?);
        let beside = Arc::new(["-wal", "-shm"].map(|suffix| Beside::new(path, suffix)));
        Ok(Self { path: Arc::new(path.to_owned()), file: Arc::new(file), identity, beside })
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Waits until what was written to the file is on the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Fails with the reason if a file was deleted or replaced.
    pub(super) fn check(&self) -> Result<(), String> {
        check(&self.path, self.identity, "put it back, or stop the gateway and restore a backup")?;
        self.beside.iter().try_for_each(Beside::check)
    }
}

// === impl Beside ===

impl Beside {
    fn new(database: &Path, suffix: &str) -> Self {
        Self { path: beside(&resolve(database), suffix), identity: OnceLock::new() }
    }

    fn check(&self) -> Result<(), String> {
        if self.identity.get().is_none()
            && let Ok(found) = self.path.metadata()
        {
            let _ = self.identity.set(identity(&found));
        }
        let Some(known) = self.identity.get() else { return Ok(()) };
        // SQLite still has the file open, and moves what is in it into the database when it closes that.
        check(
            &self.path,
            *known,
            "stop the gateway with SIGTERM, which saves what it held; a kill loses that",
        )
    }
}

fn check(path: &Path, known: (u64, u64), advice: &str) -> Result<(), String> {
    let shown = path.strip_prefix(".").unwrap_or(path).display();
    match path.metadata() {
        Ok(found) if identity(&found) == known => Ok(()),
        Ok(_) => Err(format!("{shown} was replaced by another file while it was in use: {advice}")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(format!("{shown} was deleted while it was in use: {advice}"))
        }
        Err(error) => Err(format!("{shown} can't be found any more: {error}")),
    }
}

fn identity(found: &Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}
