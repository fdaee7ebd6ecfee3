//! The accounts, and the choice among them.
//!
//! [`verdict`] is the failure table, [`state`] is what verdicts make of an account, [`select`] is the choice, and in [`queue`]
//! turns wait while all accounts are busy. All state is behind one lock, which is held for microseconds and never across an
//! await. What is exchanged with the store has a lock of its own.

mod failures;
mod logging;
mod metrics;
mod missing;
mod probe;
mod queue;
mod replace;
mod reset;
mod select;
mod state;
mod sync;
mod verdict;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use antiphon_protocol::request::Operation;
use antiphon_store::{Clock, StoredAccount, Timestamp};
use tokio::sync::Notify;

pub use self::select::{Origin, Preference};
pub use self::state::{AccountState, Cooldown, CooldownReason, Doubt, Readiness};
pub use self::verdict::Verdict;

use self::logging::log_state_change;
use self::queue::{Queue, Ticket};
use self::select::{Candidate, select};
use self::state::Attempt;
use self::sync::SyncState;
use crate::account::{Account, ModelList, Offer};
use crate::settings::{AccountSettings, RoutingSettings};

/// How soon a turn that waits notices that a cooldown has begun or ended meanwhile.
const RECHECK: Duration = Duration::from_secs(1);

/// All accounts of the configuration.
#[derive(Debug)]
pub struct Pool {
    inner: Mutex<Inner>,
    clock: Arc<dyn Clock>,
    /// Notified when there is a change to write to the store.
    changed: Notify,
    /// Notified when an account becomes doubted.
    doubted: Notify,
    /// Held by whoever exchanges account state with the store: an exchange that began earlier must not undo what a later one,
    /// or an operator after it, has written.
    exchanging: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Inner {
    slots: Vec<Slot>,
    /// By name: turns that hold an account which the configuration no longer has. It counts them again if it comes back.
    removed_in_flight: HashMap<String, u32>,
    /// By name: the rows of the store that were read last, also those of accounts that the configuration does not have.
    stored: HashMap<String, StoredAccount>,
    routing: RoutingSettings,
    /// The highest share that an account had when it was chosen. An account that was not ready continues from here.
    share_floor: f64,
    queue: Queue,
}

#[derive(Debug)]
struct Slot {
    account: Arc<Account>,
    state: AccountState,
    /// How many turns it has had so far, relative to its weight.
    share: f64,
    sync: SyncState,
}

/// An account that a turn uses. Dropping it releases the account.
#[derive(Debug)]
pub struct Lease {
    pool: Arc<Pool>,
    account: Arc<Account>,
}

/// What a turn requires of an account, and what it prefers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted<'a> {
    pub operation: Operation,
    pub model: &'a str,
    /// Whose turn it is; `None` if callers are not known.
    pub caller: Option<&'a str>,
    pub preference: Preference<'a>,
    /// The names of the accounts on which this turn has failed.
    pub tried: &'a [String],
    /// Whether accounts may be asked whose upstream does not list the model.
    pub may_be_unlisted: bool,
}

/// Why there is no account for a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortage {
    /// Every account that could serve it is at its `max_in_flight`.
    Busy,
    /// Every account that could serve it is cooling down.
    Cooling {
        until: Timestamp,
        /// Whether one of them cools down for a rate limit or a quota, and not all for failures.
        is_limited: bool,
    },
    /// Every account that offers the model is disabled or paused.
    Unusable,
    /// Every account that offers the model is disabled.
    Refused,
    /// No account offers the model.
    NotOffered,
    /// No account that offers the model has the endpoint.
    EndpointMissing,
}

/// An account and its state.
#[derive(Debug, Clone)]
pub struct AccountView {
    pub account: Arc<Account>,
    pub state: AccountState,
}

// === impl Pool ===

impl Pool {
    pub fn new(accounts: Vec<Account>, routing: RoutingSettings, clock: Arc<dyn Clock>) -> Self {
        let slots = accounts.into_iter().map(Slot::new).collect();
        let inner = Inner {
            slots,
            removed_in_flight: HashMap::new(),
            stored: HashMap::new(),
            routing,
            share_floor: 0.0,
            queue: Queue::default(),
        };
        Self {
            inner: Mutex::new(inner),
            clock,
            changed: Notify::new(),
            doubted: Notify::new(),
            exchanging: tokio::sync::Mutex::default(),
        }
    }

