//! SQLite URLs: a literal path.

use std::path::{Component, Path, PathBuf};

use super::{StoreUrlError, shown_name};

/// An SQLite database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SqliteTarget {
    /// A database in memory, which lives as long as the store is open.
    Memory,
    File(PathBuf),
}

/// Parameters that only make sense for a server.
const NETWORK_OPTIONS: [&str; 14] = [
    "channel_binding",
    "connect_timeout",
    "host",
    "hostaddr",
    "options",
    "password",
    "pgbouncer",
    "port",
    "ssl",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "user",
];

// === impl SqliteTarget ===

impl SqliteTarget {
    /// Parses what follows `sqlite:`. A `?` ends the path, which has no percent-encoding.
    pub(super) fn parse(rest: &str) -> Result<Self, StoreUrlError> {
        let (rest, is_path) = rest.strip_prefix("//").map_or((rest, false), |path| (path, true));
        let (path, parameters) = rest.split_once('?').unwrap_or((rest, ""));
        if let Some(parameter) = parameters.split('&').find(|parameter| !parameter.is_empty()) {
            return Err(refuse(parameter));
        }
        match (path, is_path) {
            (":memory:", false) => Ok(Self::Memory),
            ("" | ":memory:", _) | (_, false) => Err(StoreUrlError::NoPath),
            (path, true) => file(path).map(Self::File),
        }
    }
}

fn refuse(parameter: &str) -> StoreUrlError {
    let name = parameter.split('=').next().unwrap_or_default();
    if NETWORK_OPTIONS.contains(&name.to_ascii_lowercase().as_str()) {
        StoreUrlError::NetworkOption(shown_name(name))
    } else {
        StoreUrlError::UnknownParameter(shown_name(name))
    }
}

fn file(path: &str) -> Result<PathBuf, StoreUrlError> {
    let first = path.split('/').next().unwrap_or_default();
    if first.contains(['@', ':']) {
        return Err(StoreUrlError::Network);
    }
    if path.contains('\0') {
        return Err(StoreUrlError::NulByte);
    }
    let path = Path::new(path);
    if path.components().any(|component| component == Component::ParentDir) {
        return Err(StoreUrlError::ParentSegment);
    }
    Ok(path.to_owned())
}
