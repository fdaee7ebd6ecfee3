//! `oauth` of an account: the authorization server and the first refresh token.

use std::collections::BTreeMap;
use std::path::Path;

use antiphon_upstream::route::Route;
use antiphon_upstream::settings::OAuthSettings;
use serde::{Deserialize, Serialize, Serializer};
use url::Url;

use super::credential::{ApiKey, ApiKeyDraft};
use super::environment::Environment;
use super::error::Problems;
use super::headers::{AccountHeaders, HeaderDraft};

/// A credential that an authorization server issues (OAuth 2.0, RFC 6749 section 6).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OAuthConfig {
    /// The token endpoint of the authorization server.
    #[serde(serialize_with = "serialize_token_url")]
    pub token_url: Url,

    /// The client's id at the authorization server.
    pub client_id: String,

    /// The client's secret, if it has one; sent in the request's body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<ApiKey>,

    /// The first refresh token. Later ones are kept in the store; a changed value here replaces them.
    pub refresh_token: ApiKey,

    /// The requested scope. Default: the scope of the refresh token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,

    /// Headers that are added to requests to the authorization server.
    #[serde(skip_serializing_if = "AccountHeaders::is_empty")]
    pub headers: AccountHeaders,

    /// The way to the authorization server.
    #[serde(skip)]
    pub route: Route,
}

impl OAuthConfig {
    pub(super) fn knows_secrets(&self) -> bool {
        self.refresh_token.is_known()
            && self.client_secret.as_ref().is_none_or(ApiKey::is_known)
            && self.headers.knows_secrets()
    }

    pub(super) fn settings(&self) -> OAuthSettings {
        OAuthSettings {
            token_url: self.token_url.clone(),
            client_id: self.client_id.clone(),
            client_secret: self.client_secret.as_ref().map(|secret| secret.secret().clone().into()),
            refresh_token: self.refresh_token.secret().clone().into(),
            scope: self.scope.clone(),
            headers: self.headers.to_map(),
            route: self.route.clone(),
        }
    }
}

/// Without its query, which may hold a secret.
fn serialize_token_url<S: Serializer>(url: &Url, serializer: S) -> Result<S::Ok, S::Error> {
    match url.as_str().split_once('?') {
        Some((before, _)) => serializer.collect_str(&format_args!("{before}?<redacted>")),
        None => serializer.serialize_str(url.as_str()),
    }
}

/// The credential as it is written.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields, expecting = "a table with token_url, client_id and refresh_token")]
pub(super) struct OAuthDraft {
    token_url: String,
    client_id: String,
    client_secret: Option<ApiKeyDraft>,
    refresh_token: Option<ApiKeyDraft>,
    scope: Option<String>,
    headers: BTreeMap<String, HeaderDraft>,
}

impl OAuthDraft {
    /// Checks it and reads its secrets. `key` is its path in the configuration.
    pub(super) fn resolve(
        self,
        key: &str,
        cwd: &Path,
        environment: &Environment,
        problems: &mut Problems,
    ) -> Option<OAuthConfig> {
        let token_url =
            Url::parse(&self.token_url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let token_url = token_url.filter(|url| url.username().is_empty() && url.password().is_none());
        if token_url.is_none() {
            let rule = r#"must be an http or https URL without user and password, such as "https://auth.example/token""#;
            problems.reject(format!("{key}.token_url"), rule);
        }
        if self.client_id.trim().is_empty() {
            problems.reject(format!("{key}.client_id"), "must be set");
        }
        let mut secret = |field: &str, draft: Option<ApiKeyDraft>| {
            problems.accept(format!("{key}.{field}"), draft?.resolve(cwd, environment))
        };
        let is_missing = self.refresh_token.is_none();
        let client_secret = secret("client_secret", self.client_secret);
        let refresh_token = secret("refresh_token", self.refresh_token);
        if is_missing {
            problems.reject(
                format!("{key}.refresh_token"),
                r#"must be set to one of { env = "NAME" }, { file = "path" } or { value = "secret" }"#,
            );
        }
        let headers =
            AccountHeaders::resolve(self.headers, &format!("{key}.headers"), cwd, environment, problems);
        Some(OAuthConfig {
            token_url: token_url?,
            client_id: self.client_id,
            client_secret,
            refresh_token: refresh_token?,
            scope: self.scope,
            headers,
            route: Route::default(),
        })
    }
}
