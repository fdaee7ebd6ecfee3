//! Another configuration for a pool in use.

use std::sync::Arc;

use super::{Pool, Slot};
use crate::account::{Account, AccountError};
use crate::settings::{AccountSettings, RoutingSettings};

impl Pool {
    /// Takes over another configuration. Turns keep the account that they hold, even if it is removed. An account keeps its
    /// state unless its upstream or its credential has changed.
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
        inner.slots = fresh
            .into_iter()
            .map(|account| {
                let index = old.iter().position(|slot| slot.account.name == account.name);
                match index.map(|index| old.swap_remove(index)) {
                    Some(slot) if slot.account.settings == account.settings => slot,
                    Some(slot) => slot.with_account(account),
                    None => Slot::new(account),
                }
            })
            .collect();
        inner.routing = routing;
        drop(inner);
        self.dispatch();
        Ok(())
    }
}

impl Slot {
    fn with_account(self, account: Account) -> Self {
        let state = self.state.after_reconfiguration(self.account.identity == account.identity);
        Self { account: Arc::new(account), state, sync: self.sync.forgetting_last_seen(), ..self }
    }
}
