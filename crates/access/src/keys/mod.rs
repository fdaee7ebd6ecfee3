//! Client keys: authentication, and what each key allows.
//!
//! All keys are in memory, by the hash of their secret. Authenticating costs one hash and one look-up, whether the secret is
//! valid or not, and never a read from the store. Changes in the store are picked up every second, and at once if this
//! process made them.

mod attempts;
mod clients;
mod issue;
mod secret;
#[cfg(test)]
mod tests;
mod view;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use antiphon_protocol::id::{KeyId, ProjectId};
use antiphon_store::{Clock, KeyClient, SecretHash, Store, StoreError, StoredKey, Timestamp};
use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::Mutex;

pub use self::attempts::{Attempts, FailedAttempts, network_of};
pub use self::issue::{Issuer, KeyChanges, KeyError, NewKey};
pub use self::secret::Secret;
pub use self::view::{KeyState, KeyView, KeyWithSecret};

use self::clients::Clients;
use crate::limits::Rules;
use antiphon_protocol::model::ModelPattern;

/// How long keys are accepted while the store is unavailable. A key that is revoked meanwhile works until then.
const MAX_STALENESS: Duration = Duration::from_mins(10);

/// The precision of a key's last use.
const USE_RESOLUTION_MS: i64 = 1_000;
/// How many last uses are written together.
const USES_PER_BATCH: usize = 64;

/// A client key in memory, without its secret.
#[derive(Debug)]
pub struct Key {
    pub id: KeyId,
    pub name: String,
    pub project: ProjectId,
    /// Allowed models; empty allows all models.
    pub models: Vec<ModelPattern>,
    pub limits: Rules,
    expires_at: Option<Timestamp>,
    revoked_at: Option<Timestamp>,
    /// When it was last used, in UTC milliseconds. Shared by all values that were read for this key.
    used_at: Arc<AtomicI64>,
    /// Shared like `used_at`.
    clients: Arc<Clients>,
}

/// An authenticated caller.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Whose responses the caller sees.
    pub project: ProjectId,
    /// `None` where no key is required.
    pub key: Option<Arc<Key>>,
    /// The hash of the secret it presented.
    hash: Option<SecretHash>,
}

/// Why a caller is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// The key is missing, unknown, revoked or expired. Clients do not learn which of these.
    NoValidKey,
    /// Too many attempts from this address have failed; it may try again after this time.
    TooManyAttempts(Duration),
    /// The keys could not be read from the store, or not for too long.
    KeysUnavailable,
}

/// Which clients are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Every client.
    Open,
    /// Every client as long as no key exists; then only clients with a key.
    OpenUntilFirstKey,
    /// Only clients with a key.
    KeysRequired,
}

/// The keys of a store, in memory.
pub struct Keys {
    access: Access,
    table: ArcSwap<KeyTable>,
    /// When the table was last known to match the store; `None` before the first read.
    verified_at: ArcSwapOption<Instant>,
    /// The version that the table was read from. Locked while the table is refreshed.
    version: Mutex<Option<i64>>,
    /// The caller where no key is required.
    anonymous: Caller,
    failed_attempts: FailedAttempts,
    clock: Arc<dyn Clock>,
}

#[derive(Debug, Default)]
struct KeyTable {
    by_hash: HashMap<SecretHash, Entry>,
    by_id: HashMap<KeyId, Arc<Key>>,
    /// Whether any key exists; a revoked one counts.
    has_keys: bool,
}

#[derive(Debug)]
struct Entry {
    key: Arc<Key>,
    /// When the secret stops working, if that is before its key expires.
    ends_at: Option<Timestamp>,
}

// === impl Keys ===

impl Keys {
    /// No key is accepted before the first [`refresh`](Self::refresh).
    pub fn new(access: Access, clock: Arc<dyn Clock>) -> Self {
        Self {
            access,
            table: ArcSwap::default(),
            verified_at: ArcSwapOption::empty(),
            version: Mutex::default(),
            anonymous: Caller { project: ProjectId::new(ProjectId::DEFAULT), key: None, hash: None },
            failed_attempts: FailedAttempts::default(),
            clock,
        }
    }

