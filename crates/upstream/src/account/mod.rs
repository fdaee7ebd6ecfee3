//! One account: the addresses of its upstream, its credential, and the models that it offers.

mod api;
mod catalog;
mod quota;
pub(crate) mod reset_time;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use antiphon_protocol::model::{ModelPattern, other_name};
use antiphon_protocol::request::Operation;
use antiphon_runtime::hex;
use antiphon_store::{Maker, Timestamp};
use http::{HeaderMap, HeaderValue, Uri, header};
use sha2::{Digest, Sha256};

pub(crate) use self::api::KnownApi;
pub use self::api::{FoundApi, Server};
pub(crate) use self::catalog::{Catalog, Listed};
pub use self::catalog::{Model, ModelList, NotAList};
pub use self::quota::{Quota, QuotaWindow};
use crate::credential::OAuth;
use crate::dialect::Dialect;
use crate::dialect::chat::ChatForm;
use crate::metrics::{AccountMetrics, UpstreamMetrics};
use crate::settings::{
    AccountSettings, CredentialSettings, UpstreamApi, UpstreamBackground, UpstreamState, UpstreamTransport,
};

/// After an upstream has refused a socket, turns use HTTP for this long.
const SOCKET_RETRY_DELAY: Duration = Duration::from_mins(10);
/// So many models are remembered for which an upstream refuses something.
const MAX_KNOWN_MODELS: usize = 1_000;

/// A credential at an upstream, and what is known of that upstream.
#[derive(Debug)]
pub struct Account {
    pub settings: AccountSettings,
    pub name: String,
    /// A hash of its upstream and its credential: account state in the store applies only to these.
    pub(crate) identity: String,
    /// In the order of [`Operation::ALL`].
    uris: Vec<Uri>,
    pub(crate) models_uri: Uri,
    /// Where Ollama says which version it is.
    pub(crate) version_uri: Uri,
    /// Its upstream's API.
    pub api: KnownApi,
    /// The boundary of what its upstream has written in chat completions, if that was found out to be its API.
    chat_boundary: String,
    pub credential: Credential,
    /// Until when its upstream is assumed not to accept WebSockets.
    sockets_refused_until: Mutex<Option<Timestamp>>,
    pub(crate) catalog: Catalog,
    pub quota: Quota,
    metrics: OnceLock<AccountMetrics>,
    /// What its upstream said when it refused the credential.
    refusal: Mutex<Option<String>>,
    /// Models for which the upstream refuses to include encrypted reasoning.
    models_refusing_encrypted_reasoning: KnownModels<()>,
    /// Models for which the upstream refuses calls that made images in earlier turns.
    models_refusing_images: KnownModels<()>,
    /// The form in which the upstream takes chats of a model, if not the usual one.
    chat_forms: KnownModels<ChatForm>,
}

/// What is remembered of models.
#[derive(Debug, Default)]
struct KnownModels<T>(Mutex<HashMap<String, T>>);

/// Whether an account serves a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offer {
    Yes,
    /// Its upstream does not list the model, but may have it.
    Unlisted,
    /// Its configuration says that it does not.
    No,
}

/// How an account authenticates, beside the headers that the configuration adds.
#[derive(Debug)]
pub enum Credential {
    None,
    /// The value of `authorization`, marked as sensitive so that it is never printed.
    Key(HeaderValue),
    OAuth(Arc<OAuth>),
}

/// Why a configured account can't be used.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    #[error("account '{0}': base_url does not form a valid URL")]
    Url(String),
    #[error("account '{0}': api_key contains characters that are not allowed in a header")]
    Credential(String),
}

