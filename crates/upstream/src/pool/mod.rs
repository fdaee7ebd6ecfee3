//! The accounts, and the choice among them.
//!
//! [`verdict`] is the failure table, [`state`] what an account makes of it, [`select`] the choice, [`queue`] where turns
//! wait when every account has as many as it may. All state is behind one lock that is held for microseconds and never
//! across an await.

mod failures;
mod metrics;
mod queue;
pub mod reset;
mod select;
mod shared;
mod state;
mod verdict;

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use antiphon_store::{Clock, Timestamp};
use futures_util::future::join_all;
use tokio::sync::Notify;

pub use self::select::{Origin, Preference};
pub use self::state::{AccountState, Cooling, CoolingReason, Doubt, Readiness};
pub use self::verdict::Verdict;

use self::queue::{Queue, Ticket};
use self::select::{Candidate, select};
use self::shared::Sharing;
use self::state::Lesson;
use crate::account::{Account, AccountError, ModelList};
use crate::settings::{AccountSettings, RoutingSettings};
use crate::transport::{CatalogError, Upstream};

/// All accounts of the configuration.
#[derive(Debug)]
pub struct Pool {
    inner: Mutex<Inner>,
    clock: Arc<dyn Clock>,
    /// Told when the store is to hear of a change.
    changed: Notify,
    /// Told when an account has become doubted.
    doubted: Notify,
}

#[derive(Debug)]
struct Inner {
    slots: Vec<Slot>,
    routing: RoutingSettings,
    /// The share of the account that was chosen last, before it was.
    level: f64,
    queue: Queue,
}

#[derive(Debug)]
struct Slot {
    account: Arc<Account>,
    state: AccountState,
    /// How much it has been given so far, for its weight.
    share: f64,
    sharing: Sharing,
}

/// An account that a turn uses; dropping it gives it back.
#[derive(Debug)]
pub struct Lease {
    pool: Arc<Pool>,
    account: Arc<Account>,
}

/// What a turn needs of an account, and what it would like.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted<'a> {
    pub model: &'a str,
    /// Whose turn it is; `None` if callers are not told apart.
    pub caller: Option<&'a str>,
    pub preference: Preference<'a>,
    /// The names of accounts that have failed this turn.
    pub tried: &'a [String],
}

/// Why there is no account for a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortage {
    /// Every account that could serve it has as many turns as it may.
    Busy,
    /// Every account that could serve it is cooling down.
    Cooling {
        until: Timestamp,
        /// Whether one of them is for a rate limit or a quota, and not all for failures.
        is_limited: bool,
    },
    /// Whoever offers the model is disabled or paused.
    Unusable,
    NotOffered,
}

/// An account and how it does.
#[derive(Debug, Clone)]
pub struct AccountView {
    pub account: Arc<Account>,
    pub state: AccountState,
}

// === impl Pool ===

impl Pool {
    pub fn new(accounts: Vec<Account>, routing: RoutingSettings, clock: Arc<dyn Clock>) -> Self {
        let slots = accounts.into_iter().map(Slot::new).collect();
        let inner = Inner { slots, routing, level: 0.0, queue: Queue::default() };
        Self { inner: Mutex::new(inner), clock, changed: Notify::new(), doubted: Notify::new() }
    }

