//! One refresh of one account's tokens.

use std::sync::Arc;
use std::time::Duration;

use antiphon_store::{CredentialLock, StoreError, StoredCredential};
use tokio::sync::oneshot;

use super::token::{Tokens, refresh_tokens};
use super::{Credentials, NoToken, OAuth, RETRY_DELAY};

/// Longer than an exchange may take, so that no other replica refreshes at the same time.
const LOCK_DURATION: Duration = Duration::from_secs(90);
/// How often to check whether another replica has finished.
const LOCK_POLL_INTERVAL: Duration = Duration::from_millis(100);
/// The time between attempts to save issued tokens.
const SAVE_RETRY_DELAY: Duration = Duration::from_secs(1);

pub(super) struct Refresh {
    pub(super) credentials: Arc<Credentials>,
    pub(super) oauth: Arc<OAuth>,
    /// An access token that the upstream has refused, although it has not expired.
    pub(super) refused: Option<String>,
}

// === impl Refresh ===

impl Refresh {
    /// Sends the result to the turns that wait, and continues until new tokens are saved.
    pub(super) async fn run(self, waiters: oneshot::Sender<Result<Tokens, NoToken>>) {
        let account = self.oauth.account.as_str();
        let (result, outcome, unsaved) = match self.refresh().await {
            Ok((tokens, Some(lock))) => (Ok(tokens.clone()), "refreshed", Some((tokens, lock))),
            Ok((tokens, None)) => (Ok(tokens), "shared", None),
            Err(error @ NoToken::Refused(_)) => (Err(error), "refused", None),
            Err(error @ NoToken::Failed(_)) => (Err(error), "failed", None),
        };
        self.credentials.metrics.token_refreshed(account, outcome);
        match &result {
            Ok(_) => {
                tracing::info!(account.id = account, outcome, "access token refreshed");
            }
            Err(error) => {
                tracing::error!(account.id = account, %error, "access token could not be refreshed");
            }
        }
        self.apply_result(&result);
        // The turns that waited may have ended.
        waiters.send(result).ok();
        if let Some((tokens, lock)) = unsaved {
            self.save(&tokens, lock).await;
        }
    }

    fn apply_result(&self, result: &Result<Tokens, NoToken>) {
        let mut state = self.oauth.lock();
        state.refreshing = None;
        state.retry_at = None;
        match result {
            Ok(tokens) => state.tokens = Some(tokens.clone()),
            // There will be no other token, so the account is not used for the rest of the old one's lifetime either.
            Err(NoToken::Refused(_)) => state.tokens = None,
            Err(NoToken::Failed(_)) => {
                state.retry_at = Some(self.credentials.env.clock.now().plus(RETRY_DELAY));
            }
        }
    }

    /// New tokens, with the lock under which to save them, unless they came from the store.
    async fn refresh(&self) -> Result<(Tokens, Option<CredentialLock>), NoToken> {
        let unavailable = |error: StoreError| NoToken::Failed(error.to_string());
        if let Some(tokens) = self.load_stored().await?.filter(|tokens| self.are_usable(tokens)) {
            return Ok((tokens, None));
        }
        let lock = self.acquire_lock().await.map_err(unavailable)?;
        let issued = self.refresh_locked().await;
        match issued {
            Ok((tokens, true)) => Ok((tokens, Some(lock))),
            Ok((tokens, false)) => {
                self.unlock(lock).await;
                Ok((tokens, None))
            }
            Err(error) => {
                self.unlock(lock).await;
                Err(error)
            }
        }
    }

    /// New tokens, and whether this refresh obtained them and not another replica.
    async fn refresh_locked(&self) -> Result<(Tokens, bool), NoToken> {
        let stored = self.load_stored().await?;
        if let Some(tokens) = stored.as_ref().filter(|tokens| self.are_usable(tokens)) {
            return Ok((tokens.clone(), false));
        }
        // A token that could not be saved yet is newer than the one in the store.
        let unsaved = self.oauth.lock().unsaved_refresh_token.clone();
        let known = unsaved.or(stored.map(|tokens| tokens.refresh));
        let settings = &self.oauth.settings;
        let token = known.as_deref().unwrap_or(settings.refresh_token.expose());
        self.credentials.sealer.load().map_err(|error| NoToken::Failed(error.to_string()))?;
        let tokens =
            refresh_tokens(&self.credentials.clients, settings, token, self.credentials.env.clock.now())
                .await?;
        self.oauth.lock().unsaved_refresh_token = Some(tokens.refresh.clone());
        Ok((tokens, true))
    }

