//! `[store]`: the database, and how long and how durably responses are stored.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use antiphon_store::{SqliteTarget, StoreOptions, StoreUrl, StoreUrlError};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::environment::Environment;
use super::error::Problems;
use super::values::{self, bytes, count, duration, words};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct StoreConfig {
    /// The database. Default: SQLite, `antiphon/antiphon.db` in `$XDG_DATA_HOME` or else in `~/.local/share`.
    pub url: DatabaseUrl,

    /// The URL for changing the schema of a PostgreSQL database, if `url` does not allow it. Default: `url`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub migration_url: Option<DatabaseUrl>,

    /// When the schema is migrated. Default: auto.
    pub migrate: Migrate,

    /// The file with the key that encrypts the tokens of accounts; created when it is first needed. Default: beside an SQLite
    /// database, with the extension `key`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,

    /// The networks that a database server may be in. Default: any.
    pub network: Network,

    /// How long stored responses live. Default: 30d.
    pub retention: Retention,

    /// How long a conversation lives that nobody changes, with the responses in it. Default: forever.
    pub conversation_retention: Retention,

    /// What a turn survives once its client has received its end. Default: full.
    pub durability: Durability,

    /// How long a write may take, including its time in the queue. Default: 10s.
    #[serde(with = "duration")]
    pub commit_timeout: Duration,

    /// How long a read from a database server may take. Default: 10s.
    #[serde(with = "duration")]
    pub read_timeout: Duration,

    /// The number of connections that read. One project uses all but one of them at a time. Default: 4.
    #[serde(deserialize_with = "count::deserialize")]
    pub read_connections: u32,

    /// The number of connections that write to a PostgreSQL database. Default: 2.
    #[serde(deserialize_with = "count::deserialize")]
    pub write_connections: u32,

    /// The size of the cache of chains, in bytes; 0 disables it. Default: 64 MiB.
    #[serde(with = "bytes")]
    pub cache: usize,

    /// How often expired and deleted responses are removed from disk. Default: 1m.
    #[serde(with = "duration")]
    pub purge_interval: Duration,
}

/// A database URL as the operator wrote it. It may hold credentials, which are never printed.
#[derive(Clone)]
pub struct DatabaseUrl(SecretString);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    For(Duration),
    Forever,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Anywhere except a cloud's metadata service.
    Any,
    /// Only on the internet.
    Public,
    /// Only on this machine or in a private network.
    Private,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Migrate {
    /// The first gateway that starts migrates it.
    Auto,
    /// Only `antiphon migrate` does; until then, an older schema is rejected.
    Manual,
}

words!(Migrate { Auto => "auto", Manual => "manual" });

words!(Network { Any => "any", Public => "public", Private => "private" });

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// A power cut.
    Full,
    /// A crash of the process; a power cut may take the last turns.
    Normal,
}

words!(Durability { Full => "full", Normal => "normal" });

/// The URL of the default database; `None` if the environment names no data directory.
pub(super) fn default_url(environment: &Environment) -> Option<String> {
    // The XDG specification says to ignore relative paths.
    let absolute = |name| environment.get(name).map(Path::new).filter(|path| path.is_absolute());
    let data = match absolute("XDG_DATA_HOME") {
        Some(directory) => directory.to_owned(),
        None => absolute("HOME")?.join(".local/share"),
    };
    Some(format!("sqlite://{}", data.join("antiphon/antiphon.db").display()))
}

impl Default for StoreConfig {
    /// With a database in the working directory, as the environment is not known here.
    fn default() -> Self {
        Self {
            url: DatabaseUrl("sqlite://antiphon.db".into()),
            migration_url: None,
            migrate: Migrate::Auto,
            key_file: None,
            network: Network::Any,
            retention: Retention::For(Duration::from_hours(30 * 24)),
            conversation_retention: Retention::Forever,
            durability: Durability::Full,
            commit_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(10),
            read_connections: 4,
            write_connections: 2,
            cache: 64 << 20,
            purge_interval: Duration::from_mins(1),
        }
    }
}

// === impl StoreConfig ===

impl StoreConfig {
    /// The database at `url`, which must be in `network`.
    pub fn target(&self) -> Result<StoreUrl, StoreUrlError> {
        self.parse(&self.url)
    }

    /// The file with the key for tokens; `None` if it has no default, as for PostgreSQL or a database in memory.
    pub fn key_file(&self) -> Option<PathBuf> {
        let beside_database = || match self.target() {
            Ok(StoreUrl::Sqlite(SqliteTarget::File(path))) => Some(path.with_extension("key")),
            _ => None,
        };
        self.key_file.clone().or_else(beside_database)
    }

    /// The database URL for migrations, if it differs.
    pub fn migration_target(&self) -> Result<Option<StoreUrl>, StoreUrlError> {
        self.migration_url.as_ref().map(|url| self.parse(url)).transpose()
    }

    pub(super) fn validate(&self, problems: &mut Problems) {
        self.validate_url("store.url", &self.url, problems);
        if let Some(url) = &self.migration_url {
            self.validate_url("store.migration_url", url, problems);
        }
    }