    /// The caller of a request that presents this secret. `address` is where the request comes from.
    pub fn authenticate(&self, secret: Option<&[u8]>, address: Option<IpAddr>) -> Result<Caller, Denied> {
        let caller = self.look_up(secret.and_then(secret::hash_presented));
        if matches!(caller, Err(Denied::NoValidKey)) {
            self.count_failure(address)?;
        }
        caller
    }

    /// Authenticates the same caller again, as the keys are now; for connections that last.
    pub fn reauthenticate(&self, caller: &Caller) -> Result<Caller, Denied> {
        self.look_up(caller.hash)
    }

    /// Notes which client the caller uses.
    pub fn note_client(&self, caller: &Caller, user_agent: &str) {
        if let Some(key) = &caller.key {
            key.clients.mark_used(user_agent, self.clock.now());
        }
    }

    /// Counts a failed attempt; an error if there were too many from this address.
    pub fn count_failure(&self, address: Option<IpAddr>) -> Result<(), Denied> {
        let Some(address) = address else { return Ok(()) };
        self.failed_attempts.count(address, self.clock.now()).map_err(Denied::TooManyAttempts)
    }

    fn look_up(&self, hash: Option<SecretHash>) -> Result<Caller, Denied> {
        if self.access == Access::Open {
            return Ok(self.anonymous.clone());
        }
        if !self.is_fresh(Instant::now()) {
            return Err(Denied::KeysUnavailable);
        }
        let table = self.table.load();
        if !table.has_keys && self.access == Access::OpenUntilFirstKey {
            return Ok(self.anonymous.clone());
        }
        let now = self.clock.now();
        let entry = hash.and_then(|hash| table.by_hash.get(&hash)).filter(|entry| entry.is_valid(now));
        let key = &entry.ok_or(Denied::NoValidKey)?.key;
        key.mark_used(now);
        Ok(Caller { project: key.project.clone(), key: Some(Arc::clone(key)), hash })
    }

    /// A key that is not deleted.
    pub fn find(&self, id: KeyId) -> Option<Arc<Key>> {
        self.table.load().by_id.get(&id).cloned()
    }

    /// All keys that are not deleted.
    pub fn all(&self) -> Vec<Arc<Key>> {
        self.table.load().by_id.values().cloned().collect()
    }

    /// The clients of a key that used it at this process, those that used it last.
    pub fn clients_of(&self, id: KeyId) -> Vec<KeyClient> {
        self.find(id).map(|key| key.clients.list()).unwrap_or_default()
    }

    /// Whether callers can be identified.
    pub fn is_ready(&self) -> bool {
        self.access == Access::Open || self.is_fresh(Instant::now())
    }

    fn is_fresh(&self, now: Instant) -> bool {
        self.verified_at.load().as_deref().is_some_and(|at| now.duration_since(*at) < MAX_STALENESS)
    }

    /// Whether any key exists; a revoked one counts.
    pub fn has_keys(&self) -> bool {
        self.table.load().has_keys
    }

    /// Reads the keys if they have changed.
    pub async fn refresh(&self, store: &dyn Store) -> Result<(), StoreError> {
        let mut version = self.version.lock().await;
        let asked_at = Instant::now();
        let newest = store.keys_version().await?;
        if *version != Some(newest) {
            let keys = store.list_keys().await?;
            self.table.store(Arc::new(KeyTable::new(keys, &self.table.load())));
            *version = Some(newest);
        }
        self.verified_at.store(Some(Arc::new(asked_at)));
        Ok(())
    }

    /// Writes when keys were last used. `written` holds what earlier calls wrote, which is skipped.
    pub async fn write_last_uses(
        &self,
        store: &dyn Store,
        written: &mut HashMap<KeyId, i64>,
    ) -> Result<(), StoreError> {
        let table = self.table.load_full();
        written.retain(|id, _| table.by_id.contains_key(id));
        let uses = table.by_id.values().map(|key| (key.id, key.used_at.load(Ordering::Relaxed)));
        let is_new = |(id, at): &(KeyId, i64)| *at > written.get(id).copied().unwrap_or(0);
        let uses: Vec<_> = uses.filter(is_new).collect();
        for uses in uses.chunks(USES_PER_BATCH) {
            // Concurrently, so that they share a commit.
            let writes = uses.iter().map(|(id, at)| store.note_key_use(*id, Timestamp::from_unix_ms(*at)));
            futures_util::future::try_join_all(writes).await?;
            written.extend(uses.iter().copied());
        }
        Ok(())
    }

