//! One account: where its upstream is, its credential, and what it offers.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use antiphon_protocol::replay::ReplayIds;
use antiphon_protocol::request::Operation;
use antiphon_store::Timestamp;
use http::{HeaderMap, HeaderValue, Uri, header};
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};

use super::catalog::{Catalog, Model};
use crate::config::{self, AccountConfig, ModelGlob, UpstreamTransport};
use crate::credential::OAuth;
use crate::credential::seal::hex;
use crate::metrics::{AccountMeters, Metrics};
use crate::upstream::Upstream;

/// How long an upstream that has refused a socket is not asked for another.
const WITHOUT_SOCKETS: Duration = Duration::from_mins(10);

/// A credential at an upstream.
#[derive(Debug)]
pub struct Account {
    /// As it was written.
    pub config: AccountConfig,
    pub name: String,
    /// Tells its upstream and its credential, without giving that away: what is known of the account is about these.
    pub identity: String,
    /// The accounts that can read what this one's upstream encrypted.
    pub boundary: String,
    pub replay_ids: ReplayIds,
    responses_uri: Uri,
    compact_uri: Uri,
    input_tokens_uri: Uri,
    pub models_uri: Uri,
    /// Higher goes first.
    pub priority: u32,
    pub weight: u32,
    /// Turns at once.
    pub max_in_flight: Option<u32>,
    pub credential: Credential,
    /// What the configuration adds to each request.
    headers: HeaderMap,
    aliases: BTreeMap<String, String>,
    pub transport: UpstreamTransport,
    /// Until when its upstream is taken for one without sockets.
    without_sockets: Mutex<Option<Timestamp>>,
    /// Its upstream answers with streams alone.
    pub stream_only: bool,
    /// Its upstream keeps responses.
    pub is_native: bool,
    globs: Vec<ModelGlob>,
    catalog: Catalog,
    meters: OnceLock<AccountMeters>,
    /// Models that refuse to have encrypted reasoning included.
    without_encrypted_reasoning: Mutex<HashSet<String>>,
}

/// How an account proves who it is, beside the headers that the configuration adds.
#[derive(Debug)]
pub enum Credential {
    None,
    /// The whole header, marked sensitive, so that it is never printed.
    Key(HeaderValue),
    OAuth(Arc<OAuth>),
}

/// An account of the configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    #[error("account '{0}': the base_url can't be extended to a valid address")]
    Url(String),
    #[error("account '{0}': the api_key holds characters that a header can't carry")]
    Credential(String),
}

impl Account {
    pub fn new(config: &AccountConfig) -> Result<Self, AccountError> {
        let base = config.base_url.as_str().trim_end_matches('/');
        let query = query_of(&config.query);
        let uri = |path| {
            let address = format!("{base}{path}{query}");
            address.parse().map_err(|_| AccountError::Url(config.name.clone()))
        };
        let bearer = |key: &config::ApiKey| {
            let mut value = HeaderValue::try_from(format!("Bearer {}", key.secret().expose_secret()))
                .map_err(|_| AccountError::Credential(config.name.clone()))?;
            value.set_sensitive(true);
            Ok(value)
        };
        Ok(Self {
            config: config.clone(),
            name: config.name.clone(),
            identity: identity_of(config),
            boundary: config.boundary.clone(),
            replay_ids: match config.replay_ids {
                config::ReplayIds::Drop => ReplayIds::Drop,
                config::ReplayIds::Keep => ReplayIds::Keep,
            },
            responses_uri: uri("/responses")?,
            compact_uri: uri("/responses/compact")?,
            input_tokens_uri: uri("/responses/input_tokens")?,
            models_uri: uri("/models")?,
            priority: config.priority,
            weight: config.weight,
            max_in_flight: config.max_in_flight,
            credential: match (&config.api_key, &config.oauth) {
                (Some(key), _) => Credential::Key(bearer(key)?),
                (None, Some(oauth)) => Credential::OAuth(Arc::new(OAuth::new(&config.name, oauth))),
                (None, None) => Credential::None,
            },
            headers: config.headers.iter().collect(),
            aliases: config.aliases.clone(),
            transport: config.transport,
            without_sockets: Mutex::default(),
            stream_only: config.stream_only,
            is_native: config.state == config::UpstreamState::Native,
            globs: config.models.clone(),
            catalog: Catalog::default(),
            meters: OnceLock::new(),
            without_encrypted_reasoning: Mutex::default(),
        })
    }