    /// An account for a turn. Turns wait while the accounts that could serve them are busy or soon ready again; projects take
    /// turns then.
    ///
    /// # Errors
    ///
    /// [`Shortage`] if there is no account, or none in time.
    pub async fn choose(self: &Arc<Self>, wanted: Wanted<'_>) -> Result<Lease, Shortage> {
        let (ticket, timeout) = {
            let mut unclaimed = Vec::new();
            let mut inner = self.lock();
            let mut picked = inner.pick_slot(wanted, self.clock.now());
            if picked.is_ok() && inner.queue.len() > 0 {
                // A cooldown may have ended for a turn that waits.
                inner.dispatch(self, usize::MAX, &mut unclaimed);
                picked = inner.pick_slot(wanted, self.clock.now());
            }
            match picked {
                Ok(index) => return Ok(inner.lease(self, index)),
                Err(shortage) if inner.is_worth_waiting_for(shortage, self.clock.now()) => {
                    let is_full = inner.queue.len() >= inner.routing.max_queued;
                    if is_full && !inner.queue.make_room(wanted.caller) {
                        return Err(shortage);
                    }
                    (inner.queue.join(self, wanted), inner.routing.queue_timeout)
                }
                Err(shortage) => return Err(shortage),
            }
        };
        // Boxed because it is rare and large: otherwise every turn's future would have room for it.
        let waiting = Box::pin(self.wait(ticket, wanted));
        match tokio::time::timeout(timeout, waiting).await {
            Ok(chosen) => chosen,
            Err(_elapsed) => {
                Err(self.lock().pick_slot(wanted, self.clock.now()).err().unwrap_or(Shortage::Busy))
            }
        }
    }

    async fn wait(self: &Arc<Self>, mut ticket: Ticket, wanted: Wanted<'_>) -> Result<Lease, Shortage> {
        loop {
            let time_until_ready = self.lock().time_until_ready(wanted, self.clock.now());
            let time = time_until_ready.unwrap_or(RECHECK).min(RECHECK);
            if let Ok(outcome) = tokio::time::timeout(time, ticket.outcome()).await {
                return outcome;
            }
            if !self.has_to_wait(wanted) {
                self.dispatch();
            }
        }
    }

    fn has_to_wait(&self, wanted: Wanted<'_>) -> bool {
        let (inner, now) = (self.lock(), self.clock.now());
        inner.pick_slot(wanted, now).is_err_and(|shortage| inner.is_worth_waiting_for(shortage, now))
    }

    /// Changes an account's state by an attempt to serve a turn.
    fn record_attempt(self: &Arc<Self>, account: &Account, verdict: &Verdict, wanted: Wanted<'_>) {
        let Wanted { operation, model, caller, .. } = wanted;
        self.change(account, wanted, |state, has_alternative, now| {
            state.record_attempt(Attempt { verdict, operation, model, caller, has_alternative }, now);
        });
    }

    /// Changes an account's state, has the change written to the store, and wakes turns that wait for the account.
    fn change(
        self: &Arc<Self>,
        account: &Account,
        wanted: Wanted<'_>,
        change: impl FnOnce(&mut AccountState, bool, Timestamp),
    ) {
        let now = self.clock.now();
        let Wanted { operation, model, .. } = wanted;
        let mut inner = self.lock();
        let Some(index) = inner.slots.iter().position(|slot| std::ptr::eq(&*slot.account, account)) else {
            return;
        };
        let has_alternative = inner.has_alternative(&inner.slots[index], wanted, now);
        let slot = &mut inner.slots[index];
        let before = (slot.state.readiness_for(operation, model, now), slot.state.doubt);
        let shareable = (slot.state.cooldown, slot.state.is_disabled);
        change(&mut slot.state, has_alternative, now);
        let after = (slot.state.readiness_for(operation, model, now), slot.state.doubt);
        if shareable != (slot.state.cooldown, slot.state.is_disabled) {
            slot.sync.mark_changed();
            self.changed.notify_one();
        }
        drop(inner);
        if before.1 != after.1 && after.1.is_some() {
            self.doubted.notify_one();
        }
        if before != after {
            log_state_change(account, after.0, after.1, wanted, now);
            // Turns that wait may get this account now, or have nothing left to wait for.
            self.dispatch();
        }
    }

