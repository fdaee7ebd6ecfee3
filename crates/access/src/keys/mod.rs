//! Keys: who may come in, for which project, and to which models.
//!
//! All keys are in memory, by the hash of their secret: letting a client in costs one hash and one look-up, whether its
//! secret is known or not, and never a read from the store. The store is asked every second whether they have changed, and
//! at once after a change through this process.

mod attempts;
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
use antiphon_store::{Clock, SecretHash, Store, StoreError, StoredKey, Timestamp};
use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::Mutex;

pub use self::attempts::Attempts;
pub use self::issue::{Issuer, KeyError, NewKey};
pub use self::secret::Secret;
pub use self::view::{KeyState, KeyView, KeyWithSecret};

use crate::limits::Rules;
use antiphon_protocol::model::ModelPattern;

/// How long keys are served that the store can't be asked about. A key that is revoked meanwhile works for so long.
const SERVED_UNASKED: Duration = Duration::from_mins(10);

/// How exactly it is known when a key was used last.
const USE_RESOLUTION_MS: i64 = 1_000;
/// Uses that are written down at once.
const USES_AT_ONCE: usize = 64;

/// A client's credential, as it is kept in memory. It can't be told from this what its secret is.
#[derive(Debug)]
pub struct Key {
    pub id: KeyId,
    pub name: String,
    pub project: ProjectId,
    /// The models that it may use; any, if this is empty.
    pub models: Vec<ModelPattern>,
    /// What it may use how much of.
    pub limits: Rules,
    expires_at: Option<Timestamp>,
    revoked_at: Option<Timestamp>,
    /// When it was used last, in UTC milliseconds; the same for all that was ever read of this key.
    used_at: Arc<AtomicI64>,
}

/// Who calls, as far as that is asked.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Whose responses the caller sees.
    pub project: ProjectId,
    /// `None` where none is asked for.
    pub key: Option<Arc<Key>>,
    /// What let it in.
    hash: Option<SecretHash>,
}

/// Why somebody is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// The key is missing, unknown, revoked or expired: which of these is nobody's business.
    NoValidKey,
    /// So many attempts from one address have failed; it may try again after so long.
    TooManyAttempts(Duration),
    /// The keys are not known, or not any more.
    KeysUnknown,
}

/// Who is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Whoever can connect.
    Open,
    /// Whoever can connect, as long as there is no key at all; then who has one.
    OpenUntilFirstKey,
    /// Who has a key.
    Keys,
}

/// The keys of a store, in memory.
pub struct Keys {
    access: Access,
    table: ArcSwap<Table>,
    /// When the table was right for sure; `None` before it was read.
    known_at: ArcSwapOption<Instant>,
    /// The version of what the table was read from. Who holds this reads it again.
    version: Mutex<Option<i64>>,
    /// The caller where none is asked for a key.
    anybody: Caller,
    attempts: Attempts,
    clock: Arc<dyn Clock>,
}

#[derive(Debug, Default)]
struct Table {
    by_hash: HashMap<SecretHash, Entry>,
    by_id: HashMap<KeyId, Arc<Key>>,
    /// Whether there is a key, be it a revoked one.
    has_keys: bool,
}

#[derive(Debug)]
struct Entry {
    key: Arc<Key>,
    /// When the secret ends, if it does before its key.
    ends_at: Option<Timestamp>,
}

// === impl Keys ===

impl Keys {
    /// Nobody is let in by a key before the first [`refresh`](Self::refresh).
    pub fn new(access: Access, clock: Arc<dyn Clock>) -> Self {
        let anybody = Caller { project: ProjectId::new(ProjectId::DEFAULT), key: None, hash: None };
        let (table, known_at, version) = (ArcSwap::default(), ArcSwapOption::empty(), Mutex::default());
        Self { access, table, known_at, version, anybody, attempts: Attempts::default(), clock }
    }

    /// Whose request this is. `secret` is what it presents, and `address` where it comes from.
    pub fn identify(&self, secret: Option<&[u8]>, address: Option<IpAddr>) -> Result<Caller, Denied> {
        let admitted = self.admit(secret.and_then(secret::hash_of));
        if matches!(admitted, Err(Denied::NoValidKey)) {
            self.count_failure(address)?;
        }
        admitted
    }

    /// The same caller again, on a connection that lasts: as the keys are now.
    pub fn renew(&self, caller: &Caller) -> Result<Caller, Denied> {
        self.admit(caller.hash)
    }

    /// Counts an attempt that has failed; an error if there were too many from there.
    pub fn count_failure(&self, address: Option<IpAddr>) -> Result<(), Denied> {
        let Some(address) = address else { return Ok(()) };
        self.attempts.count(address, self.clock.now()).map_err(Denied::TooManyAttempts)
    }

