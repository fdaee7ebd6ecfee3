//! One account: where its upstream is, its credential, and what it offers.

mod catalog;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use antiphon_protocol::model::ModelPattern;
use antiphon_protocol::request::Operation;
use antiphon_runtime::hex;
use antiphon_store::Timestamp;
use http::{HeaderMap, HeaderValue, Uri, header};
use sha2::{Digest, Sha256};

pub use self::catalog::{Catalog, Model, ModelList, NotAList};
use crate::credential::OAuth;
use crate::metrics::{AccountMetrics, UpstreamMetrics};
use crate::settings::{AccountSettings, CredentialSettings, UpstreamState, UpstreamTransport};

/// How long an upstream that has refused a socket is not asked for another.
const WITHOUT_SOCKETS: Duration = Duration::from_mins(10);

/// A credential at an upstream, and what has been learnt of that upstream.
#[derive(Debug)]
pub struct Account {
    pub settings: AccountSettings,
    pub name: String,
    /// Identifies its upstream and its credential without giving them away: account state in the store is about these.
    pub identity: String,
    responses_uri: Uri,
    compact_uri: Uri,
    input_tokens_uri: Uri,
    pub models_uri: Uri,
    pub credential: Credential,
    /// Until when its upstream is assumed not to accept WebSockets.
    without_sockets: Mutex<Option<Timestamp>>,
    pub catalog: Catalog,
    metrics: OnceLock<AccountMetrics>,
    /// Models that refuse to have encrypted reasoning included.
    without_encrypted_reasoning: Mutex<HashSet<String>>,
}

/// How an account authenticates, beside the headers that the configuration adds.
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
    /// # Errors
    ///
    /// [`AccountError`] if the settings do not make valid addresses or headers.
    pub fn new(settings: AccountSettings) -> Result<Self, AccountError> {
        let base = settings.base_url.as_str().trim_end_matches('/');
        let query = query_of(&settings.query);
        let uri = |path| {
            let address = format!("{base}{path}{query}");
            address.parse().map_err(|_| AccountError::Url(settings.name.clone()))
        };
        Ok(Self {
            name: settings.name.clone(),
            identity: identity_of(&settings),
            responses_uri: uri(settings.dialect.path(Operation::Create))?,
            compact_uri: uri(settings.dialect.path(Operation::Compact))?,
            input_tokens_uri: uri(settings.dialect.path(Operation::CountInput))?,
            models_uri: uri("/models")?,
            credential: Credential::new(&settings)?,
            settings,
            without_sockets: Mutex::default(),
            catalog: Catalog::default(),
            metrics: OnceLock::new(),
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
        for (name, value) in &self.settings.headers {
            headers.insert(name, value.clone());
        }
    }

    /// What the account calls a model, where that is not what clients call it.
    pub fn alias(&self, model: &str) -> Option<&str> {
        self.settings.aliases.get(model).map(String::as_str)
    }

    /// By the configured patterns, else by what the upstream lists; as long as that is not known, everything. Where no model
    /// is named, any account will do.
    pub fn offers(&self, model: &str) -> bool {
        if model.is_empty() || self.settings.aliases.contains_key(model) {
            true
        } else if self.settings.models.is_empty() {
            self.catalog.lists(model).unwrap_or(true)
        } else {
            self.settings.models.iter().any(|glob| glob.matches(model))
        }
    }

    /// The models to show: what the upstream lists and the patterns match, and what the patterns name outright.
    pub fn models(&self) -> Vec<Model> {
        let mut models = self.catalog.models();
        models.retain(|model| self.offers(&model.id));
        let named = self.settings.models.iter().filter_map(ModelPattern::literal);
        let named = named.chain(self.settings.aliases.keys().map(String::as_str));
        models.extend(named.map(|id| Model::named(id, &self.name)));
        models
    }

    /// The metrics of every turn that it answers, resolved once.
    pub fn metrics(&self, metrics: &UpstreamMetrics) -> &AccountMetrics {
        self.metrics.get_or_init(|| metrics.of_account(&self.name))
    }

    /// Whether its upstream keeps responses.
    pub fn is_native(&self) -> bool {
        self.settings.state == UpstreamState::Native
    }

    /// Whether turns go over sockets, as far as is known now.
    pub fn takes_sockets(&self, now: Timestamp) -> bool {
        match self.settings.transport {
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

// === impl Credential ===

impl Credential {
    fn new(settings: &AccountSettings) -> Result<Self, AccountError> {
        Ok(match &settings.credential {
            CredentialSettings::None => Self::None,
            CredentialSettings::Key(key) => {
                let mut value = HeaderValue::try_from(format!("Bearer {}", key.expose()))
                    .map_err(|_| AccountError::Credential(settings.name.clone()))?;
                value.set_sensitive(true);
                Self::Key(value)
            }
            CredentialSettings::OAuth(oauth) => Self::OAuth(Arc::new(OAuth::new(&settings.name, oauth))),
        })
    }
}

fn identity_of(settings: &AccountSettings) -> String {
    let mut digest = Sha256::new();
    let mut add = |part: &[u8]| {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    };
    add(settings.name.as_bytes());
    add(settings.base_url.as_str().as_bytes());
    match &settings.credential {
        CredentialSettings::None => {}
        CredentialSettings::Key(key) => add(key.expose().as_bytes()),
        CredentialSettings::OAuth(oauth) => add(oauth.refresh_token.expose().as_bytes()),
    }
    settings.headers.values().for_each(|value| add(value.as_bytes()));
    hex::encode(&digest.finalize()[..16])
}

/// The parameters as they stand at the end of an address.
fn query_of(parameters: &BTreeMap<String, String>) -> String {
    if parameters.is_empty() {
        return String::new();
    }
    format!("?{}", url::form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish())
}
