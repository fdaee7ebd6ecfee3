//! Store URLs, as an operator writes them.

mod error;
pub(crate) mod host;
pub(crate) mod network;
mod parameters;
pub(crate) mod postgres;
mod sqlite;
#[cfg(test)]
mod tests;
pub(crate) mod tls;

use std::fmt;
use std::str::FromStr;

pub use self::error::StoreUrlError;
pub use self::network::{AddressKind, Network, Reason, Refusal, UnknownNetwork};
pub use self::postgres::PostgresTarget;
pub use self::sqlite::SqliteTarget;

/// A store's address. Never shows credentials.
#[derive(Clone, PartialEq, Eq)]
pub enum StoreUrl {
    Sqlite(SqliteTarget),
    Postgres(Box<PostgresTarget>),
}

// === impl StoreUrl ===

impl StoreUrl {
    /// Parses a URL whose host must be in `network`. An address is checked here, a name at every connect.
    pub fn parse(text: &str, network: Network) -> Result<Self, StoreUrlError> {
        let postgres = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://"));
        if let Some(rest) = postgres {
            return PostgresTarget::parse(rest, network).map(|target| Self::Postgres(Box::new(target)));
        }
        let rest = text.strip_prefix("sqlite:").ok_or(StoreUrlError::UnknownScheme)?;
        SqliteTarget::parse(rest).map(Self::Sqlite)
    }
}

impl FromStr for StoreUrl {
    type Err = StoreUrlError;

    /// With [`Network::Any`].
    fn from_str(text: &str) -> Result<Self, StoreUrlError> {
        Self::parse(text, Network::Any)
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(SqliteTarget::Memory) => f.write_str("sqlite::memory:"),
            Self::Sqlite(SqliteTarget::File(path)) => write!(f, "sqlite://{}", path.display()),
            Self::Postgres(target) => target.fmt(f),
        }
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreUrl({self})")
    }
}

/// The name of a parameter for an error. A text that is no name may be part of a password, so it is not shown.
fn shown_name(name: &str) -> String {
    let is_name =
        name.len() <= 40 && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    if is_name { name.to_owned() } else { "…".to_owned() }
}