    fn admit(&self, hash: Option<SecretHash>) -> Result<Caller, Denied> {
        if self.access == Access::Open {
            return Ok(self.anybody.clone());
        }
        if !self.is_known(Instant::now()) {
            return Err(Denied::KeysUnknown);
        }
        let table = self.table.load();
        if !table.has_keys && self.access == Access::OpenUntilFirstKey {
            return Ok(self.anybody.clone());
        }
        let now = self.clock.now();
        let entry = hash.and_then(|hash| table.by_hash.get(&hash)).filter(|entry| entry.is_good(now));
        let key = &entry.ok_or(Denied::NoValidKey)?.key;
        key.use_at(now);
        Ok(Caller { project: key.project.clone(), key: Some(Arc::clone(key)), hash })
    }

    /// Whether callers can be identified.
    pub fn are_known(&self) -> bool {
        self.access == Access::Open || self.is_known(Instant::now())
    }

    fn is_known(&self, now: Instant) -> bool {
        self.known_at.load().as_deref().is_some_and(|at| now.duration_since(*at) < SERVED_UNASKED)
    }

    /// Whether there is a key, be it a revoked one.
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
            self.table.store(Arc::new(Table::new(keys, &self.table.load())));
            *version = Some(newest);
        }
        self.known_at.store(Some(Arc::new(asked_at)));
        Ok(())
    }

    /// Writes down when keys were used last, but for what is `noted` already.
    pub async fn note_uses(
        &self,
        store: &dyn Store,
        noted: &mut HashMap<KeyId, i64>,
    ) -> Result<(), StoreError> {
        let table = self.table.load_full();
        noted.retain(|id, _| table.by_id.contains_key(id));
        let uses = table.by_id.values().map(|key| (key.id, key.used_at.load(Ordering::Relaxed)));
        let is_new = |(id, at): &(KeyId, i64)| *at > noted.get(id).copied().unwrap_or(0);
        let uses: Vec<_> = uses.filter(is_new).collect();
        for uses in uses.chunks(USES_AT_ONCE) {
            // Together, so that they share a commit.
            let notes = uses.iter().map(|(id, at)| store.note_key_use(*id, Timestamp::from_unix_ms(*at)));
            futures_util::future::try_join_all(notes).await?;
            noted.extend(uses.iter().copied());
        }
        Ok(())
    }
}

// === impl Table ===

impl Table {
    fn new(stored: Vec<StoredKey>, former: &Self) -> Self {
        let mut table = Self { has_keys: !stored.is_empty(), ..Self::default() };
        for stored in stored {
            let used_at = former.by_id.get(&stored.id).map(|key| Arc::clone(&key.used_at));
            let Some(key) = Key::new(&stored, used_at.unwrap_or_default()).map(Arc::new) else {
                tracing::error!(key.id = %stored.id, "a key can't be read, and lets nobody in");
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
    fn is_good(&self, now: Timestamp) -> bool {
        let is_over = |end: Option<Timestamp>| end.is_some_and(|end| end <= now);
        self.key.revoked_at.is_none() && !is_over(self.key.expires_at) && !is_over(self.ends_at)
    }
}

// === impl Key ===

impl Key {
    /// `None` if its models or limits can't be read.
    fn new(stored: &StoredKey, used_at: Arc<AtomicI64>) -> Option<Self> {
        let models: Vec<String> = serde_json::from_str(&stored.models).ok()?;
        Some(Self {
            id: stored.id,
            name: stored.name.clone(),
            project: stored.project.clone(),
            models: models.iter().map(|pattern| ModelPattern::parse(pattern)).collect::<Option<_>>()?,
            limits: Rules::parse(&serde_json::from_str(&stored.limits).ok()?).ok()?,
            expires_at: stored.expires_at,
            revoked_at: stored.revoked_at,
            used_at,
        })
    }

    /// Written only now and then: the workers would take it from each other with every request.
    fn use_at(&self, now: Timestamp) {
        if now.unix_ms() - self.used_at.load(Ordering::Relaxed) >= USE_RESOLUTION_MS {
            self.used_at.store(now.unix_ms(), Ordering::Relaxed);
        }
    }

    pub fn allows(&self, model: &str) -> bool {
        self.models.is_empty() || self.models.iter().any(|glob| glob.matches(model))
    }
}

// === impl Caller ===

impl Caller {
    pub fn allows(&self, model: &str) -> bool {
        self.key.as_ref().is_none_or(|key| key.allows(model))
    }
}
