//! The configuration: a TOML file, overridden by environment variables `ANTIPHON_…`, overridden by flags.
//!
//! Each section has a file: a struct with a doc comment for each key, its `Default`, and `validate` where a rule spans
//! several keys. A new key is a field there and a line in `docs/antiphon.example.toml`, which a test compares.
//! [`Config::load`] reads everything once, before anything is bound or opened. It reports all values of the wrong type and all
//! broken rules, with their lines.

mod accounts;
mod background;
mod base_url;
mod changes;
mod chat;
mod credential;
mod environment;
mod error;
mod headers;
mod layers;
mod limits;
mod lines;
mod log;
mod oauth;
mod oidc;
mod prices;
mod projects;
mod proxy;
mod proxy_sign_in;
mod route;
mod routing;
mod show;
mod sockets;
mod sources;
mod store;
#[cfg(test)]
mod tests;
mod timeouts;
mod tls;
mod traces;
mod turns;
mod usage;
mod values;

use std::collections::{BTreeMap, HashMap};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use antiphon_access::limits::Rules;
use antiphon_access::prices::ModelPrice;
use antiphon_protocol::id::ProjectId;
use serde::{Deserialize, Serialize};

pub use self::accounts::AccountConfig;
pub use self::background::BackgroundConfig;
pub use self::credential::{ApiKey, Secrets};
pub use self::environment::Environment;
pub use self::error::{ConfigError, Problem};
pub use self::headers::AccountHeaders;
pub use self::limits::{LimitsConfig, MemoryLimit};
pub use self::log::{LogConfig, LogFormat};
pub use self::oauth::OAuthConfig;
pub use self::oidc::{OidcConfig, is_secure};
pub use self::projects::{LimitRules, ProjectConfig};
pub use self::proxy::ProxyConfig;
pub use self::proxy_sign_in::ProxySignInConfig;
pub use self::routing::RoutingConfig;
pub use self::sockets::SocketsConfig;
pub use self::sources::{Origin, Sources};
pub use self::store::{DatabaseUrl, Durability, Network, Retention, StoreConfig};
pub use self::timeouts::TimeoutsConfig;
pub use self::tls::TlsConfig;
pub use self::traces::TracesConfig;
pub use self::turns::{OnDisconnect, TurnsConfig};
pub use self::usage::UsageConfig;

use self::accounts::AccountDraft;
use self::error::Problems;
use self::layers::{Layers, Merged};
use self::oidc::OidcDraft;
use self::prices::PriceDraft;
use self::projects::ProjectDraft;
use self::proxy_sign_in::ProxySignInDraft;
use self::traces::TracesDraft;
use self::values::{address, boolean, words};

/// Read from the working directory if no file is named.
const DEFAULT_FILE: &str = "antiphon.toml";

#[derive(Debug, Clone, Serialize)]
pub struct Config {
    /// Where clients connect. Default: 127.0.0.1:8080.
    pub listen: SocketAddr,

    /// A separate address for metrics, health, the admin API and the dashboard. Default: `listen`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_listen: Option<SocketAddr>,

    /// Whether the dashboard is served, beside the admin API. Default: true.
    pub dashboard: bool,

    /// How clients authenticate. Default: not set, which requires a key as soon as one exists; to listen on anything but
    /// loopback, one must exist.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,

    /// Names under which clients without a key, and a proxy for signing in, may reach a gateway on loopback, beside
    /// `localhost` and its addresses. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_hosts: Vec<String>,

    pub store: StoreConfig,
    pub accounts: Vec<AccountConfig>,
    pub routing: RoutingConfig,
    pub limits: LimitsConfig,
    pub timeouts: TimeoutsConfig,
    pub turns: TurnsConfig,
    pub background: BackgroundConfig,
    pub sockets: SocketsConfig,
    pub usage: UsageConfig,
    pub log: LogConfig,

    /// TLS on both addresses. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsConfig>,

    /// Traces of turns. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traces: Option<TracesConfig>,

    /// An identity provider with which operators sign in to the dashboard. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oidc: Option<OidcConfig>,

    /// An authenticating proxy that says who uses the dashboard. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_sign_in: Option<ProxySignInConfig>,

    /// Prices that take precedence over the list that comes with the build. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prices: Vec<ModelPrice>,

    /// Settings that all keys of a project share, by the project's name. Default: none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub projects: BTreeMap<String, ProjectConfig>,

    /// Where values come from that are no defaults.
    #[serde(skip)]
    pub sources: Sources,

