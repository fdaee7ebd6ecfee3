//! Has the TLS certificate read again when one of its files changes.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::tls::Tls;

/// How often the files are looked at. A change is applied once two looks in a row agree: the certificate and its key are
/// rarely written at once.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// What differs once a file was replaced or written: its inode, size, and time of change.
type Version = Option<(u64, u64, i64, i64)>;

/// Runs for as long as the gateway does.
pub async fn watch(tls: Arc<Tls>) {
    let mut known = versions(&tls);
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        let seen = versions(&tls);
        if seen == known {
            continue;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
        if versions(&tls) == seen {
            known = seen;
            tls.reload();
        }
    }
}

fn versions(tls: &Tls) -> Vec<Version> {
    tls.files().map(version).collect()
}

fn version(path: &Path) -> Version {
    let file = std::fs::metadata(path).ok()?;
    Some((file.ino(), file.size(), file.mtime(), file.mtime_nsec()))
}