    fn are_usable(&self, tokens: &Tokens) -> bool {
        !tokens.need_refresh(self.credentials.env.clock.now())
            && self.refused.as_ref() != Some(&tokens.access)
    }

    /// The stored tokens, if they descend from the refresh token in the configuration.
    async fn load_stored(&self) -> Result<Option<Tokens>, NoToken> {
        let stored = self.credentials.store.load_credential(&self.oauth.account).await;
        let stored = stored.map_err(|error| NoToken::Failed(error.to_string()))?;
        let Some(stored) = stored.filter(|stored| stored.origin == self.oauth.fingerprint) else {
            return Ok(None);
        };
        let Some(sealed) = stored.sealed else { return Ok(None) };
        let opened = self.credentials.sealer.open(&sealed, &self.associated_data());
        let opened = opened.map_err(|error| NoToken::Failed(error.to_string()))?;
        serde_json::from_slice(&opened)
            .map(Some)
            .map_err(|_| NoToken::failed("the stored tokens have an unknown format"))
    }

    /// Waits while another replica holds the lock, until that is released or expires.
    async fn acquire_lock(&self) -> Result<CredentialLock, StoreError> {
        loop {
            let lock = self.new_lock();
            if self.credentials.store.lock_credential(&self.oauth.account, lock).await? {
                return Ok(lock);
            }
            tokio::time::sleep(LOCK_POLL_INTERVAL).await;
        }
    }

    fn new_lock(&self) -> CredentialLock {
        let now = self.credentials.env.clock.now();
        CredentialLock { holder: self.oauth.lock_holder, now, until: now.plus(LOCK_DURATION) }
    }

    /// A lock that could not be released expires.
    async fn unlock(&self, lock: CredentialLock) {
        self.credentials.store.unlock_credential(&self.oauth.account, lock).await.ok();
    }

    /// Tries until it succeeds: if the server rotates refresh tokens, a lost one can't be obtained again.
    async fn save(&self, tokens: &Tokens, mut lock: CredentialLock) {
        let account = self.oauth.account.as_str();
        loop {
            let error = match self.try_save(tokens, lock).await {
                Ok(is_saved) => {
                    if !is_saved {
                        tracing::error!(
                            account.id = account,
                            "lost the lock on the credential: another replica may have refreshed the token as well"
                        );
                    }
                    self.oauth.lock().unsaved_refresh_token = None;
                    return;
                }
                Err(error) => error,
            };
            tracing::error!(account.id = account, error, "could not store the new tokens; retrying");
            tokio::time::sleep(SAVE_RETRY_DELAY).await;
            // A replica that got the lock now would use a refresh token that is no longer valid.
            lock = self.new_lock();
            self.credentials.store.lock_credential(account, lock).await.ok();
        }
    }

    async fn try_save(&self, tokens: &Tokens, lock: CredentialLock) -> Result<bool, String> {
        let plain = serde_json::to_vec(tokens).map_err(|error| error.to_string())?;
        let sealed = self.credentials.sealer.seal(&plain, &self.associated_data());
        let sealed = Some(sealed.map_err(|error| error.to_string())?);
        let credential = StoredCredential { origin: self.oauth.fingerprint.clone(), sealed };
        let saved = self.credentials.store.put_credential(&self.oauth.account, credential, lock).await;
        saved.map_err(|error| error.to_string())
    }

    /// Binds the encrypted tokens to their account.
    fn associated_data(&self) -> Vec<u8> {
        format!("credential\0{}\0{}", self.oauth.account, self.oauth.fingerprint).into_bytes()
    }
}