    /// Durations and sizes by their keys, in JSON, as they are written.
    #[serde(skip)]
    written: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// Every client is served, and keys are ignored.
    None,
}

words!(Auth { None => "none" });

/// What a command says: the values of flags, `None` where a flag is not given, and what it needs.
#[derive(Debug, Clone, Copy, Default)]
pub struct Overrides {
    /// `--listen`
    pub listen: Option<SocketAddr>,
    pub secrets: Secrets,
}

/// A configuration, and the file it was read from, if any.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub config: Config,
    pub source: Option<PathBuf>,
    /// What the file said.
    pub text: Option<String>,
}

/// The configuration as it is written, before credentials are read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Draft {
    #[serde(default = "default_listen", deserialize_with = "address::deserialize")]
    listen: SocketAddr,
    #[serde(default, deserialize_with = "address::deserialize_some")]
    admin_listen: Option<SocketAddr>,
    #[serde(default = "default_dashboard", deserialize_with = "boolean::deserialize")]
    dashboard: bool,
    #[serde(default)]
    auth: Option<Auth>,
    #[serde(default)]
    allowed_hosts: Vec<String>,
    #[serde(default)]
    store: StoreConfig,
    #[serde(default)]
    accounts: Vec<AccountDraft>,
    #[serde(default)]
    routing: RoutingConfig,
    #[serde(default)]
    limits: LimitsConfig,
    #[serde(default)]
    timeouts: TimeoutsConfig,
    #[serde(default)]
    turns: TurnsConfig,
    #[serde(default)]
    background: BackgroundConfig,
    #[serde(default)]
    sockets: SocketsConfig,
    #[serde(default)]
    usage: UsageConfig,
    #[serde(default)]
    log: LogConfig,
    #[serde(default)]
    tls: Option<TlsConfig>,
    #[serde(default)]
    traces: Option<TracesDraft>,
    oidc: Option<OidcDraft>,
    proxy_sign_in: Option<ProxySignInDraft>,
    #[serde(default)]
    prices: Vec<PriceDraft>,
    #[serde(default)]
    projects: BTreeMap<String, ProjectDraft>,
}

impl Config {
    /// Reads the configuration. `file` is the value of `--config`; without it, `ANTIPHON_CONFIG` names the file. A named
    /// file must exist. If none is named, `antiphon.toml` in `cwd` is read if it exists. Paths are relative to `cwd`.
    pub fn load(
        file: Option<&Path>,
        cwd: &Path,
        environment: &Environment,
        overrides: Overrides,
    ) -> Result<Loaded, ConfigError> {
        let named = file.or_else(|| named_file(environment));
        let file = read_file(named, cwd)?;
        let text = file.as_ref().map(|(path, text)| (path.as_path(), text.as_str()));
        let config = Self::parse(text, cwd, environment, overrides)?;
        let (source, text) = file.unzip();
        Ok(Loaded { config, source, text })
    }

    /// The file that is read if no flag names one. It may not exist.
    pub fn default_file(cwd: &Path, environment: &Environment) -> PathBuf {
        cwd.join(named_file(environment).unwrap_or(Path::new(DEFAULT_FILE)))
    }

    /// Like [`load`](Self::load), from the text of the file; its path is for errors.
    pub fn parse(
        file: Option<(&Path, &str)>,
        cwd: &Path,
        environment: &Environment,
        overrides: Overrides,
    ) -> Result<Self, ConfigError> {
        let merged = merge(file, environment, overrides)?;
        let mut problems = Problems::new(overrides.secrets);
        let draft = merged.extract::<Draft>(&mut problems);
        let config = draft.map(|draft| {
            let mut config = draft.resolve(cwd, environment, &mut problems);
            config.sources = merged.sources();
            config.written = merged.measures();
            config.validate(&merged, &mut problems);
            config
        });
        match config.filter(|_| problems.is_empty()) {
            Some(config) => Ok(config),
            None => Err(merged.to_error(problems)),
        }
    }

    /// The limits of all projects that have limits.
    pub fn project_limits(&self) -> HashMap<ProjectId, Rules> {
        let with_limits = self.projects.iter().filter(|(_, project)| !project.limits.is_empty());
        with_limits.map(|(name, project)| (ProjectId::new(name), project.limits.rules().clone())).collect()
    }

    /// Rejects a configuration without accounts, which cannot serve a turn. Printing or checking one needs none.
    pub fn require_accounts(&self) -> Result<(), ConfigError> {
        if self.accounts.is_empty() { Err(ConfigError::NoAccounts) } else { Ok(()) }
    }

