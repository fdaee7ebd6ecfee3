//! Account state in the store: replicas share it, and it survives a restart.

use std::sync::Arc;

use antiphon_store::{Store, StoreError, StoredAccount, Timestamp};

use super::logging::log_state_change;
use super::state::{AccountState, Cooldown, CooldownReason};
use super::{Pool, Slot, Wanted};

/// What has been written of an account's state, and what has been read.
#[derive(Debug, Default)]
pub struct SyncState {
    /// How often the state has changed in this process.
    changes: u64,
    /// How many of these changes are in the store.
    written: u64,
    /// The row that was read last.
    last_seen: Option<StoredAccount>,
}

// === impl Pool ===

impl Pool {
    /// Writes what has changed in this process, then takes over what other replicas and operators have changed.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store can't be read or written.
    pub async fn sync(self: &Arc<Self>, store: &dyn Store) -> Result<(), StoreError> {
        let _exchange = self.exchanging.lock().await;
        let now = self.now();
        for (account, changes) in self.unwritten(now) {
            store.put_account(account.clone()).await?;
            if let Some(slot) = self.lock().slots.iter_mut().find(|slot| slot.account.name == account.name) {
                slot.sync.written = changes;
                // Reading it back is no change: by then, the account may have failed again.
                slot.sync.last_seen = Some(account);
            }
        }
        self.apply_all_stored(store.list_accounts().await?, now);
        Ok(())
    }

    /// Resolves when there is something to write.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    fn unwritten(&self, now: Timestamp) -> Vec<(StoredAccount, u64)> {
        let inner = self.lock();
        let changed = inner.slots.iter().filter(|slot| slot.sync.has_unwritten());
        changed.map(|slot| (slot.to_stored(now), slot.sync.changes)).collect()
    }

    fn apply_all_stored(self: &Arc<Self>, stored: Vec<StoredAccount>, now: Timestamp) {
        let mut inner = self.lock();
        let mut has_changed = false;
        inner.stored = stored.iter().map(|row| (row.name.clone(), row.clone())).collect();
        for row in stored {
            let Some(slot) = inner.slots.iter_mut().find(|slot| slot.account.name == row.name) else {
                continue;
            };
            // What has changed here in the meantime is written first, and read after that.
            if slot.sync.has_unwritten() || slot.sync.last_seen.as_ref() == Some(&row) {
                continue;
            }
            let before = slot.state.readiness(now);
            slot.apply_stored(&row);
            slot.sync.last_seen = Some(row);
            let after = slot.state.readiness(now);
            if before != after {
                has_changed = true;
                log_state_change(&slot.account, after, None, Wanted::default(), now);
            }
        }
        drop(inner);
        if has_changed {
            self.dispatch();
        }
    }
}

// === impl SyncState ===

impl SyncState {
    pub fn mark_changed(&mut self) {
        self.changes += 1;
    }

    /// The row in the store is applied again, because it may be about the account's new identity.
    pub fn forgetting_last_seen(self) -> Self {
        Self { last_seen: None, ..self }
    }

    fn has_unwritten(&self) -> bool {
        self.changes > self.written
    }
}

// === impl Slot ===

impl Slot {
    fn to_stored(&self, now: Timestamp) -> StoredAccount {
        let AccountState { is_disabled, .. } = &self.state;
        let cooldown = self.state.shared_cooldown(now);
        StoredAccount {
            name: self.account.name.clone(),
            identity: self.account.identity.clone(),
            changed_at: now,
            cooling: cooldown.map(|cooldown| (cooldown.until, cooldown.reason.as_str().to_owned())),
            disabled_at: is_disabled.then_some(now),
            paused_at: None,
        }
    }

    /// A pause applies to the account whatever its identity, the rest only to the identity that it was learnt for.
    pub(super) fn apply_stored(&mut self, row: &StoredAccount) {
        self.state.is_paused = row.paused_at.is_some();
        if row.identity != self.account.identity {
            return;
        }
        let to_cooldown = |(until, reason): &(Timestamp, String)| {
            Some(Cooldown { until: *until, reason: CooldownReason::parse(reason)? })
        };
        let cooldown = row.cooling.as_ref().and_then(to_cooldown);
        self.state.apply_stored(cooldown, row.disabled_at.is_some(), row.changed_at);
    }
}
