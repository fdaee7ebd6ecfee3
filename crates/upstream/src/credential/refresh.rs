//! One refresh of one account's tokens.

use std::sync::Arc;
use std::time::Duration;

use antiphon_store::{CredentialLock, StoreError, StoredCredential};
use tokio::sync::oneshot;

use super::token::{Tokens, exchange};
use super::{Credentials, NoToken, OAuth, RETRY};

/// Longer than an exchange may take, so that nobody else refreshes meanwhile.
const LOCK: Duration = Duration::from_secs(90);
/// How often to look whether another replica is done.
const LOCK_POLL: Duration = Duration::from_millis(100);
/// Between attempts to save what was issued.
const SAVE_RETRY: Duration = Duration::from_secs(1);

pub(super) struct Refresh {
    pub(super) credentials: Arc<Credentials>,
    pub(super) oauth: Arc<OAuth>,
    /// An access token that is of no use, however long it is said to live.
    pub(super) refused: Option<String>,
}

// === impl Refresh ===

impl Refresh {
    /// Tells those who wait as soon as there are tokens, and goes on until these are saved.
    pub(super) async fn run(self, waiting: oneshot::Sender<Result<Tokens, NoToken>>) {
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
                tracing::info!(account.id = account, outcome, "the account's access token was refreshed");
            }
            Err(error) => {
                tracing::error!(account.id = account, %error, "the account's access token was not refreshed");
            }
        }
        self.settle(&result);
        // Whoever waited may have left.
        waiting.send(result).ok();
        if let Some((tokens, lock)) = unsaved {
            self.save(&tokens, lock).await;
        }
    }

    fn settle(&self, result: &Result<Tokens, NoToken>) {
        let mut state = self.oauth.lock();
        state.refreshing = None;
        state.retry_at = None;
        match result {
            Ok(tokens) => state.tokens = Some(tokens.clone()),
            // What is left of the old token's life is not worth hiding that there will be no other.
            Err(NoToken::Refused(_)) => state.tokens = None,
            Err(NoToken::Failed(_)) => state.retry_at = Some(self.credentials.env.clock.now().plus(RETRY)),
        }
    }

    /// New tokens, and the lock under which they are to be saved unless they came from the store.
    async fn refresh(&self) -> Result<(Tokens, Option<CredentialLock>), NoToken> {
        let unavailable = |error: StoreError| NoToken::Failed(error.to_string());
        if let Some(tokens) = self.stored().await?.filter(|tokens| self.are_usable(tokens)) {
            return Ok((tokens, None));
        }
        let lock = self.lock().await.map_err(unavailable)?;
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

    /// New tokens, and whether they are this refresh's own and not another replica's.
    async fn refresh_locked(&self) -> Result<(Tokens, bool), NoToken> {
        let stored = self.stored().await?;
        if let Some(tokens) = stored.as_ref().filter(|tokens| self.are_usable(tokens)) {
            return Ok((tokens.clone(), false));
        }
        // What was issued and could not be saved yet is newer than what is in the store.
        let unsaved = self.oauth.lock().unsaved.clone();
        let known = unsaved.or(stored.map(|tokens| tokens.refresh));
        let settings = &self.oauth.settings;
        let token = known.as_deref().unwrap_or(settings.refresh_token.expose());
        self.credentials.sealer.load().map_err(|error| NoToken::Failed(error.to_string()))?;
        let tokens =
            exchange(&self.credentials.clients, settings, token, self.credentials.env.clock.now()).await?;
        self.oauth.lock().unsaved = Some(tokens.refresh.clone());
        Ok((tokens, true))
    }

    fn are_usable(&self, tokens: &Tokens) -> bool {
        !tokens.are_due(self.credentials.env.clock.now()) && self.refused.as_ref() != Some(&tokens.access)
    }

    /// What the store has, if it began with the refresh token that is configured now.
    async fn stored(&self) -> Result<Option<Tokens>, NoToken> {
        let stored = self.credentials.store.load_credential(&self.oauth.account).await;
        let stored = stored.map_err(|error| NoToken::Failed(error.to_string()))?;
        let Some(stored) = stored.filter(|stored| stored.origin == self.oauth.origin) else {
            return Ok(None);
        };
        let Some(sealed) = stored.sealed else { return Ok(None) };
        let opened = self.credentials.sealer.open(&sealed, &self.purpose());
        let opened = opened.map_err(|error| NoToken::Failed(error.to_string()))?;
        serde_json::from_slice(&opened)
            .map(Some)
            .map_err(|_| NoToken::failed("the tokens in the store are of another build"))
    }

    /// Another replica may be at it; then this waits until that is done, or gone.
    async fn lock(&self) -> Result<CredentialLock, StoreError> {
        loop {
            let lock = self.new_lock();
            if self.credentials.store.lock_credential(&self.oauth.account, lock).await? {
                return Ok(lock);
            }
            tokio::time::sleep(LOCK_POLL).await;
        }
    }

    fn new_lock(&self) -> CredentialLock {
        let now = self.credentials.env.clock.now();
        CredentialLock { holder: self.oauth.holder, now, until: now.plus(LOCK) }
    }

    /// One that is not given back runs out.
    async fn unlock(&self, lock: CredentialLock) {
        self.credentials.store.unlock_credential(&self.oauth.account, lock).await.ok();
    }

    /// Goes on until it has worked: with a server that rotates refresh tokens, what is lost here can't be had again.
    async fn save(&self, tokens: &Tokens, mut lock: CredentialLock) {
        let account = self.oauth.account.as_str();
        loop {
            let error = match self.try_save(tokens, lock).await {
                Ok(is_saved) => {
                    if !is_saved {
                        tracing::error!(
                            account.id = account,
                            "another replica has refreshed the account's token, too"
                        );
                    }
                    self.oauth.lock().unsaved = None;
                    return;
                }
                Err(error) => error,
            };
            tracing::error!(account.id = account, error, "the account's new tokens can't be saved yet");
            tokio::time::sleep(SAVE_RETRY).await;
            // Whoever waits for the lock would use a refresh token that is no longer good.
            lock = self.new_lock();
            self.credentials.store.lock_credential(account, lock).await.ok();
        }
    }

    async fn try_save(&self, tokens: &Tokens, lock: CredentialLock) -> Result<bool, String> {
        let plain = serde_json::to_vec(tokens).map_err(|error| error.to_string())?;
        let sealed = self.credentials.sealer.seal(&plain, &self.purpose());
        let sealed = Some(sealed.map_err(|error| error.to_string())?);
        let credential = StoredCredential { origin: self.oauth.origin.clone(), sealed };
        let saved = self.credentials.store.put_credential(&self.oauth.account, credential, lock).await;
        saved.map_err(|error| error.to_string())
    }

    /// Tokens of one account can't be taken for another's.
    fn purpose(&self) -> Vec<u8> {
        format!("credential\0{}\0{}", self.oauth.account, self.oauth.origin).into_bytes()
    }
}
