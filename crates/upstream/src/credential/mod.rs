//! Credentials that change: access tokens from an authorization server, refreshed before they expire.
//!
//! A refresh happens once for all turns that wait, and once for all replicas, under a lock in the store: servers that
//! rotate refresh tokens treat one that is used twice as stolen. A refresh is a task of its own, so that a client which
//! disconnects can't interrupt it between the server's reply and the store. Tokens are stored encrypted.

mod refresh;
pub(crate) mod seal;
mod token;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use antiphon_store::{Store, Timestamp};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use http::HeaderValue;
use rand::RngExt;
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;
use uuid::Uuid;

use self::refresh::Refresh;
use self::seal::Sealer;
use self::token::Tokens;
use crate::client::Clients;
use crate::metrics::UpstreamMetrics;
use crate::settings::OAuthSettings;
use antiphon_runtime::{Env, hex};

/// The time until the next refresh after one that failed while the token is still valid.
const RETRY_DELAY: Duration = Duration::from_secs(10);

/// Refreshes the tokens of accounts.
pub(crate) struct Credentials {
    store: Arc<dyn Store>,
    sealer: Sealer,
    clients: Clients,
    /// How long a turn waits for a refresh. The refresh continues after that.
    patience: Duration,
    env: Env,
    metrics: UpstreamMetrics,
}

/// The tokens of one account.
pub struct OAuth {
    account: String,
    settings: OAuthSettings,
    /// A hash of the configured refresh token. Stored tokens belong to the configured token with the same hash.
    fingerprint: String,
    /// Identifies this process as the holder of locks.
    lock_holder: Uuid,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    tokens: Option<Tokens>,
    /// An access token that the upstream has refused.
    refused_access_token: Option<String>,
    /// A refresh token that was issued and is not in the store yet.
    unsaved_refresh_token: Option<String>,
    refreshing: Option<RefreshFuture>,
    retry_at: Option<Timestamp>,
}

type RefreshFuture = Shared<BoxFuture<'static, Result<Tokens, NoToken>>>;

/// Why there is no access token.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NoToken {
    #[error("the authorization server refused to refresh the access token: {0}")]
    Refused(String),
    #[error("the access token could not be refreshed: {0}")]
    Failed(String),
}

// === impl Credentials ===

impl Credentials {
    pub fn new(
        store: Arc<dyn Store>,
        sealer: Sealer,
        clients: Clients,
        patience: Duration,
        env: Env,
        metrics: UpstreamMetrics,
    ) -> Self {
        Self { store, sealer, clients, patience, env, metrics }
    }

    /// The value of `authorization` for a request. Waits for a refresh only if there is no valid token.
    ///
    /// # Errors
    ///
    /// [`NoToken`] if the refresh fails, or takes too long.
    pub(crate) async fn bearer(self: &Arc<Self>, oauth: &Arc<OAuth>) -> Result<HeaderValue, NoToken> {
        let refreshing = {
            let now = self.env.clock.now();
            let mut state = oauth.lock();
            match state.tokens.clone().filter(|tokens| !tokens.are_expired(now)) {
                Some(tokens) if !tokens.need_refresh(now) => return tokens.bearer(),
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
            Err(_elapsed) => Err(NoToken::failed("the authorization server did not reply in time")),
        }
    }

    /// The upstream has refused this token: the next turn refreshes it, unless it has been replaced already.
    pub(crate) fn invalidate(&self, oauth: &OAuth, bearer: &HeaderValue) {
        let mut state = oauth.lock();
        let is_current = |tokens: &Tokens| tokens.bearer().is_ok_and(|current| current == *bearer);
        if let Some(tokens) = state.tokens.take_if(|tokens| is_current(tokens)) {
            state.refused_access_token = Some(tokens.access);
        }
    }

    /// Starts a refresh, unless one is running.
    fn refresh(self: &Arc<Self>, oauth: &Arc<OAuth>, state: &mut State) -> RefreshFuture {
        if let Some(refreshing) = &state.refreshing {
            return refreshing.clone();
        }
        let (sender, receiver) = oneshot::channel();
        let shutting_down = NoToken::failed("the gateway is shutting down");
        let refreshing = async move { receiver.await.unwrap_or(Err(shutting_down)) }.boxed().shared();
        state.refreshing = Some(refreshing.clone());
        let refresh = Refresh {
            credentials: Arc::clone(self),
            oauth: Arc::clone(oauth),
            refused: state.refused_access_token.clone(),
        };
        self.env.tasks.spawn(refresh.run(sender));
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
    pub(crate) fn new(account: &str, settings: &OAuthSettings) -> Self {
        let fingerprint = Sha256::digest(settings.refresh_token.expose());
        Self {
            account: account.to_owned(),
            settings: settings.clone(),
            fingerprint: hex::encode(&fingerprint[..16]),
            lock_holder: Uuid::from_bytes(rand::rng().random()),
            state: Mutex::default(),
        }
    }

    /// The access token that turns have now, valid or not.
    pub(crate) fn current_bearer(&self) -> Option<HeaderValue> {
        self.lock().tokens.as_ref()?.bearer().ok()
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
