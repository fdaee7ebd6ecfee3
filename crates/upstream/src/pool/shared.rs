//! What replicas tell each other of accounts through the store, and what a restart brings back.

use std::sync::Arc;

use antiphon_store::{Store, StoreError, StoredAccount, Timestamp};

use super::state::{AccountState, Cooling, CoolingReason};
use super::{Pool, Slot, log_change};

/// How far an account's state is known to the store.
#[derive(Debug, Default)]
pub struct Sharing {
    /// Changes that were made here.
    changes: u64,
    /// How many of them the store has.
    written: u64,
    /// As the store had it last.
    seen: Option<StoredAccount>,
}

// === impl Pool ===

impl Pool {
    /// Writes what has changed here, and takes over what has changed elsewhere: by another replica, or by an operator.
    pub async fn share(self: &Arc<Self>, store: &dyn Store) -> Result<(), StoreError> {
        let now = self.now();
        for (account, changes) in self.unwritten(now) {
            let name = account.name.clone();
            store.put_account(account).await?;
            if let Some(slot) = self.lock().slots.iter_mut().find(|slot| slot.account.name == name) {
                slot.sharing.written = changes;
            }
        }
        self.take_over(store.list_accounts().await?, now);
        Ok(())
    }

    /// Resolves when there is something to write.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    fn unwritten(&self, now: Timestamp) -> Vec<(StoredAccount, u64)> {
        let inner = self.lock();
        let changed = inner.slots.iter().filter(|slot| slot.sharing.is_ahead());
        changed.map(|slot| (slot.to_stored(now), slot.sharing.changes)).collect()
    }

    fn take_over(self: &Arc<Self>, stored: Vec<StoredAccount>, now: Timestamp) {
        let mut inner = self.lock();
        let mut is_any = false;
        for row in stored {
            let Some(slot) = inner.slots.iter_mut().find(|slot| slot.account.name == row.name) else {
                continue;
            };
            // What has changed here meanwhile is written first, and then read.
            if slot.sharing.is_ahead() || slot.sharing.seen.as_ref() == Some(&row) {
                continue;
            }
            let before = slot.state.readiness("", now);
            slot.take_over(&row);
            slot.sharing.seen = Some(row);
            let after = slot.state.readiness("", now);
            if before != after {
                is_any = true;
                log_change(&slot.account, after, None, "", now);
            }
        }
        drop(inner);
        if is_any {
            self.dispatch();
        }
    }
}

// === impl Sharing ===

impl Sharing {
    pub fn change(&mut self) {
        self.changes += 1;
    }

    /// What the store has is looked at again: it may be about the account as it is now.
    pub fn reread(self) -> Self {
        Self { seen: None, ..self }
    }

    fn is_ahead(&self) -> bool {
        self.changes > self.written
    }
}

// === impl Slot ===

impl Slot {
    fn to_stored(&self, now: Timestamp) -> StoredAccount {
        let AccountState { cooling, is_disabled, .. } = &self.state;
        StoredAccount {
            name: self.account.name.clone(),
            identity: self.account.identity.clone(),
            changed_at: now,
            cooling: cooling.map(|cooling| (cooling.until, cooling.reason.as_str().to_owned())),
            disabled_at: is_disabled.then_some(now),
            paused_at: None,
        }
    }

    /// A pause is the account's whatever its credential; the rest is about the one that it had then.
    fn take_over(&mut self, row: &StoredAccount) {
        self.state.is_paused = row.paused_at.is_some();
        if row.identity != self.account.identity {
            return;
        }
        let cooling = |(until, reason): &(Timestamp, String)| {
            Some(Cooling { until: *until, reason: CoolingReason::parse(reason)? })
        };
        self.state.put(row.cooling.as_ref().and_then(cooling), row.disabled_at.is_some());
    }
}
