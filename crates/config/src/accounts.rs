//! `[[accounts]]`: the credentials that turns are spread over, and the upstream each belongs to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use antiphon_protocol::model::ModelPattern;
use antiphon_protocol::replay::ReplayIds;
use antiphon_upstream::route::Route;
use antiphon_upstream::settings::{
    AccountSettings, CredentialSettings, UpstreamBackground, UpstreamState, UpstreamTransport,
};
use figment::value::{Dict, Value};
use serde::{Deserialize, Serialize, Serializer};
use url::Url;

use super::base_url;
use super::chat::{self, Api, ChatConfig};
use super::credential::{ApiKey, ApiKeyDraft, Unread};
use super::environment::Environment;
use super::error::Problems;
use super::headers::{AccountHeaders, HeaderDraft, is_secret_name};
use super::oauth::{OAuthConfig, OAuthDraft};
use super::proxy::ProxyConfig;
use super::route::Reach;
use super::values::{Word, count, count_or_zero, word};

const OPENAI_URL: &str = "https://api.openai.com/v1";
const NAME_RULE: &str = "must be 1 to 64 characters of A-Z a-z 0-9 _ . -, and neither . nor ..";

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AccountConfig {
    /// The account's name in logs, metrics and the store. Unique.
    pub name: String,

    /// The upstream's API: the URL before `/responses`, without a slash at the end.
    #[serde(serialize_with = "serialize_url")]
    pub base_url: Url,

    /// The credential; unset for an upstream that needs none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key: Option<ApiKey>,

    /// How it gets access tokens, instead of `api_key`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oauth: Option<OAuthConfig>,

    /// The models it serves. Default: those that its `/models` lists.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<ModelPattern>,

    /// Accounts with the same boundary can read each other's encrypted items. Default: the account's name.
    pub boundary: String,

    /// The upstream's names of models, by the names that clients use.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub aliases: BTreeMap<String, String>,

    /// Headers that are added to each of its requests, after all others.
    #[serde(skip_serializing_if = "AccountHeaders::is_empty")]
    pub headers: AccountHeaders,

    /// Query parameters that are added to the URL of each of its requests.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", serialize_with = "serialize_query")]
    pub query: BTreeMap<String, String>,

    /// The HTTP proxy to its upstream. Default: what `HTTPS_PROXY` or `HTTP_PROXY` say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProxyConfig>,

    /// A file of certificate authorities that it trusts beside those of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,

    /// The way to its upstream.
    #[serde(skip)]
    pub route: Route,

    /// The API that its upstream speaks. Default: responses for OpenAI and Azure, and auto for others.
    #[serde(serialize_with = "word::serialize")]
    pub api: Api,

    /// What its chat completions are like.
    #[serde(skip_serializing_if = "ChatConfig::is_default")]
    pub chat: ChatConfig,

    /// How turns are sent to its upstream. Default: http.
    #[serde(serialize_with = "word::serialize")]
    pub transport: UpstreamTransport,

    /// Whether its upstream only streams; Antiphon then collects the stream for whole replies. Default: false.
    pub stream_only: bool,

    /// Whether its upstream stores responses, so that chains continue there by its own ids. Default: replay.
    #[serde(serialize_with = "word::serialize")]
    pub state: UpstreamState,

    /// Whether its upstream runs background turns itself. Default: gateway.
    #[serde(serialize_with = "word::serialize")]
    pub background: UpstreamBackground,

    /// Whether replayed output items are sent with their ids. Default: drop.
    #[serde(serialize_with = "word::serialize")]
    pub replay_ids: ReplayIds,

    /// Accounts with a higher priority are used first while one of them is ready. Default: 0.
    pub priority: u32,

    /// Its share of turns among the accounts of the same priority. Default: 1.
    pub weight: u32,

    /// The maximum number of concurrent turns. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_in_flight: Option<u32>,
}

impl Word for UpstreamState {
    const WORDS: &[(&str, Self)] = &[("replay", Self::Replay), ("native", Self::Native)];
}

impl Word for UpstreamBackground {
    const WORDS: &[(&str, Self)] = &[("gateway", Self::Gateway), ("native", Self::Native)];
}

impl Word for UpstreamTransport {
    const WORDS: &[(&str, Self)] =
        &[("http", Self::Http), ("websocket", Self::WebSocket), ("auto", Self::Auto)];
}

