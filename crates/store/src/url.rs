//! Where a store is, parsed from the text that the operator wrote.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

/// A store's address. Never shows credentials.
#[derive(Clone, PartialEq, Eq)]
pub enum StoreUrl {
    Sqlite(SqliteTarget),
}

/// Which SQLite database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SqliteTarget {
    /// Lives as long as the store is open.
    Memory,
    File(PathBuf),
}

/// Why a text is no store URL. Holds nothing of the text that could be a credential.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreUrlError {
    #[error("a store URL begins with \"sqlite://\" or is \"sqlite::memory:\"")]
    UnknownScheme,

    #[error("this build has no PostgreSQL backend yet; use \"sqlite://path\" or \"sqlite::memory:\"")]
    NoPostgres,

    #[error("an SQLite URL names a file: \"sqlite://path\", or \"sqlite::memory:\" for a database in memory")]
    NoPath,

    #[error("an SQLite path has no \"..\" in it: write the path that it leads to")]
    ParentSegment,

    #[error("an SQLite path holds no NUL byte")]
    NulByte,

    #[error(
        "an SQLite URL has no user, host or port; begin the path with \"./\" or \"/\" if a file is really named so"
    )]
    Network,

    #[error("an SQLite URL takes no TLS or network option such as {0:?}; it is \"sqlite://path\" alone")]
    NetworkOption(String),

    #[error("an SQLite URL takes no parameters, and {0:?} is one; it is \"sqlite://path\" alone")]
    UnknownParameter(String),
}

/// Parameters that make sense for a server alone.
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

// === impl StoreUrl ===

impl FromStr for StoreUrl {
    type Err = StoreUrlError;

    /// The path stands as it is, without percent-encoding; a `?` ends it.
    fn from_str(text: &str) -> Result<Self, StoreUrlError> {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return Err(StoreUrlError::NoPostgres);
        }
        let (rest, is_path) = match (text.strip_prefix("sqlite://"), text.strip_prefix("sqlite:")) {
            (Some(rest), _) => (rest, true),
            (None, Some(rest)) => (rest, false),
            (None, None) => return Err(StoreUrlError::UnknownScheme),
        };
        let (path, parameters) = rest.split_once('?').unwrap_or((rest, ""));
        if let Some(parameter) = parameters.split('&').find(|parameter| !parameter.is_empty()) {
            return Err(refuse(parameter));
        }
        match (path, is_path) {
            (":memory:", false) => Ok(Self::Sqlite(SqliteTarget::Memory)),
            ("" | ":memory:", _) | (_, false) => Err(StoreUrlError::NoPath),
            (path, true) => file(path).map(|path| Self::Sqlite(SqliteTarget::File(path))),
        }
    }
}

fn refuse(parameter: &str) -> StoreUrlError {
    let name = parameter.split('=').next().unwrap_or_default();
    let shown =
        name.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-')).take(40).collect();
    if NETWORK_OPTIONS.contains(&name.to_ascii_lowercase().as_str()) {
        StoreUrlError::NetworkOption(shown)
    } else {
        StoreUrlError::UnknownParameter(shown)
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

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(SqliteTarget::Memory) => f.write_str("sqlite::memory:"),
            Self::Sqlite(SqliteTarget::File(path)) => write!(f, "sqlite://{}", path.display()),
        }
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> Result<StoreUrl, StoreUrlError> {
        Ok(StoreUrl::Sqlite(SqliteTarget::File(path.into())))
    }

    #[test]
    fn a_path_is_taken_as_it_stands() {
        assert_eq!("sqlite://a.db".parse(), file("a.db"));
        assert_eq!("sqlite:///var/lib/a%20b.db".parse(), file("/var/lib/a%20b.db"));
        assert_eq!("sqlite://./me@host:1/a..db?".parse(), file("./me@host:1/a..db"));
        assert_eq!("sqlite::memory:".parse(), Ok(StoreUrl::Sqlite(SqliteTarget::Memory)));
    }

    #[test]
    fn a_wrong_url_is_told_what_is_wrong() {
        let error = |text: &str| text.parse::<StoreUrl>().unwrap_err();
        for text in ["sqlite://../a.db", "sqlite:///a/../b.db", "sqlite://a/.."] {
            assert_eq!(error(text), StoreUrlError::ParentSegment, "{text}");
        }
        for text in ["sqlite://", "sqlite:a.db", "sqlite:", "sqlite://:memory:", "sqlite://?mode=rwc&"] {
            let error = error(text);
            assert!(
                matches!(error, StoreUrlError::NoPath | StoreUrlError::UnknownParameter(_)),
                "{text}: {error}"
            );
        }
        for text in ["sqlite://me:pw@host/a.db", "sqlite://host:5432/a", "sqlite://file:a.db"] {
            assert_eq!(error(text), StoreUrlError::Network, "{text}");
        }
        for text in ["", "a.db", "mysql://a", "SQLITE://a"] {
            assert_eq!(error(text), StoreUrlError::UnknownScheme, "{text}");
        }
        assert_eq!(error("sqlite://a?sslmode=require"), StoreUrlError::NetworkOption("sslmode".into()));
        assert_eq!(error("sqlite://a?mode=ro"), StoreUrlError::UnknownParameter("mode".into()));
        assert_eq!(error("sqlite://a\0b"), StoreUrlError::NulByte);
    }

    #[test]
    fn credentials_are_never_shown() {
        for text in ["postgres://u:hunter2@h/d", "sqlite://u:hunter2@h/d", "sqlite://a?password=hunter2"] {
            let error = text.parse::<StoreUrl>().unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        }
        assert_eq!(error_of("postgresql://h/d"), StoreUrlError::NoPostgres);
    }

    fn error_of(text: &str) -> StoreUrlError {
        text.parse::<StoreUrl>().unwrap_err()
    }
}
