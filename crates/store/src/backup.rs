//! Backing up a store: one snapshot of it as an SQLite file, whatever its engine.
//!
//! The file is written under another name, checked and synced; only then does it get its own.

use std::fs::File;
use std::path::Path;

use tempfile::NamedTempFile;

use crate::copy::{CopyProgress, copy_snapshot};
use crate::{SqliteTarget, StoreError, StoreUrl, sqlite};

/// What was backed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupReport {
    /// The size of the file.
    pub bytes: u64,
    pub responses: u64,
}

/// Backs up a database, which a gateway may use meanwhile, into a new file that only its owner can read. A file that exists is
/// left alone. `progress` is only told of a database server.
///
/// # Errors
/// [`StoreError::Unusable`] when an operator has to act first, such as for a file that exists, and
/// [`StoreError::Unavailable`] when the database is lost meanwhile or the backup can't be written.
pub async fn backup(
    url: &StoreUrl,
    file: &Path,
    progress: &mut (dyn FnMut(CopyProgress) + Send),
) -> Result<BackupReport, StoreError> {
    let shown = file.display();
    if file.symlink_metadata().is_ok() {
        return Err(exists(file));
    }
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let unwritable = |error| StoreError::Unusable(format!("{shown} can't be written: {error}"));
    let draft = tempfile::Builder::new().prefix(".antiphon-backup-").suffix(".db").tempfile_in(directory);
    let draft = draft.map_err(unwritable)?;
    match url {
        StoreUrl::Sqlite(target) => sqlite::write_snapshot(target, draft.path()).await?,
        StoreUrl::Postgres(_) => {
            let target = StoreUrl::Sqlite(SqliteTarget::File(draft.path().to_owned()));
            let report = copy_snapshot(url, &target, progress).await?;
            if !report.is_verified() {
                return Err(StoreError::Unavailable(
                    "the backup does not have the rows of its source".into(),
                ));
            }
        }
    }
    let responses = sqlite::finish_snapshot(draft.path()).await?;
    let bytes = publish(draft, file, directory)?;
    Ok(BackupReport { bytes, responses })
}

/// Gives the draft its name once the disk has it. Returns its size.
fn publish(draft: NamedTempFile, file: &Path, directory: &Path) -> Result<u64, StoreError> {
    let failed = |error: std::io::Error| StoreError::Unavailable(format!("{}: {error}", file.display()));
    // The engine may have replaced the file behind the open one.
    let written = File::open(draft.path()).map_err(failed)?;
    written.sync_all().map_err(failed)?;
    let bytes = written.metadata().map_err(failed)?.len();
    draft.persist_noclobber(file).map_err(|error| match error.error.kind() {
        std::io::ErrorKind::AlreadyExists => exists(file),
        _ => failed(error.error),
    })?;
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)?;
    Ok(bytes)
}

fn exists(file: &Path) -> StoreError {
    StoreError::Unusable(format!(
        "{} exists, and a backup overwrites nothing: name another file",
        file.display()
    ))
}