    /// Takes over another configuration. Turns that hold an account keep it to their end, whether or not it is still
    /// there. An account stays as it is unless its upstream or its credential has changed; then it starts afresh.
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
                let place = old.iter().position(|slot| slot.account.name == account.name);
                match place.map(|place| old.swap_remove(place)) {
                    Some(slot) if slot.account.settings == account.settings => slot,
                    Some(slot) => slot.replaced_by(account),
                    None => Slot::new(account),
                }
            })
            .collect();
        inner.routing = routing;
        drop(inner);
        self.dispatch();
        Ok(())
    }

    /// An account for a turn. Waits, first come first served, while all that could serve it are busy or soon back.
    pub async fn choose(self: &Arc<Self>, wanted: Wanted<'_>) -> Result<Lease, Shortage> {
        let (ticket, timeout) = {
            let mut undelivered = Vec::new();
            let mut inner = self.lock();
            if inner.queue.len() > 0 {
                // Somebody who waits may want what has become ready by itself.
                inner.dispatch(self, &mut undelivered);
            }
            match inner.pick(wanted, self.clock.now()) {
                Ok(place) => return Ok(inner.lease(self, place)),
                Err(shortage) if inner.queue.len() >= inner.routing.max_queued => return Err(shortage),
                Err(Shortage::Busy) => (inner.queue.join(wanted), inner.routing.queue_timeout),
                Err(shortage) if inner.is_short(shortage, self.clock.now()) => {
                    (inner.queue.join(wanted), inner.routing.queue_timeout)
                }
                Err(shortage) => return Err(shortage),
            }
        };
        // Boxed, as it is rare and large: every turn would carry its place.
        let waiting = Box::pin(self.wait(ticket, wanted));
        match tokio::time::timeout(timeout, waiting).await {
            Ok(chosen) => chosen,
            Err(_elapsed) => Err(self.lock().pick(wanted, self.clock.now()).err().unwrap_or(Shortage::Busy)),
        }
    }

    async fn wait(self: &Arc<Self>, mut ticket: Ticket, wanted: Wanted<'_>) -> Result<Lease, Shortage> {
        loop {
            let next_ready = self.lock().next_ready(wanted, self.clock.now());
            let Some(next_ready) = next_ready else { return ticket.called().await };
            match tokio::time::timeout(next_ready, ticket.called()).await {
                Ok(called) => return called,
                Err(_elapsed) => self.dispatch(),
            }
        }
    }

    /// Lets an account learn from an attempt to serve a turn of `caller`.
    fn learn(self: &Arc<Self>, account: &Account, verdict: &Verdict, model: &str, caller: Option<&str>) {
        self.change(account, model, caller, |state, has_alternative, now| {
            state.learn(Lesson { verdict, model, caller, has_alternative }, now);
        });
    }

    /// Changes an account's state, has the store and other replicas hear of it, and wakes turns that wait for it.
    fn change(
        self: &Arc<Self>,
        account: &Account,
        model: &str,
        caller: Option<&str>,
        change: impl FnOnce(&mut AccountState, bool, Timestamp),
    ) {
        let now = self.clock.now();
        let mut inner = self.lock();
        let has_alternative = inner.has_alternative(account, model, caller, now);
        let Some(slot) = inner.slots.iter_mut().find(|slot| std::ptr::eq(&*slot.account, account)) else {
            return;
        };
        let before = (slot.state.readiness(model, now), slot.state.doubt);
        let shareable = (slot.state.cooling, slot.state.is_disabled);
        change(&mut slot.state, has_alternative, now);
        let after = (slot.state.readiness(model, now), slot.state.doubt);
        if shareable != (slot.state.cooling, slot.state.is_disabled) {
            slot.sharing.change();
            self.changed.notify_one();
        }
        drop(inner);
        if before.1 != after.1 && after.1.is_some() {
            self.doubted.notify_one();
        }
        if before != after {
            log_change(account, after.0, after.1, model, now);
            // Who waits for this account may have to be told otherwise.
            self.dispatch();
        }
    }

    /// Asks the accounts that are cooling down after failures for their models, and has those back that answer.
    pub async fn probe(self: &Arc<Self>, upstream: &Upstream) {
        let now = self.now();
        let is_failing = |view: &AccountView| {
            let cooling = view.state.cooling.filter(|cooling| cooling.until > now);
            cooling.is_some_and(|cooling| cooling.reason == CoolingReason::Failures)
        };
        let failing = self.view().into_iter().filter(is_failing).map(|view| view.account);
        let probes = failing.map(async |account| match upstream.list_models(&account).await {
            Ok(_) => self.change(&account, "", None, |state, _, _| {
                if state.revive() {
                    tracing::info!(account.id = %account.name, "the account answers again");
                }
            }),
            Err(error) => {
                tracing::debug!(account.id = %account.name, %error, "the account does not answer yet");
            }
        });
        join_all(probes).await;
    }

    /// Asks the upstreams of doubted accounts for their models, with the account's own credential and nothing of a client's.
    /// Only what they answer to that disables an account, or makes one cool down that has failed a single caller.
    pub async fn verify(self: &Arc<Self>, upstream: &Upstream) {
        let doubted = self.view().into_iter().filter_map(|view| Some((view.account, view.state.doubt?)));
        let verifications = doubted.map(async |(account, doubt)| {
            let answer = upstream.list_models(&account).await;
            let is_refused = answer.as_ref().is_err_and(CatalogError::is_credential_refused);
            // A server without a list of models says nothing of its credential.
            let is_served = match &answer {
                Ok(_) => true,
                Err(CatalogError::Status(status)) => doubt == Doubt::Failures && *status < 500,
                Err(_) => false,
            };
            self.change(&account, "", None, |state, has_alternative, now| match state.doubt {
                Some(_) if is_refused => {
                    let verdict = &Verdict::CredentialInvalid;
                    state.learn(Lesson { verdict, model: "", caller: None, has_alternative }, now);
                }
                Some(_) if is_served => state.clear_doubt(),
                Some(Doubt::Failures) => state.confirm_failures(has_alternative, now),
                Some(Doubt::Credential) | None => {}
            });
        });
        join_all(verifications).await;
    }

    /// Resolves when an account has become doubted.
    pub async fn doubted(&self) {
        self.doubted.notified().await;
    }

    /// How often to [`probe`](Self::probe), if at all.
    pub fn probe_interval(&self) -> Option<Duration> {
        self.lock().routing.probe_interval
    }

    /// When the first of the accounts is back that offer the model, if all of them are cooling.
    pub fn earliest_return(&self, model: &str, caller: Option<&str>) -> Option<Timestamp> {
        match self.lock().pick(Wanted { model, caller, ..Wanted::default() }, self.clock.now()) {
            Err(Shortage::Cooling { until, .. }) => Some(until),
            _ => None,
        }
    }

    /// Whether there is an account for this, now or after a wait that [`choose`](Self::choose) would take.
    pub fn has_any(&self, wanted: Wanted<'_>) -> bool {
        let (inner, now) = (self.lock(), self.clock.now());
        match inner.pick(wanted, now) {
            Ok(_) | Err(Shortage::Busy) => true,
            Err(shortage) => inner.is_short(shortage, now),
        }
    }

    /// Asks the upstreams for their models where the list is not recent.
    pub async fn refresh_catalogs(&self, upstream: &Upstream, now: Timestamp) {
        let accounts = self.accounts();
        join_all(accounts.iter().map(|account| upstream.refresh_catalog(account, now))).await;
    }

    /// Every model that some account offers which is neither disabled nor paused.
    pub fn models(&self) -> ModelList {
        let usable = self.view().into_iter().filter(|view| !view.state.is_disabled && !view.state.is_paused);
        ModelList::merge(usable.flat_map(|view| view.account.models()))
    }

    pub fn accounts(&self) -> Vec<Arc<Account>> {
        self.lock().slots.iter().map(|slot| Arc::clone(&slot.account)).collect()
    }

    /// The accounts as they are now, in the order of the configuration.
    pub fn view(&self) -> Vec<AccountView> {
        let view =
            |slot: &Slot| AccountView { account: Arc::clone(&slot.account), state: slot.state.clone() };
        self.lock().slots.iter().map(view).collect()
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Turns that wait for an account.
    pub fn queued(&self) -> usize {
        self.lock().queue.len()
    }

    fn dispatch(self: &Arc<Self>) {
        // Dropped after the lock is released: giving a lease back takes it again.
        let mut undelivered = Vec::new();
        self.lock().dispatch(self, &mut undelivered);
    }

    fn release(self: &Arc<Self>, account: &Arc<Account>) {
        let mut inner = self.lock();
        if let Some(slot) = inner.slots.iter_mut().find(|slot| Arc::ptr_eq(&slot.account, account)) {
            slot.state.in_flight -= 1;
        }
        if inner.queue.len() > 0 {
            drop(inner);
            self.dispatch();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Inner ===

impl Inner {
    /// Gives accounts to those who wait, in their order. Whoever can't be served at all any more is told so.
    fn dispatch(&mut self, pool: &Arc<Pool>, undelivered: &mut Vec<Lease>) {
        let now = pool.clock.now();
        let mut waiting = std::mem::take(&mut self.queue);
        waiting.retain(|waiter| {
            let called = match self.pick(waiter.wanted(), now) {
                Err(Shortage::Busy) => return true,
                Err(shortage) if self.is_short(shortage, now) => return true,
                Ok(place) => Ok(self.lease(pool, place)),
                Err(shortage) => Err(shortage),
            };
            undelivered.extend(waiter.call(called));
            false
        });
        self.queue = waiting;
    }

    /// Whether an account other than this one could serve the model now.
    fn has_alternative(&self, account: &Account, model: &str, caller: Option<&str>, now: Timestamp) -> bool {
        let others = self.slots.iter().filter(|slot| !std::ptr::eq(&*slot.account, account));
        let mut offering = others.filter(|slot| slot.account.offers(model));
        offering.any(|slot| slot.state.readiness_for(model, caller, now) == Readiness::Ready)
    }

    /// The place of an account that can be leased now.
    fn pick(&self, wanted: Wanted<'_>, now: Timestamp) -> Result<usize, Shortage> {
        let mut is_offered = false;
        let mut is_busy = false;
        let mut until: Option<Timestamp> = None;
        let mut is_limited = false;
        let mut is_missing = true;
        let mut places = Vec::with_capacity(self.slots.len());
        for (place, slot) in self.slots.iter().enumerate() {
            if !slot.account.offers(wanted.model) || wanted.tried.contains(&slot.account.name) {
                continue;
            }
            is_offered = true;
            let readiness = slot.state.readiness_for(wanted.model, wanted.caller, now);
            is_missing &= readiness == Readiness::ModelMissing;
            match readiness {
                Readiness::Ready if slot.has_room() => places.push(place),
                Readiness::Ready => is_busy = true,
                Readiness::Cooling(cooling) => {
                    until = Some(until.map_or(cooling.until, |until| until.min(cooling.until)));
                    is_limited |= cooling.reason != CoolingReason::Failures;
                }
                Readiness::ModelMissing | Readiness::Disabled | Readiness::Paused => {}
            }
        }
        let candidates: Vec<Candidate<'_>> =
            places.iter().map(|place| self.slots[*place].candidate()).collect();
        match select(&candidates, wanted.preference, self.routing.strategy) {
            Some(chosen) => Ok(places[chosen]),
            None if !is_offered || is_missing => Err(Shortage::NotOffered),
            None if is_busy => Err(Shortage::Busy),
            None => Err(until.map_or(Shortage::Unusable, |until| Shortage::Cooling { until, is_limited })),
        }
    }

    /// Whether an account is back so soon that a turn waits for it.
    fn is_short(&self, shortage: Shortage, now: Timestamp) -> bool {
        matches!(shortage, Shortage::Cooling { until, .. } if until.since(now) <= self.routing.patience)
    }

    /// How long it takes until an account is back that might serve a turn which waits.
    fn next_ready(&self, wanted: Wanted<'_>, now: Timestamp) -> Option<Duration> {
        let cooling = |slot: &Slot| match slot.state.readiness_for(wanted.model, wanted.caller, now) {
            Readiness::Cooling(cooling) if slot.account.offers(wanted.model) => Some(cooling.until),
            _ => None,
        };
        let until = self.slots.iter().filter_map(cooling).min()?;
        Some(until.since(now))
    }

    fn lease(&mut self, pool: &Arc<Pool>, place: usize) -> Lease {
        let slot = &mut self.slots[place];
        slot.state.in_flight += 1;
        // Who has been away does not catch up on what the others got meanwhile.
        self.level = self.level.max(slot.share);
        slot.share = self.level + 1.0 / f64::from(slot.account.settings.weight);
        Lease { pool: Arc::clone(pool), account: Arc::clone(&slot.account) }
    }
}

// === impl Slot ===

impl Slot {
    fn new(account: Account) -> Self {
        Self {
            account: Arc::new(account),
            state: AccountState::default(),
            share: 0.0,
            sharing: Sharing::default(),
        }
    }

    /// Turns in flight are counted with the account that they hold.
    fn replaced_by(self, account: Account) -> Self {
        let state = self.state.carried_over(self.account.identity == account.identity);
        Self { account: Arc::new(account), state, sharing: self.sharing.reread(), ..self }
    }

    fn has_room(&self) -> bool {
        self.account.settings.max_in_flight.is_none_or(|max| self.state.in_flight < max)
    }

    fn candidate(&self) -> Candidate<'_> {
        let AccountSettings { name, boundary, priority, weight, .. } = &self.account.settings;
        Candidate {
            name,
            boundary,
            priority: *priority,
            weight: *weight,
            in_flight: self.state.in_flight,
            is_doubted: self.state.doubt.is_some(),
            share: self.share,
        }
    }
}

// === impl Lease ===

impl Lease {
    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// Lets the account learn from an attempt to serve a turn of `caller`.
    pub fn learn(&self, verdict: &Verdict, model: &str, caller: Option<&str>) {
        self.pool.learn(&self.account, verdict, model, caller);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.pool.release(&self.account);
    }
}

fn log_change(account: &Account, readiness: Readiness, doubt: Option<Doubt>, model: &str, now: Timestamp) {
    let account = account.name.as_str();
    match doubt {
        Some(Doubt::Credential) => {
            tracing::warn!(
                account.id = account,
                "the upstream refused the account's credential; verifying it"
            );
        }
        Some(Doubt::Failures) => {
            tracing::warn!(account.id = account, "the account fails one caller's turns; verifying it");
        }
        None => {}
    }
    match readiness {
        Readiness::Cooling(Cooling { until, reason }) => tracing::warn!(
            account.id = account,
            cooling.reason = reason.as_str(),
            cooling.ms = u64::try_from(until.since(now).as_millis()).unwrap_or(u64::MAX),
            "the account is left alone"
        ),
        Readiness::ModelMissing => {
            tracing::warn!(account.id = account, model, "the account does not have the model");
        }
        Readiness::Disabled => {
            tracing::error!(
                account.id = account,
                "the upstream refuses the account's credential: it is disabled"
            );
        }
        Readiness::Ready | Readiness::Paused => {}
    }
}