impl Word for ReplayIds {
    const WORDS: &[(&str, Self)] = &[("drop", Self::Drop), ("keep", Self::Keep)];
}

/// An account as it is written. No field is required here, so that missing ones are reported with all other problems.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields, expecting = "a table")]
pub(super) struct AccountDraft {
    name: String,
    base_url: String,
    api_key: Option<ApiKeyDraft>,
    oauth: Option<OAuthDraft>,
    models: Option<Vec<String>>,
    boundary: Option<String>,
    aliases: BTreeMap<String, String>,
    headers: BTreeMap<String, HeaderDraft>,
    query: BTreeMap<String, String>,
    proxy: Option<String>,
    ca_file: Option<PathBuf>,
    #[serde(deserialize_with = "word::deserialize_some")]
    api: Option<Api>,
    chat: ChatConfig,
    #[serde(deserialize_with = "word::deserialize")]
    transport: UpstreamTransport,
    stream_only: bool,
    #[serde(deserialize_with = "word::deserialize")]
    state: UpstreamState,
    #[serde(deserialize_with = "word::deserialize")]
    background: UpstreamBackground,
    #[serde(deserialize_with = "word::deserialize")]
    replay_ids: ReplayIds,
    #[serde(deserialize_with = "count_or_zero::deserialize")]
    priority: u32,
    #[serde(deserialize_with = "count::deserialize_some")]
    weight: Option<u32>,
    #[serde(deserialize_with = "count::deserialize_some")]
    max_in_flight: Option<u32>,
}

impl AccountConfig {
    /// Whether all of its secrets could be read. If not, its upstream can't be called.
    pub fn knows_secrets(&self) -> bool {
        self.api_key.as_ref().is_none_or(ApiKey::is_known)
            && self.oauth.as_ref().is_none_or(OAuthConfig::knows_secrets)
            && self.headers.knows_secrets()
    }

    pub fn settings(&self) -> AccountSettings {
        AccountSettings {
            name: self.name.clone(),
            base_url: self.base_url.clone(),
            credential: match (&self.api_key, &self.oauth) {
                _ if !self.knows_secrets() => CredentialSettings::None,
                (Some(key), _) => CredentialSettings::Key(key.secret().clone().into()),
                (None, Some(oauth)) => CredentialSettings::OAuth(Box::new(oauth.settings())),
                (None, None) => CredentialSettings::None,
            },
            models: self.models.clone(),
            boundary: self.boundary.clone(),
            aliases: self.aliases.clone(),
            headers: self.headers.to_map(),
            query: self.query.clone(),
            route: self.route.clone(),
            api: self.api.settings(&self.base_url, &self.chat),
            transport: self.transport,
            stream_only: self.stream_only,
            state: self.state,
            background: self.background,
            replay_ids: self.replay_ids,
            priority: self.priority,
            weight: self.weight,
            max_in_flight: self.max_in_flight,
            shown: serde_json::to_value(self).expect("string keys and plain values always serialise"),
        }
    }
}

/// Checks the accounts and reads their credentials.
pub(super) fn resolve(
    drafts: Vec<AccountDraft>,
    cwd: &Path,
    environment: &Environment,
    problems: &mut Problems,
) -> Vec<AccountConfig> {
    for (index, draft) in drafts.iter().enumerate() {
        let is_same = |earlier: &AccountDraft| earlier.name == draft.name && !draft.name.is_empty();
        if let Some(earlier) = drafts[..index].iter().position(is_same) {
            problems.reject(
                format!("accounts[{index}].name"),
                format!("is already the name of accounts[{earlier}]"),
            );
        }
    }
    let numbered = drafts.into_iter().enumerate();
    let resolved = numbered
        .filter_map(|(index, draft)| Some((index, draft.resolve(index, cwd, environment, problems)?)));
    let accounts: Vec<_> = resolved.collect();
    chat::check(&accounts, problems);
    accounts.into_iter().map(|(_, account)| account).collect()
}

/// The account of the variables that every OpenAI client reads, and the names of those that are set.
pub(super) fn from_openai_variables(environment: &Environment) -> Option<(String, Value)> {
    let key = environment.get("OPENAI_API_KEY").map(|_| "OPENAI_API_KEY");
    let url = environment.get("OPENAI_BASE_URL");
    let names: Vec<&str> = key.into_iter().chain(url.map(|_| "OPENAI_BASE_URL")).collect();
    let mut account =
        Dict::from([("name".into(), "openai".into()), ("base_url".into(), url.unwrap_or(OPENAI_URL).into())]);
    if let Some(name) = key {
        account.insert("api_key".into(), Dict::from([("env".into(), name.into())]).into());
    }
    let source = format!("environment variable {}", names.join(" and "));
    (!names.is_empty()).then(|| (source, Value::from(vec![Value::from(account)])))
}

