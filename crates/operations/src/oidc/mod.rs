//! Signing in with an identity provider: OpenID Connect with the authorization code flow and PKCE.
//!
//! The provider's addresses and keys are read when they are first needed, and again after an hour or when no known key has
//! signed a token. The provider's replies are bounded in time and size.

mod claims;
mod client;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use antiphon_access::admin::Role;
use antiphon_access::keys::FailedAttempts;
use antiphon_access::sessions::Identity;
use antiphon_access::sign_ins::SignIn;
use antiphon_config::OidcConfig;
use antiphon_protocol::json;
use antiphon_store::Clock;
use antiphon_upstream::transport::Upstream;
use openidconnect::core::CoreResponseType;
use openidconnect::{
    AuthenticationFlow, AuthorizationCode, ClaimsVerificationError, CsrfToken, Nonce, PkceCodeChallenge,
    PkceCodeVerifier, RequestTokenError, Scope, SignatureVerificationError, TokenResponse,
};
use tokio::sync::{Mutex, Semaphore};
use url::Url;

use self::client::{Client, IdToken, Reply, TokenEndpoint};

/// How long the provider's addresses and keys are used.
const MAX_AGE: Duration = Duration::from_hours(1);
/// How long nothing is requested from a provider that could not be used.
const RETRY_DELAY: Duration = Duration::from_secs(3);
/// How long after its keys have been read for a token nothing is read for another one.
const REREAD_DELAY: Duration = Duration::from_secs(3);
/// How many sign-ins wait for a reply of the provider at the same time.
const CONCURRENT_EXCHANGES: usize = 16;

/// The identity provider.
pub struct Provider {
    config: OidcConfig,
    upstream: Upstream,
    clock: Arc<dyn Clock>,
    discovery: Mutex<Discovery>,
    exchanges: Semaphore,
    /// Limits how many sign-ins an address begins.
    pub begun: FailedAttempts,
}

/// What is known of the provider.
#[derive(Default)]
struct Discovery {
    latest: Option<(Instant, Arc<Client>)>,
    failure: Option<(Instant, String)>,
    /// When it was read again for a token.
    reread: Option<Instant>,
}

/// Why nobody is signed in. What is not for the browser is for the log.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    #[error("the provider cannot be used: {0}")]
    Unavailable(String),
    #[error("the provider refused the sign-in: {0}")]
    Refused(String),
    #[error("the ID token is not valid: {0}")]
    InvalidToken(String),
    /// The provider knows who it is.
    #[error("{0:?} has no role")]
    NoRole(String),
}

// === impl Provider ===

impl Provider {
    pub fn new(config: OidcConfig, upstream: Upstream, clock: Arc<dyn Clock>) -> Self {
        Self {
            config,
            upstream,
            clock,
            discovery: Mutex::default(),
            exchanges: Semaphore::new(CONCURRENT_EXCHANGES),
            begun: FailedAttempts::default(),
        }
    }

    /// Its name for people: the host that they know from its pages.
    pub fn name(&self) -> &str {
        let host = self.config.issuer.split_once("://").map_or("", |(_, rest)| rest);
        host.split('/').next().unwrap_or_default()
    }

    /// Whether an issuer that a reply names is this provider.
    pub fn is_issuer(&self, issuer: &str) -> bool {
        self.config.issuer == issuer
    }

    /// Where to send the browser, and what to remember until it comes back.
    pub async fn begin(&self, next: Option<String>) -> Result<(Url, SignIn), ProviderError> {
        let client = self.client(None).await?;
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let flow = AuthenticationFlow::<CoreResponseType>::AuthorizationCode;
        let request = client.authorize_url(flow, CsrfToken::new_random, Nonce::new_random);
        let scopes = self.config.scopes.iter().filter(|scope| *scope != "openid");
        let request = request.add_scopes(scopes.cloned().map(Scope::new)).set_pkce_challenge(challenge);
        let (url, state, nonce) = request.url();
        let sign_in = SignIn {
            state: state.into_secret(),
            nonce: nonce.secret().clone(),
            verifier: verifier.into_secret(),
            next,
        };
        Ok((url, sign_in))
    }

