//! Where a store is, parsed from the text that the operator wrote.

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
    /// Reads a URL whose host must be in `network`: for an address that is decided here, for a name at every connect.
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

/// A parameter's name as it may be repeated in an error: what is none may be part of a password.
fn shown_name(name: &str) -> String {
    let is_name =
        name.len() <= 40 && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    if is_name { name.to_owned() } else { "…".to_owned() }
}
