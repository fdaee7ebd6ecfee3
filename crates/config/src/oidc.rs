//! `[oidc]`: an identity provider with which operators sign in to the dashboard (OpenID Connect).

use std::path::{Path, PathBuf};

use antiphon_upstream::route::Route;
use serde::{Deserialize, Serialize};
use url::Url;

use super::accounts::serialize_url;
use super::credential::{ApiKey, ApiKeyDraft};
use super::environment::Environment;
use super::error::Problems;
use super::proxy::{ProxyConfig, is_loopback};
use super::route::Reach;

const SECRET_RULE: &str =
    r#"must be set to one of { env = "NAME" }, { file = "path" } or { value = "secret" }"#;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OidcConfig {
    /// The provider's issuer identifier, to the letter.
    pub issuer: String,

    /// The id of this gateway at the provider.
    pub client_id: String,

    pub client_secret: ApiKey,

    /// Where browsers reach the dashboard.
    #[serde(serialize_with = "serialize_url")]
    pub public_url: Url,

    /// What the provider is asked for beside `openid`. Default: email and profile.
    pub scopes: Vec<String>,

    /// The claim of the ID token that decides on the role. Default: groups.
    pub role_claim: String,

    /// Values of the claim that make an admin.
    pub admin_values: Vec<String>,

    /// Values of the claim that make a viewer.
    pub viewer_values: Vec<String>,

    /// An HTTP proxy, or "direct". Default: the one that variables name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProxyConfig>,

    /// A PEM file with authorities to trust besides those of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,

    /// The way to the provider.
    #[serde(skip)]
    pub route: Route,
}

/// The section as it is written.
#[derive(Deserialize)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "a table with issuer, client_id, client_secret and public_url"
)]
pub(super) struct OidcDraft {
    issuer: String,
    client_id: String,
    client_secret: Option<ApiKeyDraft>,
    public_url: String,
    scopes: Vec<String>,
    role_claim: String,
    admin_values: Vec<String>,
    viewer_values: Vec<String>,
    proxy: Option<String>,
    ca_file: Option<PathBuf>,
}

impl Default for OidcDraft {
    fn default() -> Self {
        Self {
            issuer: String::new(),
            client_id: String::new(),
            client_secret: None,
            public_url: String::new(),
            scopes: ["email", "profile"].map(str::to_owned).into(),
            role_claim: "groups".to_owned(),
            admin_values: Vec::new(),
            viewer_values: Vec::new(),
            proxy: None,
            ca_file: None,
        }
    }
}

impl OidcDraft {
    /// Checks it and reads its secret.
    pub(super) fn resolve(
        self,
        cwd: &Path,
        environment: &Environment,
        problems: &mut Problems,
    ) -> Option<OidcConfig> {
        let issuer = secure_url(&self.issuer).filter(|url| url.query().is_none() && url.fragment().is_none());
        if issuer.is_none() {
            problems.reject(
                "oidc.issuer",
                r#"must be an https URL such as "https://id.example"; http is for this machine only"#,
            );
        }
        if self.client_id.trim().is_empty() {
            problems.reject("oidc.client_id", "must be set");
        }
        let is_origin = |url: &Url| url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        let public_url = secure_url(&self.public_url).filter(is_origin);
        if public_url.is_none() {
            problems.reject(
                "oidc.public_url",
                r#"must be an https URL without a path such as "https://gateway.example"; http is for this machine only"#,
            );
        }
        self.check_roles(problems);
        let client_secret = match self.client_secret.map(|draft| draft.resolve(cwd, environment)) {
            Some(read) => problems.accept("oidc.client_secret".to_owned(), read),
            None => {
                problems.reject_hidden("oidc.client_secret", SECRET_RULE);
                None
            }
        };
        let reach = Reach::resolve(self.proxy, self.ca_file, "oidc".to_owned(), cwd, problems);
        let route = reach.route(&issuer?, environment, problems);
        Some(OidcConfig {
            issuer: self.issuer,
            client_id: self.client_id,
            client_secret: client_secret?,
            public_url: public_url?,
            scopes: self.scopes,
            role_claim: self.role_claim,
            admin_values: self.admin_values,
            viewer_values: self.viewer_values,
            proxy: reach.proxy,
            ca_file: reach.ca_file,
            route,
        })
    }

    fn check_roles(&self, problems: &mut Problems) {
        let is_word = |text: &String| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        if !self.scopes.iter().all(is_word) {
            problems.reject("oidc.scopes", "must be a list of words without spaces");
        }
        if self.role_claim.trim().is_empty() {
            problems.reject("oidc.role_claim", "must be set");
        }
        if self.admin_values.is_empty() && self.viewer_values.is_empty() {
            problems.reject(
                "oidc.admin_values",
                "must be set, or viewer_values: nobody else may sign in with the provider",
            );
        }
        let has_blank = |values: &[String]| values.iter().any(|value| value.trim().is_empty());
        for (key, values) in
            [("oidc.admin_values", &self.admin_values), ("oidc.viewer_values", &self.viewer_values)]
        {
            if has_blank(values) {
                problems.reject(key, "must not contain empty values");
            }
        }
    }
}

/// An address over TLS, or of this machine.
fn secure_url(text: &str) -> Option<Url> {
    let has_blanks = text.contains(|c: char| c.is_control() || c.is_whitespace());
    let url = Url::parse(text).ok().filter(|_| !has_blanks)?;
    let has_login = !url.username().is_empty() || url.password().is_some();
    (is_secure(&url) && !has_login).then_some(url)
}

/// Whether nobody else reads what is sent there.
pub fn is_secure(url: &Url) -> bool {
    url.scheme() == "https" || url.scheme() == "http" && is_loopback(url)
}