impl AccountDraft {
    fn resolve(
        self,
        index: usize,
        cwd: &Path,
        environment: &Environment,
        problems: &mut Problems,
    ) -> Option<AccountConfig> {
        let key = |field: &str| format!("accounts[{index}].{field}");
        if !is_valid_name(&self.name) {
            problems.reject(key("name"), NAME_RULE);
        }
        let boundary = self.boundary.unwrap_or_else(|| self.name.clone());
        if boundary != self.name && !is_valid_name(&boundary) {
            problems.reject(key("boundary"), NAME_RULE);
        }
        let base_url =
            base_url::parse(&self.base_url).map_err(|rule| problems.reject(key("base_url"), rule)).ok();
        let api_key = self.api_key.and_then(|draft| {
            let read = draft.resolve(cwd, environment).map_err(|unread| Unread {
                rule: format!("account {:?}: {}", self.name, unread.rule),
                ..unread
            });
            problems.accept(key("api_key"), read)
        });
        if api_key.is_some() && self.oauth.is_some() {
            problems.reject(key("oauth"), "cannot be combined with api_key: an account has one credential");
        }
        let reach = Reach::resolve(self.proxy, self.ca_file, format!("accounts[{index}]"), cwd, problems);
        let oauth = self.oauth.and_then(|draft| draft.resolve(&key("oauth"), cwd, environment, problems));
        let oauth = oauth.map(|oauth| {
            let route = reach.route(&oauth.token_url, environment, problems);
            OAuthConfig { route, ..oauth }
        });
        let models = parse_models(self.models, &key("models"), problems);
        let headers = AccountHeaders::resolve(self.headers, &key("headers"), cwd, environment, problems);
        for (alias, model) in &self.aliases {
            if alias.trim().is_empty() || model.trim().is_empty() {
                problems.reject(key("aliases"), "must map a model name to a model name");
            }
        }
        let base_url = base_url?;
        let route = reach.route(&base_url, environment, problems);
        let has_responses = chat::has_responses(&base_url, self.transport, self.state, self.background);
        Some(AccountConfig {
            name: self.name,
            base_url,
            api_key,
            oauth,
            models,
            boundary,
            aliases: self.aliases,
            headers,
            query: self.query,
            proxy: reach.proxy,
            ca_file: reach.ca_file,
            route,
            api: self.api.unwrap_or(if has_responses { Api::Responses } else { Api::Auto }),
            chat: self.chat,
            transport: self.transport,
            stream_only: self.stream_only,
            state: self.state,
            background: self.background,
            replay_ids: self.replay_ids,
            priority: self.priority,
            weight: self.weight.unwrap_or(1),
            max_in_flight: self.max_in_flight,
        })
    }
}

fn is_valid_name(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    // No URL can name the other two.
    (1..=64).contains(&text.len()) && text.bytes().all(is_allowed) && ![".", ".."].contains(&text)
}

fn parse_models(patterns: Option<Vec<String>>, key: &str, problems: &mut Problems) -> Vec<ModelPattern> {
    if patterns.as_ref().is_some_and(Vec::is_empty) {
        problems.reject(key, "must not be empty; leave it out to offer all models");
    }
    let mut models = Vec::new();
    for (index, pattern) in patterns.unwrap_or_default().into_iter().enumerate() {
        match ModelPattern::parse(&pattern) {
            Some(glob) => models.push(glob),
            None => problems.reject(
                format!("{key}[{index}]"),
                r#"must be a model name or a pattern with * (any characters) and ? (one character), such as "gpt-*""#,
            ),
        }
    }
    models
}

/// Some upstreams take their key as a parameter.
fn serialize_query<S: Serializer>(
    query: &BTreeMap<String, String>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let shown = |(name, value)| (name, if is_secret_name(name) { "<redacted>" } else { value });
    serializer.collect_map(query.iter().map(|(name, value)| shown((name.as_str(), value.as_str()))))
}

pub(super) fn serialize_url<S: Serializer>(url: &Url, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(url.as_str())
}
