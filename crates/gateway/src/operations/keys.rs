//! Keys: the credentials of clients, and how their limits stand.

use std::time::Duration;

use antiphon_access::audit::Actor;
use antiphon_access::keys::{Issuer, KeyView, KeyWithSecret, NewKey, Secret};
use antiphon_access::limits::{KeyRules, LimitView, Rules};
use antiphon_store::StoredKey;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{OperationError, Operations, Page};

#[derive(Debug, Serialize, ToSchema)]
pub struct KeyList {
    /// By name.
    pub keys: Vec<KeyView>,
    pub has_more: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct LimitList {
    pub limits: Vec<LimitView>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct DeletedKey {
    pub id: String,
    pub name: String,
    pub deleted: bool,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateRequest {
    /// For how long the secret of now works too. Not given: not at all.
    #[schema(minimum = 0, maximum = 2_592_000)]
    overlap_seconds: Option<u64>,
}

// === impl Operations ===

impl Operations {
    /// By name; `after` takes a key's name.
    pub async fn list_keys(&self, page: &Page) -> Result<KeyList, OperationError> {
        let rows = self.store.list_keys_after(page.after().unwrap_or_default(), page.rows()).await?;
        let (keys, has_more) = page.cut(rows);
        Ok(KeyList { keys: keys.iter().map(|key| self.view_key(key)).collect(), has_more })
    }

    pub async fn key(&self, name: &str) -> Result<KeyView, OperationError> {
        Ok(self.view_key(&self.find_key(name).await?))
    }

    /// The limits of a key as they stand, and those of its project.
    pub async fn key_limits(&self, name: &str) -> Result<LimitList, OperationError> {
        let key = self.find_key(name).await?;
        // A key whose limits can't be read lets nobody in; it must not look as if it had none.
        let unreadable = || OperationError::UnreadableKey(name.to_owned());
        let written = serde_json::from_str(&key.limits).map_err(|_| unreadable())?;
        let rules = Rules::parse(&written).map_err(|_| unreadable())?;
        let key_rules = KeyRules { id: key.id, rules: &rules };
        let limits = self.limits.view(key_rules, &key.project, self.clock.now()).await?;
        Ok(LimitList { limits })
    }

    /// Makes a key. Its secret is in what this returns, and nowhere else.
    pub async fn create_key(&self, new: NewKey, actor: Actor) -> Result<KeyWithSecret, OperationError> {
        let (key, secret) = self.issuer(actor).create(new).await?;
        Ok(self.issued(&key, &secret).await)
    }

    /// Gives a key another secret; the one of now works for as long as `overlap` says.
    pub async fn rotate_key(
        &self,
        name: &str,
        overlap: Duration,
        actor: Actor,
    ) -> Result<KeyWithSecret, OperationError> {
        let (key, secret) = self.issuer(actor).rotate(name, overlap).await?;
        Ok(self.issued(&key, &secret).await)
    }

    /// Ends a key for good. It stays in lists, and its name taken.
    pub async fn revoke_key(&self, name: &str, actor: Actor) -> Result<KeyView, OperationError> {
        let key = self.issuer(actor).revoke(name).await?;
        self.take_effect().await;
        Ok(self.view_key(&key))
    }

    /// Removes a key and frees its name. What its project has stored stays.
    pub async fn delete_key(&self, name: &str, actor: Actor) -> Result<DeletedKey, OperationError> {
        let key = self.issuer(actor).delete(name).await?;
        self.take_effect().await;
        Ok(DeletedKey { id: key.id.to_string(), name: key.name, deleted: true })
    }

    async fn issued(&self, key: &StoredKey, secret: &Secret) -> KeyWithSecret {
        self.take_effect().await;
        KeyWithSecret::new(self.view_key(key), secret)
    }

    /// Here at once; other replicas hear of it by themselves, and so does this one if it can't now.
    async fn take_effect(&self) {
        if let Err(error) = self.keys.refresh(&*self.store).await {
            tracing::warn!(%error, "a change of keys takes effect as soon as the store can be read");
        }
    }

    async fn find_key(&self, name: &str) -> Result<StoredKey, OperationError> {
        // Reading changes nothing, so that it does not matter who asks.
        Ok(self.issuer(Actor::Gateway).find(name).await?)
    }

    fn issuer(&self, actor: Actor) -> Issuer<'_> {
        Issuer { store: &*self.store, clock: &*self.clock, actor }
    }

    fn view_key(&self, key: &StoredKey) -> KeyView {
        KeyView::new(key, self.clock.now())
    }
}

// === impl RotateRequest ===

impl RotateRequest {
    pub fn overlap(&self) -> Duration {
        Duration::from_secs(self.overlap_seconds.unwrap_or_default())
    }
}
