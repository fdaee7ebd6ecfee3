//! Signing in to the dashboard with an identity provider.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use antiphon_access::sessions::{Session, SessionSecret};
use antiphon_access::sign_ins::SignIn;
use antiphon_errors::STORE_UNAVAILABLE_TEXT;
use antiphon_runtime::whole_seconds;
use antiphon_store::StoreError;
use secrecy::SecretString;
use url::Url;

use super::Operations;
use crate::oidc::{Provider, ProviderError};

/// What the provider has sent the browser back with.
#[derive(Debug)]
pub struct ProviderReply {
    pub state: String,
    /// The issuer, if the provider names it.
    pub issuer: Option<String>,
    /// A code, or why there is none.
    pub code: Result<String, String>,
}

/// Why nobody is signed in. The text is what the operator reads.
#[derive(Debug, thiserror::Error)]
pub enum SignInError {
    #[error("There is no identity provider.")]
    NotConfigured,
    #[error("This is not a valid admin token. Check that you copied all of it.")]
    InvalidToken,
    #[error("Too many sign-ins {of}. Please try again in {} s.", whole_seconds(*.wait))]
    TooMany { of: &'static str, wait: Duration },
    #[error("This sign-in has expired, or another browser has begun it. Please sign in again.")]
    Ended,
    #[error("The header {name} of the proxy is not valid: {why}. Ask whoever manages the proxy.")]
    InvalidHeader { name: String, why: &'static str },
    #[error(
        "The host {0:?} is not allowed. Ask whoever manages the configuration to add the proxy's host to allowed_hosts."
    )]
    HostNotAllowed(String),
    #[error("{0} has no role in this gateway. Ask whoever manages its configuration.")]
    NoRole(String),
    #[error("{}", text(.0))]
    Provider(#[from] ProviderError),
    #[error("{}", STORE_UNAVAILABLE_TEXT)]
    Store(#[from] StoreError),
}

fn text(error: &ProviderError) -> String {
    match error {
        ProviderError::Unavailable(_) => {
            "The identity provider cannot be used right now. Try again later, or sign in with a token."
                .to_owned()
        }
        ProviderError::Refused(_) => {
            "The identity provider has refused this sign-in. Please sign in again.".to_owned()
        }
        ProviderError::InvalidToken(_) => {
            "The reply of the identity provider is not valid. Please sign in again.".to_owned()
        }
        ProviderError::NoRole(name) => SignInError::NoRole(name.clone()).to_string(),
    }
}

// === impl SignInError ===

impl SignInError {
    pub(super) fn too_many_from_address(wait: Duration) -> Self {
        Self::TooMany { of: "from this address", wait }
    }
}

// === impl Operations ===

impl Operations {
    /// Begins a sign-in: where to send the browser, and the secret that it has to bring back.
    pub async fn begin_sign_in(
        &self,
        next: Option<String>,
        address: Option<IpAddr>,
    ) -> Result<(Url, SecretString), SignInError> {
        let provider = self.provider()?;
        let begun = provider.begin(next).await;
        let (url, sign_in) = begun.inspect_err(|error| tracing::warn!(%error, "sign-in failed"))?;
        let address = address.unwrap_or(Ipv6Addr::UNSPECIFIED.into());
        provider.begun.count(address, self.clock.now()).map_err(SignInError::too_many_from_address)?;
        Ok((url, sign_in.begin(&*self.store, &*self.clock).await?))
    }

    /// Ends the sign-in of the browser with this secret, and opens a session. Returns the page to show as well.
    pub async fn finish_sign_in(
        &self,
        secret: &str,
        reply: ProviderReply,
        address: Option<IpAddr>,
    ) -> Result<(SessionSecret, Option<String>), SignInError> {
        let provider = self.provider()?;
        let is_other = reply.issuer.is_some_and(|issuer| !provider.is_issuer(&issuer));
        let ended = match is_other {
            true => None,
            false => SignIn::end(&*self.store, &*self.clock, secret, &reply.state).await?,
        };
        let mut sign_in = ended.ok_or(SignInError::Ended)?;
        let next = sign_in.next.take();
        let proven = match reply.code {
            Ok(code) => provider.finish(code, sign_in).await,
            Err(reason) => Err(ProviderError::Refused(reason)),
        };
        let (role, identity) = proven.inspect_err(|error| tracing::warn!(%error, "sign-in failed"))?;
        let opened = Session::open(&*self.store, &*self.clock, (role, &identity), address).await;
        let (session, secret) = opened?;
        tracing::info!(session.id = %session.id, operator = identity.name, "operator signed in");
        Ok((secret, next))
    }

    fn provider(&self) -> Result<&Provider, SignInError> {
        self.provider.as_deref().ok_or(SignInError::NotConfigured)
    }
}
