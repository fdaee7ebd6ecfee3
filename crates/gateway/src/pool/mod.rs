//! The accounts, and the choice among them.

mod account;
mod catalog;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use antiphon_store::Timestamp;
use futures_util::future::join_all;

pub use self::account::{Account, AccountError};
pub use self::catalog::{Model, ModelList};

use crate::upstream::Upstream;

/// All accounts of the configuration.
#[derive(Debug)]
pub struct Pool {
    accounts: Vec<Arc<Account>>,
    /// Counts choices, so that accounts take turns.
    turn: AtomicUsize,
}

/// An account that a turn uses; dropping it gives it back.
#[derive(Debug)]
pub struct Lease {
    account: Arc<Account>,
}

// === impl Pool ===

impl Pool {
    pub fn new(accounts: Vec<Account>) -> Self {
        Self { accounts: accounts.into_iter().map(Arc::new).collect(), turn: AtomicUsize::new(0) }
    }

    /// The preferred account if it offers the model, else the next in turn of those that do.
    pub fn choose(&self, model: &str, preferred: Option<&str>) -> Option<Lease> {
        let offers = |account: &&Arc<Account>| account.offers(model);
        let preferred = preferred.and_then(|name| self.accounts.iter().find(|account| account.name == name));
        let account = preferred.filter(offers).or_else(|| {
            let candidates: Vec<_> = self.accounts.iter().filter(offers).collect();
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            candidates.get(turn.checked_rem(candidates.len())?).copied()
        })?;
        Some(Lease::take(account))
    }

    /// Asks the upstreams for their models where the list is not recent.
    pub async fn refresh_catalogs(&self, upstream: &Upstream, now: Timestamp) {
        join_all(self.accounts.iter().map(|account| account.refresh_catalog(upstream, now))).await;
    }

    /// Every model that some account offers.
    pub fn models(&self) -> ModelList {
        ModelList::merge(self.accounts.iter().flat_map(|account| account.models()))
    }

    pub fn accounts(&self) -> &[Arc<Account>] {
        &self.accounts
    }
}

// === impl Lease ===

impl Lease {
    fn take(account: &Arc<Account>) -> Self {
        account.in_flight.fetch_add(1, Ordering::Relaxed);
        Self { account: Arc::clone(account) }
    }

    pub fn account(&self) -> &Account {
        &self.account
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.account.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
