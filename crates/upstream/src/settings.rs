//! Plain settings of accounts and routing, as the configuration is read into them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use antiphon_protocol::model::ModelPattern;
use antiphon_protocol::replay::ReplayIds;
use http::HeaderMap;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use crate::dialect::Dialect;

/// One account.
#[derive(Debug, Clone, PartialEq)]
pub struct AccountSettings {
    /// Unique.
    pub name: String,
    /// Without a slash at the end; `/responses` is added to it.
    pub base_url: Url,
    pub credential: CredentialSettings,
    /// The models that it serves. Empty: whatever its upstream lists.
    pub models: Vec<ModelPattern>,
    /// Accounts of one boundary can read each other's encrypted items.
    pub boundary: String,
    /// What the account calls some models, by the name that clients use.
    pub aliases: BTreeMap<String, String>,
    /// Added to each of its requests; secrets among them are marked as sensitive.
    pub headers: HeaderMap,
    /// Parameters that the address of each of its requests gets.
    pub query: BTreeMap<String, String>,
    pub dialect: Dialect,
    pub transport: UpstreamTransport,
    /// Whether its upstream only streams: collected replies are then assembled here.
    pub stream_only: bool,
    pub state: UpstreamState,
    pub replay_ids: ReplayIds,
    /// Higher goes first.
    pub priority: u32,
    pub weight: u32,
    /// Turns at once.
    pub max_in_flight: Option<u32>,
    /// The account as operators see it: secrets are redacted.
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
    /// Sent in the request's body.
    pub client_secret: Option<Secret>,
    /// The first one; those that follow are kept in the store.
    pub refresh_token: Secret,
    pub scope: Option<String>,
    /// Added to requests to the authorization server.
    pub headers: HeaderMap,
}

/// A secret that can be compared, and is never printed.
#[derive(Debug, Clone)]
pub struct Secret(SecretString);

/// What reaching upstreams needs, whichever account asks.
#[derive(Debug, Clone)]
pub struct UpstreamSettings {
    /// For a connection, TLS included, and for opening a WebSocket.
    pub connect_timeout: Duration,
    /// The largest message that an upstream may send over a WebSocket.
    pub max_message_bytes: usize,
    /// Holds the key that stored tokens are encrypted with; made when it is first needed.
    pub key_file: PathBuf,
}

/// How turns are spread over accounts.
#[derive(Debug, Clone)]
pub struct RoutingSettings {
    /// Which account gets a turn that belongs to none yet.
    pub strategy: Strategy,
    /// Turns that may wait while every account is at its `max_in_flight`.
    pub max_queued: usize,
    pub queue_timeout: Duration,
    /// How soon an account has to be back from cooling down for a turn to wait for it.
    pub patience: Duration,
    /// How often an account that is cooling down after failures is asked for its models, to have it back early.
    pub probe_interval: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// The one with the fewest turns in flight, for its weight.
    LeastLoaded,
    /// Each in turn, as often as its weight says.
    RoundRobin,
    /// The first that is ready and has room.
    FillFirst,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UpstreamState {
    /// The whole chain is sent with each turn, and the upstream keeps nothing.
    #[default]
    Replay,
    /// A chain that the account served last continues by the upstream's own id, with the new items alone.
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