impl Account {
    /// # Errors
    ///
    /// [`AccountError`] if the settings do not form valid addresses or headers.
    pub fn new(settings: AccountSettings) -> Result<Self, AccountError> {
        let base = settings.base_url.as_str().trim_end_matches('/');
        let query = query_string(&settings.query);
        let uri = |path| {
            let address = format!("{base}{path}{query}");
            address.parse().map_err(|_| AccountError::Url(settings.name.clone()))
        };
        Ok(Self {
            name: settings.name.clone(),
            identity: identity_hash(&settings),
            uris: Operation::ALL
                .into_iter()
                .map(|operation| uri(operation.path()))
                .collect::<Result<_, _>>()?,
            models_uri: uri("/models")?,
            version_uri: version_uri(&settings)?,
            api: KnownApi::new(settings.api),
            chat_boundary: format!("{}+chat", settings.boundary),
            credential: Credential::new(&settings)?,
            settings,
            quota: Quota::default(),
            sockets_refused_until: Mutex::default(),
            catalog: Catalog::default(),
            metrics: OnceLock::new(),
            refusal: Mutex::default(),
            models_refusing_encrypted_reasoning: KnownModels::default(),
            models_refusing_images: KnownModels::default(),
            chat_forms: KnownModels::default(),
        })
    }

    /// The address of an operation in a dialect.
    pub fn uri(&self, operation: Operation, dialect: Dialect) -> &Uri {
        &self.uris[dialect.endpoint(operation) as usize]
    }

    /// Accounts of one boundary can read each other's encrypted items. What an upstream has written in chat completions is not
    /// encrypted, and means nothing to an upstream of the Responses API.
    pub fn boundary(&self) -> &str {
        match (self.settings.api, self.api.dialect()) {
            (UpstreamApi::Auto(_), Dialect::Chat(_)) => &self.chat_boundary,
            _ => &self.settings.boundary,
        }
    }

    /// Where the items come from that its upstream makes.
    pub fn maker(&self) -> Maker {
        Maker { account: self.name.clone(), boundary: self.boundary().to_owned() }
    }

    /// Adds the configured headers, and the credential if there is one.
    pub(crate) fn add_headers(&self, authorization: Option<&HeaderValue>, headers: &mut HeaderMap) {
        if let Some(value) = authorization {
            headers.insert(header::AUTHORIZATION, value.clone());
        }
        for (name, value) in &self.settings.headers {
            headers.insert(name, value.clone());
        }
    }

