//! Who can read the files with secrets and responses, and how much room there is for more.

use std::fs::{Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use antiphon_config::{Loaded, StoreConfig};
use antiphon_store::{SqliteTarget, StoreUrl};
use rustix::fs::Access;

use super::Finding;

/// Less free space than this is a problem, as the store stops writing soon.
const TOO_LITTLE_SPACE: u64 = 64 << 20;
const LITTLE_SPACE: u64 = 1 << 30;

/// A file that holds secrets must be for its owner alone.
pub fn check_config_file(loaded: &Loaded) -> Option<Finding> {
    let path = loaded.source.as_ref()?;
    let holds_secrets = loaded.config.show().contains("<redacted>");
    let found = path.metadata().ok().filter(|found| holds_secrets && is_open_to_others(found))?;
    Some(open_to_others("config.mode", path, &found))
}

/// The SQLite file, the files beside it and its directory.
pub fn check(config: &StoreConfig) -> Vec<Finding> {
    let Ok(StoreUrl::Sqlite(SqliteTarget::File(database))) = config.target() else { return Vec::new() };
    // The files beside it are beside the file that a link leads to.
    let database = database.canonicalize().unwrap_or(database);
    let beside = |suffix: &str| {
        let mut name = database.clone().into_os_string();
        name.push(suffix);
        PathBuf::from(name)
    };
    let files = [Some(database.clone()), Some(beside("-wal")), Some(beside("-shm")), config.key_file()];
    let found = files.into_iter().flatten().filter_map(|path| Some((path.metadata().ok()?, path)));
    let open: Vec<_> = found.filter(|(found, _)| is_open_to_others(found)).collect();
    let mut findings: Vec<Finding> =
        open.iter().map(|(found, path)| open_to_others("store.mode", path, found)).collect();
    if open.is_empty() && database.exists() {
        findings.push(Finding::ok("store.mode", "other users of this machine can't read the store"));
    }
    let files = ["", "-wal", "-shm", ".lock"].map(beside);
    findings.extend(check_access(&database, &files));
    findings.push(check_space(&database));
    findings
}

fn is_open_to_others(found: &Metadata) -> bool {
    found.mode() & 0o077 != 0
}

fn open_to_others(check: &str, path: &Path, found: &Metadata) -> Finding {
    let shown = path.display();
    let message = format!("other users may have access to {shown}, whose mode is {:o}", found.mode() & 0o777);
    Finding::warning(check, message, format!("chmod 600 {shown}"))
}

/// What this user cannot write, of the directory and of the files that exist.
fn check_access(database: &Path, files: &[PathBuf]) -> Vec<Finding> {
    let directory = nearest_directory(database).map(|path| {
        let access = rustix::fs::access(&path, Access::WRITE_OK | Access::EXEC_OK).map_err(io::Error::from);
        (path, access)
    });
    let files = files.iter().filter(|path| path.exists()).map(|path| {
        let opened = OpenOptions::new().read(true).append(true).open(path);
        (path.clone(), opened.map(drop))
    });
    let advice =
        "a gateway of this user can't use the store: give the user who runs it access, or set store.url";
    let refused = |(path, access): (PathBuf, io::Result<()>)| {
        let message = format!("{} can't be written by this user: {}", path.display(), access.err()?);
        Some(Finding::problem("store.access", message, advice))
    };
    directory.into_iter().chain(files).filter_map(refused).collect()
}

/// The directory of a database, or where that would be created.
fn nearest_directory(database: &Path) -> Option<PathBuf> {
    let absolute = std::path::absolute(database).unwrap_or_else(|_| database.to_owned());
    absolute.ancestors().skip(1).find(|directory| directory.exists()).map(Path::to_owned)
}

/// Of the disk with the nearest directory that exists.
fn check_space(database: &Path) -> Finding {
    let Some(directory) = nearest_directory(database) else {
        return Finding::warning("disk", "the directory of the database was not found", "correct store.url");
    };
    let shown = directory.display();
    match rustix::fs::statvfs(&directory) {
        Err(error) => {
            Finding::warning("disk", format!("the free space in {shown} is not known: {error}"), "")
        }
        Ok(found) => {
            let free = found.f_bavail.saturating_mul(found.f_frsize);
            let message = format!("{} MiB are free in {shown}", free >> 20);
            if free < TOO_LITTLE_SPACE {
                Finding::problem("disk", message, "free space: a full disk stops the store")
            } else if free < LITTLE_SPACE {
                Finding::warning("disk", message, "free space, or shorten store.retention")
            } else {
                Finding::ok("disk", message)
            }
        }
    }
}
