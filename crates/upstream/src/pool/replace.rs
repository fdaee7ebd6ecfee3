//! Another configuration for a pool in use.

use std::sync::Arc;

use super::{Inner, Pool, Slot};
use crate::account::{Account, AccountError};
use crate::settings::{AccountSettings, RoutingSettings};

impl Pool {
    /// Takes over another configuration. Turns keep the account that they hold, even if it is removed. An account keeps its
    /// state unless its upstream or its credential has changed. An account of the same name counts its turns in any case. One that comes
    /// back has the state that was read from the store last.
    ///
    /// # Errors
    ///
    /// [`AccountError`] if an account can't be used. Nothing is changed then.
    pub fn replace(
        self: &Arc<Self>,
        accounts: Vec<AccountSettings>,
        routing: RoutingSettings,
    ) -> Result<(), AccountError> {
        let fresh = accounts.into_iter().map(Account::new).collect::<Result<Vec<_>, _>>()?;
        let mut inner = self.lock();
        let mut old = std::mem::take(&mut inner.slots);
        let mut removed_in_flight = std::mem::take(&mut inner.removed_in_flight);
        inner.slots = fresh
            .into_iter()
            .map(|account| {
                let index = old.iter().position(|slot| slot.account.name == account.name);
                match index.map(|index| old.swap_remove(index)) {
                    Some(slot) if slot.account.settings == account.settings => slot,
                    Some(slot) => slot.with_account(account),
                    None => {
                        let mut slot = Slot::new(account);
                        slot.state.in_flight = removed_in_flight.remove(&slot.account.name).unwrap_or(0);
                        if let Some(row) = inner.stored.get(&slot.account.name) {
                            slot.apply_stored(row);
                        }
                        slot
                    }
                }
            })
            .collect();
        let busy = old.into_iter().filter(|slot| slot.state.in_flight > 0);
        removed_in_flight.extend(busy.map(|slot| (slot.account.name.clone(), slot.state.in_flight)));
        inner.removed_in_flight = removed_in_flight;
        inner.routing = routing;
        drop(inner);
        self.dispatch();
        Ok(())
    }
}

impl Inner {
    /// A turn counts for its account's name, because a change of the configuration may have replaced the account meanwhile.
    pub(super) fn end_turn(&mut self, name: &str) {
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.account.name == name) {
            slot.state.in_flight -= 1;
        } else if let Some(in_flight) = self.removed_in_flight.get_mut(name) {
            *in_flight -= 1;
            if *in_flight == 0 {
                self.removed_in_flight.remove(name);
            }
        }
    }
}

impl Slot {
    fn with_account(self, account: Account) -> Self {
        let has_same_identity = self.account.identity == account.identity;
        let state = if has_same_identity { self.state } else { self.state.after_change_of_identity() };
        Self { account: Arc::new(account), state, sync: self.sync.forgetting_last_seen(), ..self }
    }
}
