//! Turns that wait for an account, in the order of their arrival.

use antiphon_protocol::request::Operation;
use tokio::sync::oneshot;

use super::{Lease, Origin, Preference, Shortage, Wanted};

/// Waiters whose turn has left stay until [`retain`](Queue::retain) drops them.
#[derive(Debug, Default)]
pub struct Queue {
    waiters: Vec<Waiter>,
}

#[derive(Debug)]
pub struct Waiter {
    operation: Operation,
    model: String,
    caller: Option<String>,
    /// The name and the boundary of the account that served the chain.
    origin: Option<(String, String)>,
    key: Option<String>,
    tried: Vec<String>,
    may_be_unlisted: bool,
    sender: Option<oneshot::Sender<Result<Lease, Shortage>>>,
}

/// A turn's place in the queue. Dropping it leaves the queue.
#[derive(Debug)]
pub struct Ticket {
    receiver: oneshot::Receiver<Result<Lease, Shortage>>,
}

// === impl Queue ===

impl Queue {
    pub fn join(&mut self, wanted: Wanted<'_>) -> Ticket {
        let (sender, receiver) = oneshot::channel();
        let origin = wanted.preference.origin;
        self.waiters.push(Waiter {
            operation: wanted.operation,
            model: wanted.model.to_owned(),
            caller: wanted.caller.map(str::to_owned),
            origin: origin.map(|origin| (origin.account.to_owned(), origin.boundary.to_owned())),
            key: wanted.preference.key.map(str::to_owned),
            tried: wanted.tried.to_vec(),
            may_be_unlisted: wanted.may_be_unlisted,
            sender: Some(sender),
        });
        Ticket { receiver }
    }

    pub fn len(&self) -> usize {
        self.waiters.len()
    }

    /// Keeps the waiters for which `keep` returns `true`, and drops those whose turn has left.
    pub fn retain(&mut self, mut keep: impl FnMut(&mut Waiter) -> bool) {
        self.waiters.retain_mut(|waiter| !waiter.is_abandoned() && keep(waiter));
    }
}

// === impl Waiter ===

impl Waiter {
    pub fn wanted(&self) -> Wanted<'_> {
        let origin = self.origin.as_ref().map(|(account, boundary)| Origin { account, boundary });
        let preference = Preference { origin, key: self.key.as_deref() };
        let (operation, caller) = (self.operation, self.caller.as_deref());
        let Self { model, tried, may_be_unlisted, .. } = self;
        Wanted { operation, model, caller, preference, tried, may_be_unlisted: *may_be_unlisted }
    }

    /// Ends the wait. Returns the lease if the turn has left.
    pub fn resolve(&mut self, outcome: Result<Lease, Shortage>) -> Option<Lease> {
        let sender = self.sender.take()?;
        sender.send(outcome).err()?.ok()
    }

    fn is_abandoned(&self) -> bool {
        self.sender.as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}

// === impl Ticket ===

impl Ticket {
    /// Cancel safe: can be called again after the future was dropped.
    pub async fn outcome(&mut self) -> Result<Lease, Shortage> {
        // The sender is dropped only with the pool.
        (&mut self.receiver).await.unwrap_or(Err(Shortage::Unusable))
    }
}