    /// Writes which clients used which key, and when they last did.
    pub async fn write_clients(&self, store: &dyn Store) -> Result<(), StoreError> {
        let table = self.table.load_full();
        let uses = table
            .by_id
            .values()
            .flat_map(|key| key.clients.unwritten().into_iter().map(|(client, at)| (key.id, client, at)));
        let uses: Vec<_> = uses.collect();
        for uses in uses.chunks(USES_PER_BATCH) {
            let writes = uses.iter().map(|(key, client, at)| {
                store.note_key_client(*key, KeyClient { name: client.name.clone(), used_at: *at })
            });
            futures_util::future::try_join_all(writes).await?;
            uses.iter().for_each(|(_, client, at)| client.note_written(*at));
        }
        Ok(())
    }
}

// === impl KeyTable ===

impl KeyTable {
    fn new(stored: Vec<StoredKey>, previous: &Self) -> Self {
        let mut table = Self { has_keys: !stored.is_empty(), ..Self::default() };
        for stored in stored {
            let previous = previous.by_id.get(&stored.id);
            let Some(key) = Key::new(&stored, previous.map(Arc::as_ref)).map(Arc::new) else {
                tracing::error!(key.id = %stored.id, "stored key is invalid and was ignored");
                continue;
            };
            if let Some((hash, until)) = stored.previous {
                table.by_hash.insert(hash, Entry { key: Arc::clone(&key), ends_at: Some(until) });
            }
            table.by_hash.insert(stored.hash, Entry { key: Arc::clone(&key), ends_at: None });
            table.by_id.insert(key.id, key);
        }
        table
    }
}

// === impl Entry ===

impl Entry {
    fn is_valid(&self, now: Timestamp) -> bool {
        let is_over = |end: Option<Timestamp>| end.is_some_and(|end| end <= now);
        self.key.revoked_at.is_none() && !is_over(self.key.expires_at) && !is_over(self.ends_at)
    }
}

// === impl Key ===

impl Key {
    /// `None` if its models or limits are invalid.
    fn new(stored: &StoredKey, previous: Option<&Self>) -> Option<Self> {
        let models: Vec<String> = serde_json::from_str(&stored.models).ok()?;
        Some(Self {
            id: stored.id,
            name: stored.name.clone(),
            project: stored.project.clone(),
            models: models.iter().map(|pattern| ModelPattern::parse(pattern)).collect::<Option<_>>()?,
            limits: Rules::parse(&serde_json::from_str(&stored.limits).ok()?).ok()?,
            expires_at: stored.expires_at,
            revoked_at: stored.revoked_at,
            used_at: previous.map(|key| Arc::clone(&key.used_at)).unwrap_or_default(),
            clients: previous.map(|key| Arc::clone(&key.clients)).unwrap_or_default(),
        })
    }

    /// Written at most once a second, so that workers do not contend for the cache line with every request.
    fn mark_used(&self, now: Timestamp) {
        if now.unix_ms() - self.used_at.load(Ordering::Relaxed) >= USE_RESOLUTION_MS {
            self.used_at.store(now.unix_ms(), Ordering::Relaxed);
        }
    }

    pub fn allows(&self, model: &str) -> bool {
        self.models.is_empty() || self.models.iter().any(|glob| glob.covers(model))
    }
}

// === impl Caller ===

impl Caller {
    /// Whoever created a turn earlier. Its key may have ended since.
    pub fn of_turn(project: ProjectId, key: Option<Arc<Key>>) -> Self {
        Self { project, key, hash: None }
    }

    pub fn allows(&self, model: &str) -> bool {
        self.key.as_ref().is_none_or(|key| key.allows(model))
    }
}