    /// The upstream's own name of a model, if the configuration has one, or the upstream lists it by its other name.
    pub fn upstream_name(&self, model: &str) -> Option<Cow<'_, str>> {
        if let Some(alias) = self.alias(model) {
            return Some(Cow::Borrowed(alias));
        }
        match self.catalog.find(model)? {
            Listed::As(name) => Some(Cow::Owned(name)),
            Listed::SoNamed | Listed::No => None,
        }
    }

    /// Whether the account may have the model, even if its upstream does not list it.
    pub fn may_serve(&self, model: &str) -> bool {
        self.offers(model) != Offer::No
    }

    /// Whether the account serves the model, by the configured patterns or else by the upstream's list. While that list is not
    /// known, it is taken to have every model. A turn that names no model can use any account.
    pub(crate) fn offers(&self, model: &str) -> Offer {
        if model.is_empty() || self.alias(model).is_some() {
            return Offer::Yes;
        }
        if !self.settings.models.is_empty() {
            let is_covered = self.settings.models.iter().any(|glob| glob.covers(model));
            return if is_covered { Offer::Yes } else { Offer::No };
        }
        match self.catalog.find(model) {
            Some(Listed::No) => Offer::Unlisted,
            Some(Listed::SoNamed | Listed::As(_)) | None => Offer::Yes,
        }
    }

    fn alias(&self, model: &str) -> Option<&str> {
        let aliases = &self.settings.aliases;
        if aliases.is_empty() {
            return None;
        }
        let other = || aliases.get(&*other_name(model)?);
        aliases.get(model).or_else(other).map(String::as_str)
    }

    /// The models to list: those of the upstream that match the patterns, and those that the configuration names literally.
    pub fn models(&self) -> Vec<Model> {
        let mut models = self.catalog.models();
        models.retain(|model| self.offers(&model.id) == Offer::Yes);
        let named = self.settings.models.iter().filter_map(ModelPattern::literal);
        let named = named.chain(self.settings.aliases.keys().map(String::as_str));
        models.extend(named.map(|id| Model::configured(id, &self.name)));
        models
    }

    /// The metrics that every served turn touches, resolved once.
    pub fn metrics(&self, metrics: &UpstreamMetrics) -> &AccountMetrics {
        self.metrics.get_or_init(|| metrics.for_account(&self.name))
    }

    /// What its upstream said when it last refused the credential, without secrets.
    pub fn refusal(&self) -> Option<String> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn remember_refusal(&self, words: String) {
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(words);
    }

    /// Whether its upstream stores responses.
    pub fn is_native(&self) -> bool {
        self.settings.state == UpstreamState::Native
    }

    /// Whether its upstream runs background turns itself.
    pub fn runs_background(&self) -> bool {
        self.settings.background == UpstreamBackground::Native
    }

    /// The address of a response at its upstream, with a path below it and parameters. `None` for an id that no address can hold.
    pub(crate) fn response_uri(&self, id: &str, below: &str, parameters: &[(&str, String)]) -> Option<Uri> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
        if id.is_empty() || !id.bytes().all(is_plain) {
            return None;
        }
        let base = self.settings.base_url.as_str().trim_end_matches('/');
        let path = Operation::Create.path();
        let mut query = self.settings.query.clone();
        query.extend(parameters.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        format!("{base}{path}/{id}{below}{}", query_string(&query)).parse().ok()
    }

    /// Whether turns go over WebSockets now.
    pub fn uses_sockets(&self, now: Timestamp) -> bool {
        match self.settings.transport {
            UpstreamTransport::Http => false,
            UpstreamTransport::WebSocket => true,
            UpstreamTransport::Auto => {
                let refused = *self.sockets_refused_until.lock().unwrap_or_else(PoisonError::into_inner);
                refused.is_none_or(|until| until <= now)
            }
        }
    }

    /// The upstream has refused a socket: turns use HTTP for [`SOCKET_RETRY_DELAY`].
    pub fn remember_sockets_refused(&self, now: Timestamp) {
        let until = now.plus(SOCKET_RETRY_DELAY);
        *self.sockets_refused_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }

    pub fn refuses_encrypted_reasoning(&self, model: &str) -> bool {
        self.models_refusing_encrypted_reasoning.get(model).is_some()
    }

    pub fn remember_encrypted_reasoning_refused(&self, model: &str) {
        self.models_refusing_encrypted_reasoning.set(model, ());
    }

    pub fn refuses_images(&self, model: &str) -> bool {
        self.models_refusing_images.get(model).is_some()
    }

    pub fn remember_images_refused(&self, model: &str) {
        self.models_refusing_images.set(model, ());
    }

    /// The form in which the upstream takes chats of a model.
    pub fn chat_form(&self, model: &str) -> ChatForm {
        self.chat_forms.get(model).unwrap_or_default()
    }

    pub fn remember_chat_form(&self, model: &str, form: ChatForm) {
        self.chat_forms.set(model, form);
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

    /// The value of `authorization` now, if there is one.
    pub(crate) fn current(&self) -> Option<HeaderValue> {
        match self {
            Self::None => None,
            Self::Key(key) => Some(key.clone()),
            Self::OAuth(oauth) => oauth.current_bearer(),
        }
    }
}

// === impl KnownModels ===

impl<T: Copy> KnownModels<T> {
    fn get(&self, model: &str) -> Option<T> {
        self.lock().get(model).copied()
    }

    fn set(&self, model: &str, known: T) {
        let mut models = self.lock();
        if models.len() >= MAX_KNOWN_MODELS {
            // Clients may make up any number of names.
            models.clear();
        }
        models.insert(model.to_owned(), known);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn identity_hash(settings: &AccountSettings) -> String {
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

/// Beside the `/v1` of the other addresses.
fn version_uri(settings: &AccountSettings) -> Result<Uri, AccountError> {
    let base = settings.base_url.as_str().trim_end_matches('/');
    let address = format!("{}/api/version", base.strip_suffix("/v1").unwrap_or(base));
    address.parse().map_err(|_| AccountError::Url(settings.name.clone()))
}

/// The parameters with their question mark, or nothing.
fn query_string(parameters: &BTreeMap<String, String>) -> String {
    if parameters.is_empty() {
        return String::new();
    }
    format!("?{}", url::form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_for_models_is_bounded() {
        let models = KnownModels::default();
        for n in 0..5 * MAX_KNOWN_MODELS {
            models.set(&n.to_string(), n);
            assert_eq!(models.get(&n.to_string()), Some(n));
        }
        assert!(models.lock().len() <= MAX_KNOWN_MODELS);
    }
}
