//! The file of a database: waits until it is on the disk, and detects that it was deleted or replaced, as SQLite would go on writing to it.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An open file with its path, its device and its inode.
///
/// Closing any descriptor of a file releases the locks of the whole process on it, also SQLite's. So this must live as long as
/// the connections to the file.
#[derive(Debug, Clone)]
pub(super) struct DatabaseFile {
    path: Arc<PathBuf>,
    file: Arc<File>,
    identity: (u64, u64),
}

// === impl DatabaseFile ===

impl DatabaseFile {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let identity = identity(&file.metadata()?);
        Ok(Self { path: Arc::new(path.to_owned()), file: Arc::new(file), identity })
    }

    /// Waits until what was written to the file is on the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Fails with the reason if the file was deleted or replaced.
    pub(super) fn check(&self) -> Result<(), String> {
        let shown = self.path.strip_prefix(".").unwrap_or(&self.path).display();
        let advice = "put it back, or stop the gateway and restore a backup";
        match self.path.metadata() {
            Ok(found) if identity(&found) == self.identity => Ok(()),
            Ok(_) => Err(format!("{shown} was replaced by another file while it was in use: {advice}")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(format!("{shown} was deleted while it was in use: {advice}"))
            }
            Err(error) => Err(format!("{shown} can't be found any more: {error}")),
        }
    }
}

fn identity(found: &Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}
