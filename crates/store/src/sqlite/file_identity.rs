//! Detects that a database's file was deleted or replaced: SQLite would go on writing to the deleted file.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The path of a file, with its device and inode.
#[derive(Debug, Clone)]
pub(super) struct FileIdentity {
    path: Arc<PathBuf>,
    identity: (u64, u64),
}

// === impl FileIdentity ===

impl FileIdentity {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: Arc::new(path.to_owned()), identity: identity(&path.metadata()?) })
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
