//! Credentials that change: access tokens from an authorization server, refreshed before they expire.
//!
//! A refresh happens once for all turns that wait, and once for all replicas, under a lock in the store: servers that
//! rotate refresh tokens take one that is used twice for stolen. It runs as a task of its own, so that a client which
//! leaves does not break it off between the server's answer and the store. What was issued is kept encrypted.

mod refresh;
pub mod seal;
mod token;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use antiphon_store::{Clock, Store, Timestamp};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use http::HeaderValue;
use rand::RngExt;
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;
use uuid::Uuid;

use self::refresh::Refresh;
use self::seal::{Sealer, hex};
use self::token::Tokens;
use crate::config::OAuthConfig;
use crate::lifecycle::Tasks;
use crate::metrics::Metrics;
use crate::upstream::client::Clients;

/// After a refresh that failed while the token is still good, how long until the next.
const RETRY: Duration = Duration::from_secs(10);

/// What refreshing needs.
pub struct Credentials {
    store: Arc<dyn Store>,
    sealer: Sealer,
    clients: Clients,
    /// How long a turn waits for a refresh; the refresh goes on.
    patience: Duration,
    clock: Arc<dyn Clock>,
    tasks: Tasks,
    metrics: Arc<Metrics>,
}

/// The tokens of one account.
pub struct OAuth {
    account: String,
    config: OAuthConfig,
    /// Tells the configured refresh token, without giving it away.
    origin: String,
    /// Who holds locks here.
    holder: Uuid,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    tokens: Option<Tokens>,
    /// An access token that the upstream has refused.
    refused: Option<String>,
    /// A refresh token that was issued and is not saved yet.
    unsaved: Option<String>,
    refreshing: Option<Refreshing>,
    retry_at: Option<Timestamp>,
}

type Refreshing = Shared<BoxFuture<'static, Result<Tokens, NoToken>>>;

/// Why there is no token now.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NoToken {
    #[error("the authorization server refuses to refresh its token: {0}")]
    Refused(String),
    #[error("its token can't be refreshed now: {0}")]
    Failed(String),
}

// === impl Credentials ===

impl Credentials {
    pub fn new(
        store: Arc<dyn Store>,
        sealer: Sealer,
        (clients, patience): (Clients, Duration),
        (clock, metrics, tasks): (Arc<dyn Clock>, Arc<Metrics>, Tasks),
    ) -> Self {
        Self { store, sealer, clients, patience, clock, tasks, metrics }
    }

    /// What goes into a request's `authorization`. Waits for a refresh only if there is no token that is still good.
    pub async fn bearer(self: &Arc<Self>, oauth: &Arc<OAuth>) -> Result<HeaderValue, NoToken> {
        let refreshing = {
            let now = self.clock.now();
            let mut state = oauth.lock();
            match state.tokens.clone().filter(|tokens| !tokens.have_expired(now)) {
                Some(tokens) if !tokens.are_due(now) => return tokens.bearer(),
                Some(tokens) => {
                    if state.retry_at.is_none_or(|at| at <= now) {
                        drop(self.refresh(oauth, &mut state));
                    }
                    return tokens.bearer();
                }
                None => self.refresh(oauth, &mut state),
            }
        };
        match tokio::time::timeout(self.patience, refreshing).await {
            Ok(refreshed) => refreshed?.bearer(),
            Err(_elapsed) => Err(NoToken::failed("the authorization server takes too long")),
        }
    }

    /// The upstream has refused a token: another one is asked for, unless that has happened since.
    pub fn refuse(&self, oauth: &OAuth, bearer: &HeaderValue) {
        let mut state = oauth.lock();
        let is_current = |tokens: &Tokens| tokens.bearer().is_ok_and(|current| current == *bearer);
        if let Some(tokens) = state.tokens.take_if(|tokens| is_current(tokens)) {
            state.refused = Some(tokens.access);
        }
    }

    /// Starts to refresh, unless that is under way.
    fn refresh(self: &Arc<Self>, oauth: &Arc<OAuth>, state: &mut State) -> Refreshing {
        if let Some(refreshing) = &state.refreshing {
            return refreshing.clone();
        }
        let (sender, receiver) = oneshot::channel();
        let gone = NoToken::failed("the gateway stops");
        let refreshing = async move { receiver.await.unwrap_or(Err(gone)) }.boxed().shared();
        state.refreshing = Some(refreshing.clone());
        let refresh = Refresh {
            credentials: Arc::clone(self),
            oauth: Arc::clone(oauth),
            refused: state.refused.clone(),
        };
        self.tasks.spawn(refresh.run(sender));
        refreshing
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

// === impl OAuth ===

impl OAuth {
    pub fn new(account: &str, config: &OAuthConfig) -> Self {
        let origin = Sha256::digest(config.refresh_token.secret().expose_secret());
        Self {
            account: account.to_owned(),
            config: config.clone(),
            origin: hex(&origin[..16]),
            holder: Uuid::from_bytes(rand::rng().random()),
            state: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for OAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OAuth").field("account", &self.account).finish_non_exhaustive()
    }
}

// === impl NoToken ===

impl NoToken {
    fn failed(why: &str) -> Self {
        Self::Failed(why.to_owned())
    }
}
