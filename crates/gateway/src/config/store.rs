//! `[store]`: where responses are kept, for how long, and how safely.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use antiphon_store::{SqliteTarget, StoreOptions, StoreUrl, StoreUrlError};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::environment::Environment;
use super::values::{self, bytes, count, duration, words};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub struct StoreConfig {
    /// The database. Default: SQLite, `antiphon/antiphon.db` in `$XDG_DATA_HOME` or else in `~/.local/share`.
    pub url: DatabaseUrl,

    /// Where the schema of a PostgreSQL database is changed, if that is not possible at `url`. Default: at `url`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub migration_url: Option<DatabaseUrl>,

    /// Who brings the schema up to date. Default: auto.
    pub migrate: Migrate,

    /// The file with the key that tokens of accounts are encrypted with; made when it is first needed. Default: beside an
    /// SQLite database, with the extension `key`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,

    /// Where a database server may be. Default: any.
    pub network: Network,

    /// How long stored responses live. Default: 30d.
    pub retention: Retention,

    /// What a turn survives once its client has seen the end of it. Default: full.
    pub durability: Durability,

    /// How long a write may take, waiting included, before it counts as failed. Default: 10s.
    #[serde(with = "duration")]
    pub commit_timeout: Duration,

    /// How long a read may take, of a database server. Default: 10s.
    #[serde(with = "duration")]
    pub read_timeout: Duration,

    /// Connections that read. Default: 4.
    #[serde(deserialize_with = "count::deserialize")]
    pub read_connections: u32,

    /// Connections that write to a PostgreSQL database. Default: 2.
    #[serde(deserialize_with = "count::deserialize")]
    pub write_connections: u32,

    /// The size of the cache of chains, in bytes; 0 keeps none. Default: 64 MiB.
    #[serde(with = "bytes")]
    pub cache: usize,

    /// How often expired and deleted responses are removed from disk. Default: 1m.
    #[serde(with = "duration")]
    pub purge_interval: Duration,
}

/// A database URL as the operator wrote it, which may hold credentials: shown without them, whatever shows it.
#[derive(Clone)]
pub struct DatabaseUrl(SecretString);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    For(Duration),
    Forever,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Anywhere but at a cloud's metadata service.
    Any,
    /// On the internet alone.
    Public,
    /// On this machine or in the network around it alone.
    Private,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Migrate {
    /// Whoever starts first.
    Auto,
    /// `antiphon migrate`; until then an older schema is refused.
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

/// The database that is used when none is named: none if the environment names no data directory.
pub(super) fn default_url(environment: &Environment) -> Option<String> {
    // The XDG specification has relative paths ignored.
    let absolute = |name| environment.get(name).map(Path::new).filter(|path| path.is_absolute());
    let data = match absolute("XDG_DATA_HOME") {
        Some(directory) => directory.to_owned(),
        None => absolute("HOME")?.join(".local/share"),
    };
    Some(format!("sqlite://{}", data.join("antiphon/antiphon.db").display()))
}

impl Default for StoreConfig {
    /// With the database in the working directory, as no environment is known here.
    fn default() -> Self {
        Self {
            url: DatabaseUrl("sqlite://antiphon.db".into()),
            migration_url: None,
            migrate: Migrate::Auto,
            key_file: None,
            network: Network::Any,
            retention: Retention::For(Duration::from_hours(30 * 24)),
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
    /// The database that `url` names, which must be in `network`.
    pub fn target(&self) -> Result<StoreUrl, StoreUrlError> {
        self.parse(&self.url)
    }

    /// Where the key for tokens is; `None` if that has to be said, or the database is in memory.
    pub fn key_file(&self) -> Option<PathBuf> {
        let beside = || match self.target() {
            Ok(StoreUrl::Sqlite(SqliteTarget::File(path))) => Some(path.with_extension("key")),
            _ => None,
        };
        self.key_file.clone().or_else(beside)
    }

    /// The database where the schema is changed, if that is another address.
    pub fn migration_target(&self) -> Result<Option<StoreUrl>, StoreUrlError> {
        self.migration_url.as_ref().map(|url| self.parse(url)).transpose()
    }

    /// How the database is opened.
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

    /// Another database, which must be in `network` as well.
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
    /// The URL with its credentials, for the store alone.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

/// The URL without credentials: neither user and password nor parameters are shown, nor anything that is not a URL.
impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = self.expose();
        let (address, parameters) =
            url.split_once('?').map_or((url, ""), |(address, _)| (address, "?<redacted>"));
        if let Some(path) = address.strip_prefix("sqlite:") {
            // A login where a path begins was meant for a server.
            let first = path.strip_prefix("//").and_then(|path| path.split('/').next());
            if first.is_some_and(|first| first.contains('@')) {
                return f.write_str("sqlite://<redacted>");
            }
            return write!(f, "{address}{parameters}");
        }
        // A password may hold any of `@`, `/` and `?` if its writer forgot to escape it, hence the last `@` of all.
        match (url.split_once("://"), url.rsplit_once('@'), address.rsplit_once('@')) {
            (Some((scheme, _)), Some(_), Some((_, host))) => {
                write!(f, "{scheme}://<redacted>@{host}{parameters}")
            }
            // What is no port may be a password whose host is missing.
            (Some((_, place)), None, _) if has_port_or_none(place) => write!(f, "{address}{parameters}"),
            _ => f.write_str("<redacted>"),
        }
    }
}

fn has_port_or_none(place: &str) -> bool {
    let host = place.split(['/', '?', '#']).next().unwrap_or_default();
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
        values::read(deserializer, RULE, |written| written.text().filter(|url| !url.is_empty()))
            .map(|url| Self(url.into()))
    }
}

// === impl Retention ===

impl Retention {
    /// How long; `None` is for ever.
    pub fn limit(self) -> Option<Duration> {
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
        values::read(deserializer, RULE, |written| match written {
            values::Written::Text(text) if text == "forever" => Some(Self::Forever),
            other => {
                other.duration().filter(|duration| !duration.is_zero() && *duration <= MAX).map(Self::For)
            }
        })
    }
}