    /// Where an operation is asked for.
    pub fn uri(&self, operation: Operation) -> &Uri {
        match operation {
            Operation::Create => &self.responses_uri,
            Operation::Compact => &self.compact_uri,
            Operation::CountInput => &self.input_tokens_uri,
        }
    }

    /// What each request gets, with the credential that it has just now.
    pub fn authorize(&self, authorization: Option<&HeaderValue>, headers: &mut HeaderMap) {
        if let Some(value) = authorization {
            headers.insert(header::AUTHORIZATION, value.clone());
        }
        for (name, value) in &self.headers {
            headers.insert(name, value.clone());
        }
    }

    /// What the account calls a model, where that is not what clients call it.
    pub fn alias(&self, model: &str) -> Option<&str> {
        self.aliases.get(model).map(String::as_str)
    }

    /// By the configured globs, else by what the upstream lists; as long as that is not known, everything. Where no model
    /// is named, any account will do.
    pub fn offers(&self, model: &str) -> bool {
        if model.is_empty() || self.aliases.contains_key(model) {
            true
        } else if self.globs.is_empty() {
            self.catalog.lists(model).unwrap_or(true)
        } else {
            self.globs.iter().any(|glob| glob.matches(model))
        }
    }

    /// The models to show: what the upstream lists and the globs let through, and what the globs name outright.
    pub fn models(&self) -> Vec<Model> {
        let mut models = self.catalog.models();
        models.retain(|model| self.offers(&model.id));
        let named = self.globs.iter().filter_map(ModelGlob::literal);
        let named = named.chain(self.aliases.keys().map(String::as_str));
        models.extend(named.map(|id| Model::named(id, &self.name)));
        models
    }

    pub async fn refresh_catalog(&self, upstream: &Upstream, now: Timestamp) {
        self.catalog.refresh(self, upstream, now).await;
    }

    /// What every turn that it answers counts, found once.
    pub fn meters(&self, metrics: &Metrics) -> &AccountMeters {
        self.meters.get_or_init(|| metrics.account_meters(&self.name))
    }

    /// Whether turns go over sockets, as far as is known now.
    pub fn takes_sockets(&self, now: Timestamp) -> bool {
        match self.transport {
            UpstreamTransport::Http => false,
            UpstreamTransport::WebSocket => true,
            UpstreamTransport::Auto => {
                let refused = *self.without_sockets.lock().unwrap_or_else(PoisonError::into_inner);
                refused.is_none_or(|until| until <= now)
            }
        }
    }

    /// The upstream has refused one: HTTP it is for a while.
    pub fn remember_sockets_refused(&self, now: Timestamp) {
        let until = now.plus(WITHOUT_SOCKETS);
        *self.without_sockets.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }

    pub fn refuses_encrypted_reasoning(&self, model: &str) -> bool {
        self.without_encrypted_reasoning.lock().unwrap_or_else(PoisonError::into_inner).contains(model)
    }

    pub fn remember_encrypted_reasoning_refused(&self, model: &str) {
        self.without_encrypted_reasoning
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(model.to_owned());
    }
}

fn identity_of(config: &AccountConfig) -> String {
    let mut digest = Sha256::new();
    let mut add = |part: &[u8]| {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    };
    add(config.name.as_bytes());
    add(config.base_url.as_str().as_bytes());
    let secrets = config.api_key.iter().chain(config.oauth.as_ref().map(|oauth| &oauth.refresh_token));
    secrets.for_each(|secret| add(secret.secret().expose_secret().as_bytes()));
    config.headers.iter().for_each(|(_, value)| add(value.as_bytes()));
    hex(&digest.finalize()[..16])
}

/// The parameters as they stand at the end of an address.
fn query_of(parameters: &BTreeMap<String, String>) -> String {
    if parameters.is_empty() {
        return String::new();
    }
    format!("?{}", url::form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish())
}