    fn validate(&self, merged: &Merged, problems: &mut Problems) {
        let are_same = self.admin_listen == Some(self.listen) && self.listen.port() != 0;
        if are_same && !problems.concern("listen") {
            problems
                .reject("admin_listen", "must differ from listen; leave it out to serve both on one address");
        }
        if !merged.contains("store.url") {
            problems.reject(
                "store.url",
                "must be set, such as \"sqlite://antiphon.db\": there is no default because neither XDG_DATA_HOME nor \
                 HOME is set",
            );
        }
        let is_oauth = |account: &AccountConfig| account.oauth.is_some();
        if self.accounts.iter().any(is_oauth) && self.store.key_file().is_none() {
            problems.reject(
                "store.key_file",
                "must be set because an account uses oauth: its tokens are encrypted in the database, and every \
                 replica needs the same key",
            );
        }
        self.store.validate(problems);
        self.limits.validate(problems);
        self.usage.validate(problems);
        self.log.validate(problems);
    }
}

impl Default for Config {
    /// The configuration of an empty file, except for [`StoreConfig::url`], and without accounts.
    fn default() -> Self {
        Self {
            listen: default_listen(),
            admin_listen: None,
            dashboard: default_dashboard(),
            auth: None,
            allowed_hosts: Vec::new(),
            store: StoreConfig::default(),
            accounts: Vec::new(),
            routing: RoutingConfig::default(),
            limits: LimitsConfig::default(),
            timeouts: TimeoutsConfig::default(),
            turns: TurnsConfig::default(),
            background: BackgroundConfig::default(),
            sockets: SocketsConfig::default(),
            usage: UsageConfig::default(),
            log: LogConfig::default(),
            tls: None,
            traces: None,
            oidc: None,
            proxy_sign_in: None,
            prices: Vec::new(),
            projects: BTreeMap::new(),
            sources: Sources::default(),
            written: BTreeMap::new(),
        }
    }
}

impl Draft {
    fn resolve(self, cwd: &Path, environment: &Environment, problems: &mut Problems) -> Config {
        Config {
            listen: self.listen,
            admin_listen: self.admin_listen,
            dashboard: self.dashboard,
            auth: self.auth,
            allowed_hosts: self.allowed_hosts,
            store: self.store,
            accounts: accounts::resolve(self.accounts, cwd, environment, problems),
            routing: self.routing,
            limits: self.limits,
            timeouts: self.timeouts,
            turns: self.turns,
            background: self.background,
            sockets: self.sockets,
            usage: self.usage,
            log: self.log,
            tls: self.tls,
            traces: self.traces.and_then(|traces| traces.resolve(cwd, environment, problems)),
            oidc: self.oidc.and_then(|oidc| oidc.resolve(cwd, environment, problems)),
            proxy_sign_in: self.proxy_sign_in.and_then(|proxy| proxy.resolve(problems)),
            prices: prices::resolve(self.prices, problems),
            projects: projects::resolve(self.projects, problems),
            sources: Sources::default(),
            written: BTreeMap::new(),
        }
    }
}

fn default_listen() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 8080).into()
}

fn default_dashboard() -> bool {
    true
}

fn named_file(environment: &Environment) -> Option<&Path> {
    environment.get(layers::FILE_VARIABLE).map(Path::new)
}

/// The path and text of the configuration file; `None` if no file was named and the default one does not exist.
fn read_file(named: Option<&Path>, cwd: &Path) -> Result<Option<(PathBuf, String)>, ConfigError> {
    let path = cwd.join(named.unwrap_or(Path::new(DEFAULT_FILE)));
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some((path, text))),
        Err(error) if error.kind() == ErrorKind::NotFound && named.is_none() => Ok(None),
        Err(error) => Err(ConfigError::Unreadable { path, reason: error.to_string() }),
    }
}

fn merge(
    file: Option<(&Path, &str)>,
    environment: &Environment,
    overrides: Overrides,
) -> Result<Merged, ConfigError> {
    let mut layers = Layers::default();
    if let Some(url) = store::default_url(environment) {
        layers = layers.set("default", "store.url", url);
    }
    if let Some((source, accounts)) = accounts::from_openai_variables(environment) {
        layers = layers.set(source, "accounts", accounts);
    }
    if let Some((path, text)) = file {
        layers = layers.file(path, text)?;
    }
    layers = layers.environment(environment);
    if let Some(listen) = overrides.listen {
        layers = layers.set("flag --listen", "listen", listen.to_string());
    }
    Ok(layers.merge())
}
