//! Settings of accounts and routing. The configuration is read into these types.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use antiphon_protocol::model::ModelPattern;
use antiphon_protocol::replay::ReplayIds;
use http::HeaderMap;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use crate::dialect::Dialect;
use crate::dialect::chat::ChatSettings;
use crate::route::Route;

/// One account.
#[derive(Debug, Clone, PartialEq)]
pub struct AccountSettings {
    /// Unique.
    pub name: String,
    /// Without a slash at the end; `/responses` is added to it.
    pub base_url: Url,
    pub credential: CredentialSettings,
    /// The models that it serves. Empty: those that its upstream lists.
    pub models: Vec<ModelPattern>,
    /// Accounts of one boundary can read each other's encrypted items.
    pub boundary: String,
    /// The account's own names of models, by the names that clients use.
    pub aliases: BTreeMap<String, String>,
    /// Added to each of its requests. Secrets are marked as sensitive.
    pub headers: HeaderMap,
    /// Parameters added to the address of each of its requests.
    pub query: BTreeMap<String, String>,
    pub api: UpstreamApi,
    pub route: Route,
    pub transport: UpstreamTransport,
    /// Whether its upstream only streams. Collected replies are assembled by the gateway then.
    pub stream_only: bool,
    pub state: UpstreamState,
    pub background: UpstreamBackground,
    pub replay_ids: ReplayIds,
    /// The account with the highest priority goes first.
    pub priority: u32,
    pub weight: u32,
    /// How many turns may run at the same time.
    pub max_in_flight: Option<u32>,
    /// The account as operators see it, with secrets redacted.
    pub shown: serde_json::Value,
}

/// How an account authenticates, beside the headers that the configuration adds.
#[derive(Debug, Clone, PartialEq)]
pub enum CredentialSettings {
    None,
    Key(Secret),
    OAuth(Box<OAuthSettings>),
}

/// A credential that an authorization server issues (OAuth 2.0, RFC 6749 section 6).
#[derive(Debug, Clone, PartialEq)]
pub struct OAuthSettings {
    pub token_url: Url,
    pub client_id: String,
    /// Sent in the body of the request.
    pub client_secret: Option<Secret>,
    /// The first one. Its successors are kept in the store.
    pub refresh_token: Secret,
    pub scope: Option<String>,
    /// Added to requests to the authorization server.
    pub headers: HeaderMap,
    pub route: Route,
}

/// A secret that can be compared and is never printed.
#[derive(Debug, Clone)]
pub struct Secret(SecretString);

/// Settings of connections to upstreams, the same for all accounts.
#[derive(Debug, Clone)]
pub struct UpstreamSettings {
    /// For opening a connection with TLS, and for opening a WebSocket.
    pub connect_timeout: Duration,
    /// The largest message that an upstream may send over a WebSocket.
    pub max_message_bytes: usize,
    /// The file with the key that encrypts stored tokens. It is created when it is first needed.
    pub key_file: PathBuf,
}

/// How turns are spread over accounts.
#[derive(Debug, Clone)]
pub struct RoutingSettings {
    /// Which account gets a turn that does not continue a chain.
    pub strategy: Strategy,
    /// How many turns may wait for an account.
    pub max_queued: usize,
    pub queue_timeout: Duration,
    /// A turn waits for an account whose cooldown ends within this time.
    pub patience: Duration,
    /// How often the models of an account that is cooling down after failures are requested, to end its cooldown early.
    pub probe_interval: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// The account with the fewest turns in flight, relative to its weight.
    LeastLoaded,
    /// Each account in turn, in proportion to its weight.
    RoundRobin,
    /// The first account that is ready and below its `max_in_flight`.
    FillFirst,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UpstreamState {
    /// Each turn is sent with its whole chain, and the upstream stores nothing.
    #[default]
    Replay,
    /// A chain whose last turn the account served continues by the upstream's own id, with only the new items.
    Native,
}

/// The API that an upstream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamApi {
    Fixed(Dialect),
    /// It is found out. The settings are for chat completions, should that be what it has.
    Auto(ChatSettings),
}

/// Who runs background turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UpstreamBackground {
    /// The gateway, as turns like any other.
    #[default]
    Gateway,
    /// The upstream, which goes on with a turn when the gateway dies.
    Native,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UpstreamTransport {
    #[default]
    Http,
    /// WebSocket only.
    WebSocket,
    /// WebSocket, and HTTP where that fails.
    Auto,
}

// === impl Secret ===

impl Secret {
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl From<SecretString> for Secret {
    fn from(secret: SecretString) -> Self {
        Self(secret)
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}