    /// Exchanges the code for an ID token, and verifies it.
    pub async fn finish(&self, code: String, sign_in: SignIn) -> Result<(Role, Identity), ProviderError> {
        let closed = |_| ProviderError::Unavailable("the gateway is shutting down".to_owned());
        let _permit = self.exchanges.acquire().await.map_err(closed)?;
        let client = self.client(None).await?;
        let reply = self.exchange(&client, code, sign_in.verifier).await?;
        let missing = || ProviderError::InvalidToken("the reply contains none".to_owned());
        let token = reply.id_token().ok_or_else(missing)?;
        let nonce = Nonce::new(sign_in.nonce);
        let verified = match self.verify(&client, token, &nonce) {
            // A new key may have the id of the one before, or none.
            Err(ClaimsVerificationError::SignatureVerification(
                SignatureVerificationError::NoMatchingKey | SignatureVerificationError::CryptoError(_),
            )) => self.verify(&*self.client(Some(&client)).await?, token, &nonce),
            verified => verified,
        };
        let claims = verified.map_err(|error| ProviderError::InvalidToken(chain_text(&error)))?;
        let identity = claims::identity(&claims);
        match claims::role(&claims, &self.config) {
            Some(role) => Ok((role, identity)),
            None => Err(ProviderError::NoRole(identity.name)),
        }
    }

    async fn exchange(
        &self,
        client: &Client,
        code: String,
        verifier: String,
    ) -> Result<Reply, ProviderError> {
        let unavailable = |error: &dyn std::error::Error| ProviderError::Unavailable(chain_text(error));
        let request =
            client.exchange_code(AuthorizationCode::new(code)).map_err(|error| unavailable(&error))?;
        let request = request.set_pkce_verifier(PkceCodeVerifier::new(verifier));
        request.request_async(&TokenEndpoint(self)).await.map_err(|error| match error {
            RequestTokenError::ServerResponse(reply) => ProviderError::Refused(shortened(&reply.to_string())),
            // Such as claims of other types than OpenID Connect gives them. Another try would yield the same.
            RequestTokenError::Parse(error, reply) if json::member(&reply, "id_token").is_some() => {
                ProviderError::InvalidToken(chain_text(&error))
            }
            error => unavailable(&error),
        })
    }

    /// All claims of a token that is valid.
    fn verify(
        &self,
        client: &Client,
        token: &IdToken,
        nonce: &Nonce,
    ) -> Result<claims::Claims, ClaimsVerificationError> {
        let now = self.clock.now();
        let claims = token.claims(&client::verifier(client, now), nonce)?;
        let is_foreign = claims.authorized_party().is_none_or(|party| **party != self.config.client_id);
        if claims.audiences().len() > 1 && is_foreign {
            let why = "it has several, and was issued to another client".to_owned();
            return Err(ClaimsVerificationError::InvalidAudience(why));
        }
        claims::all(claims).ok_or_else(|| ClaimsVerificationError::Other("it has no claims".to_owned()))
    }

    /// What is known of the provider, if it is not older than an hour, and not `outdated`, unless it has just been read again.
    async fn client(&self, outdated: Option<&Arc<Client>>) -> Result<Arc<Client>, ProviderError> {
        let mut discovery = self.discovery.lock().await;
        let was_reread = discovery.reread.is_some_and(|at| at.elapsed() < REREAD_DELAY);
        if let Some((at, client)) = &discovery.latest
            && at.elapsed() < MAX_AGE
            && (was_reread || outdated.is_none_or(|outdated| !Arc::ptr_eq(outdated, client)))
        {
            return Ok(Arc::clone(client));
        }
        if let Some((at, why)) = &discovery.failure
            && at.elapsed() < RETRY_DELAY
        {
            return Err(ProviderError::Unavailable(why.clone()));
        }
        match self.discover().await {
            Ok(client) => {
                let client = Arc::new(client);
                let now = Instant::now();
                let latest = Some((now, Arc::clone(&client)));
                *discovery = Discovery { latest, failure: None, reread: outdated.map(|_| now) };
                Ok(client)
            }
            Err(why) => {
                discovery.failure = Some((Instant::now(), why.clone()));
                Err(ProviderError::Unavailable(why))
            }
        }
    }
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provider").field("issuer", &self.config.issuer).finish_non_exhaustive()
    }
}

/// An error with its causes.
fn chain_text(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    let text = causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"));
    shortened(&text)
}

/// What others have written is not logged at any length.
fn shortened(text: &str) -> String {
    text.chars().take(300).collect()
}
