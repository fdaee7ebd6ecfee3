//! Keys: the credentials of clients, and the state of their limits.

use std::collections::BTreeMap;
use std::time::Duration;

use antiphon_access::audit::Actor;
use antiphon_access::keys::{Issuer, KeyChanges, KeyView, KeyWithSecret, NewKey, Secret};
use antiphon_access::limits::{KeyRules, LimitView, Rules};
use antiphon_runtime::rfc3339;
use antiphon_store::{KeyClient, StoredKey};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{OperationError, Operations, Page};

#[derive(Debug, Serialize, ToSchema)]
pub struct KeyList {
    /// Sorted by name.
    pub keys: Vec<KeyView>,
    pub has_more: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct LimitList {
    pub limits: Vec<LimitView>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct KeyClientList {
    /// The last one to use the key first.
    pub clients: Vec<KeyClientView>,
}

/// A client that used a key.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = KeyClient)]
pub struct KeyClientView {
    /// The beginning of its user agent.
    #[schema(example = "OpenAI/Python 2.8.1")]
    pub name: String,
    /// Other replicas see it within a minute. Of a WebSocket, the time when it was opened.
    pub last_used_at: String,
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
    /// How long the old secret keeps working, in seconds. Default: it stops working immediately.
    #[schema(minimum = 0, maximum = 2_592_000)]
    overlap_seconds: Option<u64>,
}

// === impl Operations ===

impl Operations {
    /// Sorted by name; `after` is a key's name.
    pub async fn list_keys(&self, page: &Page) -> Result<KeyList, OperationError> {
        let rows = self.store.list_keys_after(page.after().unwrap_or_default(), page.rows()).await?;
        let (keys, has_more) = page.cut(rows);
        Ok(KeyList { keys: keys.iter().map(|key| self.view_key(key)).collect(), has_more })
    }

    pub async fn key(&self, name: &str) -> Result<KeyView, OperationError> {
        Ok(self.view_key(&self.find_key(name).await?))
    }

    /// The state of the limits of a key and its project.
    pub async fn key_limits(&self, name: &str) -> Result<LimitList, OperationError> {
        let key = self.find_key(name).await?;
        // A key with invalid limits is not accepted; it must not look as if it had none.
        let invalid = || OperationError::InvalidKeyLimits(name.to_owned());
        let stored = serde_json::from_str(&key.limits).map_err(|_| invalid())?;
        let rules = Rules::parse(&stored).map_err(|_| invalid())?;
        let key_rules = KeyRules { id: key.id, rules: &rules };
        let limits = self.limits.view(key_rules, &key.project, self.clock.now()).await?;
        Ok(LimitList { limits })
    }

    /// Which clients use a key.
    pub async fn key_clients(&self, name: &str) -> Result<KeyClientList, OperationError> {
        let key = self.find_key(name).await?;
        let stored = self.store.list_key_clients(key.id).await?;
        let mut last_uses = BTreeMap::new();
        for KeyClient { name, used_at } in stored.into_iter().chain(self.keys.clients_of(key.id)) {
            let last_use = last_uses.entry(name).or_insert(used_at);
            *last_use = used_at.max(*last_use);
        }
        let mut clients: Vec<_> = last_uses.into_iter().collect();
        clients.sort_by_key(|(_, used_at)| std::cmp::Reverse(*used_at));
        let view = |(name, used_at)| KeyClientView { name, last_used_at: rfc3339(used_at) };
        Ok(KeyClientList { clients: clients.into_iter().map(view).collect() })
    }

    /// Creates a key. Only the returned value contains its secret.
    pub async fn create_key(&self, new: NewKey, actor: Actor<'_>) -> Result<KeyWithSecret, OperationError> {
        let (key, secret) = self.issuer(actor).create(new).await?;
        Ok(self.issued(&key, &secret).await)
    }

    /// Replaces the secret of a key; the old one keeps working for `overlap`.
    pub async fn rotate_key(
        &self,
        name: &str,
        overlap: Duration,
        actor: Actor<'_>,
    ) -> Result<KeyWithSecret, OperationError> {
        let (key, secret) = self.issuer(actor).rotate(name, overlap).await?;
        Ok(self.issued(&key, &secret).await)
    }

    /// Changes what a key allows, and until when.
    pub async fn change_key(
        &self,
        name: &str,
        changes: KeyChanges,
        actor: Actor<'_>,
    ) -> Result<KeyView, OperationError> {
        let key = self.issuer(actor).change(name, changes).await?;
        self.reload_keys().await;
        Ok(self.view_key(&key))
    }

    /// Revokes a key permanently. It stays in lists and keeps its name.
    pub async fn revoke_key(&self, name: &str, actor: Actor<'_>) -> Result<KeyView, OperationError> {
        let key = self.issuer(actor).revoke(name).await?;
        self.reload_keys().await;
        Ok(self.view_key(&key))
    }

    /// Deletes a key and frees its name. The responses of its project stay.
    pub async fn delete_key(&self, name: &str, actor: Actor<'_>) -> Result<DeletedKey, OperationError> {
        let key = self.issuer(actor).delete(name).await?;
        self.reload_keys().await;
        Ok(DeletedKey { id: key.id.to_string(), name: key.name, deleted: true })
    }

    async fn issued(&self, key: &StoredKey, secret: &Secret) -> KeyWithSecret {
        self.reload_keys().await;
        KeyWithSecret::new(self.view_key(key), secret)
    }

    /// Applies a change here at once. Other replicas notice it by themselves, and so does this one if reloading fails.
    async fn reload_keys(&self) {
        if let Err(error) = self.keys.refresh(&*self.store).await {
            tracing::warn!(%error, "could not reload the keys; the change takes effect when the store is available again");
        }
    }

    pub(super) async fn find_key(&self, name: &str) -> Result<StoredKey, OperationError> {
        // The actor does not matter, as reading changes nothing.
        Ok(self.issuer(Actor::Gateway).find(name).await?)
    }

    fn issuer<'a>(&'a self, actor: Actor<'a>) -> Issuer<'a> {
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