    fn validate_url(&self, key: &str, url: &DatabaseUrl, problems: &mut Problems) {
        let text = url.expose();
        if is_path(text) {
            problems.reject_hidden(key, format!("must be a URL: for this file, write \"sqlite://{text}\""));
        } else if let Err(error) = self.parse(url) {
            problems.reject_hidden(key, error.to_string());
        }
    }

    pub fn options(&self) -> Result<StoreOptions, StoreUrlError> {
        Ok(StoreOptions {
            durability: match self.durability {
                Durability::Full => antiphon_store::Durability::Full,
                Durability::Normal => antiphon_store::Durability::Normal,
            },
            commit_timeout: self.commit_timeout,
            read_timeout: self.read_timeout,
            read_connections: self.read_connections,
            write_connections: self.write_connections,
            migrate: match self.migrate {
                Migrate::Auto => antiphon_store::Migrate::Auto,
                Migrate::Manual => antiphon_store::Migrate::Manual,
            },
            migration_url: self.migration_target()?,
            ..StoreOptions::default()
        })
    }

    fn parse(&self, url: &DatabaseUrl) -> Result<StoreUrl, StoreUrlError> {
        self.parse_url(url.expose())
    }

    /// Parses the URL of another database, which must be in `network` as well.
    pub fn parse_url(&self, url: &str) -> Result<StoreUrl, StoreUrlError> {
        let network = match self.network {
            Network::Any => antiphon_store::Network::Any,
            Network::Public => antiphon_store::Network::Public,
            Network::Private => antiphon_store::Network::Private,
        };
        StoreUrl::parse(url, network)
    }
}

// === impl DatabaseUrl ===

impl DatabaseUrl {
    /// The URL with its credentials; only for the store.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

/// Whether the text is the path of a file, and nothing that may hold a password.
fn is_path(text: &str) -> bool {
    let is_plain = !text.contains([':', '@', '=', '?']) && !text.contains(char::is_whitespace);
    let has_extension = [".db", ".sqlite", ".sqlite3"].iter().any(|extension| text.ends_with(extension));
    is_plain && (text.starts_with('/') || text.starts_with("./") || has_extension)
}

impl PartialEq for DatabaseUrl {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

/// The URL without user, password and parameters. Text that is not a URL is not shown at all.
impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = self.expose();
        let (address, parameters) =
            url.split_once('?').map_or((url, ""), |(address, _)| (address, "?<redacted>"));
        if let Some(path) = address.strip_prefix("sqlite:") {
            // User and password where the path begins were meant for a server.
            let first = path.strip_prefix("//").and_then(|path| path.split('/').next());
            if first.is_some_and(|first| first.contains('@')) {
                return f.write_str("sqlite://<redacted>");
            }
            return write!(f, "{address}{parameters}");
        }
        // A password that was not escaped may hold any of `@`, `/` and `?`, hence the last `@` of all.
        match (address.split_once("://"), url.rsplit_once('@'), address.rsplit_once('@')) {
            (Some((scheme, _)), Some(_), Some((_, host))) => {
                write!(f, "{scheme}://<redacted>@{host}{parameters}")
            }
            // Text after the colon that is not a port may be a password whose host is missing.
            (Some((_, authority)), None, _) if has_valid_port(authority) => {
                write!(f, "{address}{parameters}")
            }
            _ => f.write_str("<redacted>"),
        }
    }
}

/// Whether the port is a number or absent.
fn has_valid_port(authority: &str) -> bool {
    let host = authority.split(['/', '?', '#']).next().unwrap_or_default();
    let port = host.rsplit_once(']').map_or(host, |(_, port)| port).split_once(':').map(|(_, port)| port);
    port.is_none_or(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatabaseUrl({self})")
    }
}

impl Serialize for DatabaseUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DatabaseUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const RULE: &str = r#"a database URL such as "sqlite://antiphon.db""#;
        values::parse(deserializer, RULE, |raw| raw.text().filter(|url| !url.is_empty()))
            .map(|url| Self(url.into()))
    }
}

// === impl Retention ===

impl Retention {
    /// `None` for ever.
    pub fn as_duration(self) -> Option<Duration> {
        match self {
            Self::Forever => None,
            Self::For(duration) => Some(duration),
        }
    }
}

impl Serialize for Retention {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::For(duration) => serializer.serialize_str(&values::format_duration(*duration)),
            Self::Forever => serializer.serialize_str("forever"),
        }
    }
}

impl<'de> Deserialize<'de> for Retention {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const RULE: &str = r#"a duration such as "30d", above zero and at most "36500d", or "forever""#;
        const MAX: Duration = Duration::from_hours(36_500 * 24);
        values::parse(deserializer, RULE, |raw| match raw {
            values::RawValue::Text(text) if text == "forever" => Some(Self::Forever),
            other => {
                other.duration().filter(|duration| !duration.is_zero() && *duration <= MAX).map(Self::For)
            }
        })
    }
}