    /// When the first account that could serve a turn is ready again, if all of them are cooling down.
    pub fn earliest_ready_at(&self, wanted: Wanted<'_>) -> Option<Timestamp> {
        match self.shortage(wanted) {
            Some(Shortage::Cooling { until, .. }) => Some(until),
            _ => None,
        }
    }

    /// A lease on this account, ready or not: its upstream has the turn already.
    pub fn lease_of(self: &Arc<Self>, name: &str) -> Option<Lease> {
        let mut inner = self.lock();
        let index = inner.slots.iter().position(|slot| slot.account.name == name)?;
        Some(inner.lease(self, index))
    }

    /// Why there is no account for a turn now; `None` if there is one.
    pub fn shortage(&self, wanted: Wanted<'_>) -> Option<Shortage> {
        self.lock().pick_slot(wanted, self.clock.now()).err()
    }

    /// Whether [`choose`](Self::choose) would find an account, at once or after a wait.
    pub fn has_candidate(&self, wanted: Wanted<'_>) -> bool {
        let (inner, now) = (self.lock(), self.clock.now());
        match inner.pick_slot(wanted, now) {
            Ok(_) => true,
            Err(shortage) => inner.is_worth_waiting_for(shortage, now),
        }
    }

    /// The models of all accounts that are neither disabled nor paused.
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
        // Dropped after the lock is released, because releasing a lease takes the lock.
        let mut unclaimed = Vec::new();
        self.lock().dispatch(self, usize::MAX, &mut unclaimed);
    }

    fn release(self: &Arc<Self>, account: &Account) {
        let mut unclaimed = Vec::new();
        let mut inner = self.lock();
        inner.end_turn(&account.name);
        if inner.queue.len() > 0 {
            inner.dispatch(self, 1, &mut unclaimed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Inner ===

impl Inner {
    /// Whether another account could serve the model now wherever this one does, and has not failed since it last served a
    /// turn.
    fn has_alternative(&self, failing: &Slot, wanted: Wanted<'_>, now: Timestamp) -> bool {
        let others = self.slots.iter().filter(|slot| !std::ptr::eq(*slot, failing));
        let mut offering = others.filter(|slot| slot.account.offers(wanted.model) == Offer::Yes);
        offering.any(|slot| {
            slot.readiness(wanted, now) == Readiness::Ready
                && !slot.state.has_failed()
                && slot.state.serves_wherever(&failing.state, wanted.model, now)
        })
    }

    /// The index of the slot whose account the turn gets now. What an upstream lists is no limit: if no account that lists the
    /// model can be waited for, others are asked.
    fn pick_slot(&self, wanted: Wanted<'_>, now: Timestamp) -> Result<usize, Shortage> {
        match self.pick_offering(wanted, Offer::Yes, now) {
            Err(shortage) if wanted.may_be_unlisted && shortage.is_for_good() => {
                match self.pick_offering(wanted, Offer::Unlisted, now) {
                    Err(Shortage::NotOffered) => Err(shortage),
                    picked => picked,
                }
            }
            picked => picked,
        }
    }

    fn pick_offering(&self, wanted: Wanted<'_>, offer: Offer, now: Timestamp) -> Result<usize, Shortage> {
        let mut is_offered = false;
        let mut is_busy = false;
        let mut until: Option<Timestamp> = None;
        let mut is_limited = false;
        let mut is_missing_everywhere = true;
        let mut lacks_endpoint = false;
        let mut is_refused_everywhere = true;
        let mut ready = Vec::with_capacity(self.slots.len());
        for (index, slot) in self.slots.iter().enumerate() {
            if slot.account.offers(wanted.model) != offer || wanted.tried.contains(&slot.account.name) {
                continue;
            }
            if slot.state.lacks_endpoint(wanted.operation, wanted.model, now) {
                lacks_endpoint = true;
                continue;
            }
            is_offered = true;
            let readiness = slot.readiness(wanted, now);
            is_missing_everywhere &= readiness == Readiness::ModelMissing;
            is_refused_everywhere &= readiness == Readiness::Disabled;
            match readiness {
                Readiness::Ready if slot.has_room() => ready.push(index),
                Readiness::Ready => is_busy = true,
                Readiness::Cooling(cooldown) => {
                    until = Some(until.map_or(cooldown.until, |until| until.min(cooldown.until)));
                    is_limited |= cooldown.reason != CooldownReason::Failures;
                }
                Readiness::ModelMissing | Readiness::Disabled | Readiness::Paused => {}
            }
        }
        let candidates: Vec<Candidate<'_>> =
            ready.iter().map(|index| self.slots[*index].candidate()).collect();
        match select(&candidates, wanted.preference, self.routing.strategy) {
            Some(chosen) => Ok(ready[chosen]),
            None if !is_offered && lacks_endpoint => Err(Shortage::EndpointMissing),
            None if !is_offered || is_missing_everywhere => Err(Shortage::NotOffered),
            None if is_busy => Err(Shortage::Busy),
            None if is_refused_everywhere => Err(Shortage::Refused),
            None => Err(until.map_or(Shortage::Unusable, |until| Shortage::Cooling { until, is_limited })),
        }
    }

    /// Whether a turn waits: an account is busy, or is ready again soon.
    fn is_worth_waiting_for(&self, shortage: Shortage, now: Timestamp) -> bool {
        match shortage {
            Shortage::Busy => true,
            Shortage::Cooling { until, .. } => until.since(now) <= self.routing.patience,
            _ => false,
        }
    }

    /// How long until the first account that could serve the turn has cooled down.
    fn time_until_ready(&self, wanted: Wanted<'_>, now: Timestamp) -> Option<Duration> {
        let cooldown_until = |slot: &Slot| match slot.readiness(wanted, now) {
            Readiness::Cooling(cooldown) if slot.account.offers(wanted.model) != Offer::No => {
                Some(cooldown.until)
            }
            _ => None,
        };
        let until = self.slots.iter().filter_map(cooldown_until).min()?;
        Some(until.since(now))
    }

    fn lease(&mut self, pool: &Arc<Pool>, index: usize) -> Lease {
        let slot = &mut self.slots[index];
        slot.state.in_flight += 1;
        // An account that was not ready does not catch up on the turns that the others have had.
        self.share_floor = self.share_floor.max(slot.share);
        slot.share = self.share_floor + 1.0 / f64::from(slot.account.settings.weight);
        Lease { pool: Arc::clone(pool), account: Arc::clone(&slot.account) }
    }
}

// === impl Shortage ===

impl Shortage {
    /// Whether it does not help to wait.
    fn is_for_good(self) -> bool {
        match self {
            Self::Unusable | Self::Refused | Self::NotOffered | Self::EndpointMissing => true,
            Self::Busy | Self::Cooling { .. } => false,
        }
    }
}

// === impl Slot ===

impl Slot {
    fn new(account: Account) -> Self {
        Self {
            account: Arc::new(account),
            state: AccountState::default(),
            share: 0.0,
            sync: SyncState::default(),
        }
    }

    fn readiness(&self, wanted: Wanted<'_>, now: Timestamp) -> Readiness {
        self.state.readiness_for_caller(wanted.operation, wanted.model, wanted.caller, now)
    }

    fn has_room(&self) -> bool {
        self.account.settings.max_in_flight.is_none_or(|max| self.state.in_flight < max)
    }

    fn candidate(&self) -> Candidate<'_> {
        let AccountSettings { name, priority, weight, .. } = &self.account.settings;
        Candidate {
            name,
            boundary: self.account.boundary(),
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

    /// Changes the account's state by an attempt to serve a turn.
    pub fn record_attempt(&self, verdict: &Verdict, wanted: Wanted<'_>) {
        self.pool.record_attempt(&self.account, verdict, wanted);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.pool.release(&self.account);
    }
}
