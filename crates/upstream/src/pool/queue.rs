//! Turns that wait for an account, in the order in which they came.

use tokio::sync::oneshot;

use super::{Lease, Origin, Preference, Shortage, Wanted};

/// Who waits. Those who have left are forgotten when they are met.
#[derive(Debug, Default)]
pub struct Queue {
    waiters: Vec<Waiter>,
}

#[derive(Debug)]
pub struct Waiter {
    model: String,
    project: Option<String>,
    /// The name and the boundary of the account that served the chain.
    origin: Option<(String, String)>,
    key: Option<String>,
    tried: Vec<String>,
    caller: Option<oneshot::Sender<Result<Lease, Shortage>>>,
}

/// A place in the queue; dropping it leaves.
#[derive(Debug)]
pub struct Ticket {
    call: oneshot::Receiver<Result<Lease, Shortage>>,
}

// === impl Queue ===

impl Queue {
    pub fn join(&mut self, wanted: Wanted<'_>) -> Ticket {
        let (caller, call) = oneshot::channel();
        let origin = wanted.preference.origin;
        self.waiters.push(Waiter {
            model: wanted.model.to_owned(),
            project: wanted.caller.map(str::to_owned),
            origin: origin.map(|origin| (origin.account.to_owned(), origin.boundary.to_owned())),
            key: wanted.preference.key.map(str::to_owned),
            tried: wanted.tried.to_vec(),
            caller: Some(caller),
        });
        Ticket { call }
    }

    pub fn len(&self) -> usize {
        self.waiters.len()
    }

    /// Keeps those in place for whom `waits` says so, and drops who has left.
    pub fn retain(&mut self, mut waits: impl FnMut(&mut Waiter) -> bool) {
        self.waiters.retain_mut(|waiter| !waiter.has_left() && waits(waiter));
    }
}

// === impl Waiter ===

impl Waiter {
    pub fn wanted(&self) -> Wanted<'_> {
        let origin = self.origin.as_ref().map(|(account, boundary)| Origin { account, boundary });
        let preference = Preference { origin, key: self.key.as_deref() };
        Wanted { model: &self.model, caller: self.project.as_deref(), preference, tried: &self.tried }
    }

    /// Hands the outcome over; a lease that nobody takes comes back.
    pub fn call(&mut self, outcome: Result<Lease, Shortage>) -> Option<Lease> {
        let caller = self.caller.take()?;
        caller.send(outcome).err()?.ok()
    }

    fn has_left(&self) -> bool {
        self.caller.as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}

// === impl Ticket ===

impl Ticket {
    /// May be waited for again after the wait was broken off.
    pub async fn called(&mut self) -> Result<Lease, Shortage> {
        // A queue that is gone serves nobody.
        (&mut self.call).await.unwrap_or(Err(Shortage::Unusable))
    }
}
