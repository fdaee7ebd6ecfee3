//! Permits that owners share fairly: the next one goes to an owner that holds fewest, and of those to the one that has waited
//! longest since it got one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// The permits, and who waits for one.
#[derive(Debug)]
pub struct FairSemaphore<K: Owner> {
    state: Mutex<State<K>>,
    /// How many an owner may hold.
    share: usize,
}

/// What names an owner.
pub trait Owner: Clone + Ord + Hash {}

impl<K: Clone + Ord + Hash> Owner for K {}

/// Dropping it gives it to the next.
#[derive(Debug)]
pub struct FairPermit<K: Owner> {
    semaphore: Arc<FairSemaphore<K>>,
    owner: K,
}

#[derive(Debug)]
struct State<K: Owner> {
    free: usize,
    /// Those that hold permits or wait.
    owners: HashMap<K, Holdings<K>>,
    /// The owners that wait, the next one first.
    line: BTreeSet<(Rank, K)>,
    /// Counts what has happened.
    tick: u64,
}

#[derive(Debug)]
struct Holdings<K: Owner> {
    rank: Rank,
    /// Those of the owner that wait, in their order.
    waiting: BTreeMap<u64, oneshot::Sender<FairPermit<K>>>,
}

/// Lower is next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    held: usize,
    /// When it last got a permit, or came.
    since: u64,
}

/// Leaves the line on drop.
struct InLine<'a, K: Owner> {
    semaphore: &'a FairSemaphore<K>,
    owner: &'a K,
    ticket: u64,
}

// === impl FairSemaphore ===

impl<K: Owner> FairSemaphore<K> {
    /// `share` is how many of the permits an owner may hold; at least one.
    pub fn new(permits: usize, share: usize) -> Self {
        let state = State { free: permits, owners: HashMap::new(), line: BTreeSet::new(), tick: 0 };
        Self { state: Mutex::new(state), share: share.max(1) }
    }

    /// Waits for a permit.
    pub async fn acquire(self: &Arc<Self>, owner: &K) -> FairPermit<K> {
        if let Some(permit) = self.try_acquire(owner) {
            return permit;
        }
        let (sender, permit) = oneshot::channel();
        let ticket = self.state().join_line(owner, sender);
        let _in_line = InLine { semaphore: self, owner, ticket };
        self.hand_out();
        match permit.await {
            Ok(permit) => permit,
            // Only this takes it out of the line without a permit.
            Err(_) => std::future::pending().await,
        }
    }

    /// A permit, if this owner need not wait for it.
    pub fn try_acquire(self: &Arc<Self>, owner: &K) -> Option<FairPermit<K>> {
        let mut state = self.state();
        let held = state.owners.get(owner).map_or(0, |holdings| holdings.rank.held);
        if state.free == 0 || held >= self.share {
            return None;
        }
        state.free -= 1;
        state.change(owner, |holdings, tick| holdings.rank = holdings.rank.with_one_more(tick));
        Some(self.permit(owner))
    }

    /// How many permits nobody holds.
    pub fn free(&self) -> usize {
        self.state().free
    }

    fn hand_out(self: &Arc<Self>) {
        let mut served = Vec::new();
        let mut state = self.state();
        while let Some((owner, sender)) = state.next(self.share) {
            served.push((sender, self.permit(&owner)));
        }
        drop(state);
        for (sender, permit) in served {
            // The permit of one that has gone is handed out again.
            sender.send(permit).ok();
        }
    }

    fn permit(self: &Arc<Self>, owner: &K) -> FairPermit<K> {
        FairPermit { semaphore: Arc::clone(self), owner: owner.clone() }
    }

    fn state(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl<K: Owner> State<K> {
    fn join_line(&mut self, owner: &K, sender: oneshot::Sender<FairPermit<K>>) -> u64 {
        let mut ticket = 0;
        self.change(owner, |holdings, tick| {
            ticket = tick;
            holdings.waiting.insert(tick, sender);
        });
        ticket
    }

    /// Takes the next one out of the line, if there is a permit for it.
    fn next(&mut self, share: usize) -> Option<(K, oneshot::Sender<FairPermit<K>>)> {
        // All others in the line hold as many, or more.
        let (_, owner) = self.line.first().filter(|(rank, _)| self.free > 0 && rank.held < share)?.clone();
        let mut next = None;
        self.change(&owner, |holdings, tick| {
            next = holdings.waiting.pop_first();
            holdings.rank = holdings.rank.with_one_more(tick);
        });
        self.free -= 1;
        next.map(|(_, sender)| (owner, sender))
    }

    /// Changes what an owner has, and with it its position in the line.
    fn change(&mut self, owner: &K, change: impl FnOnce(&mut Holdings<K>, u64)) {
        self.tick += 1;
        let rank = Rank { held: 0, since: self.tick };
        let holdings =
            self.owners.entry(owner.clone()).or_insert_with(|| Holdings { rank, waiting: BTreeMap::new() });
        self.line.remove(&(holdings.rank, owner.clone()));
        change(holdings, self.tick);
        if !holdings.waiting.is_empty() {
            self.line.insert((holdings.rank, owner.clone()));
        } else if holdings.rank.held == 0 {
            self.owners.remove(owner);
        }
    }
}

// === impl Rank ===

impl Rank {
    fn with_one_more(self, since: u64) -> Self {
        Self { held: self.held + 1, since }
    }
}

// === impl InLine ===

impl<K: Owner> Drop for InLine<'_, K> {
    fn drop(&mut self) {
        let mut state = self.semaphore.state();
        if state.owners.get(self.owner).is_some_and(|holdings| holdings.waiting.contains_key(&self.ticket)) {
            state.change(self.owner, |holdings, _| drop(holdings.waiting.remove(&self.ticket)));
        }
    }
}

// === impl FairPermit ===

impl<K: Owner> Drop for FairPermit<K> {
    fn drop(&mut self) {
        let mut state = self.semaphore.state();
        state.free += 1;
        state.change(&self.owner, |holdings, _| {
            holdings.rank.held = holdings.rank.held.saturating_sub(1);
        });
        drop(state);
        self.semaphore.hand_out();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn now<F: Future>(future: Pin<&mut F>) -> Option<F::Output> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    /// The owners of those that wait, in the order in which they get the only permit.
    fn order<'a>(owners: &[&'a str]) -> Vec<&'a str> {
        let semaphore = Arc::new(FairSemaphore::new(1, 1));
        let first = semaphore.try_acquire(&"first");
        let mut waiting: Vec<_> =
            owners.iter().map(|owner| (*owner, Box::pin(semaphore.acquire(owner)))).collect();
        assert!(waiting.iter_mut().all(|(_, permit)| now(permit.as_mut()).is_none()));
        drop(first);
        let mut order = Vec::new();
        while !waiting.is_empty() {
            let served = waiting.iter_mut().position(|(owner, waiting)| {
                let permit = now(waiting.as_mut());
                order.extend(permit.is_some().then_some(*owner));
                permit.is_some()
            });
            drop(waiting.remove(served.expect("one has got the permit")));
        }
        order
    }

    #[test]
    fn owners_take_turns_however_many_of_them_wait() {
        let mut waiting = vec!["a"; 50];
        waiting.extend(["b", "b", "c"]);
        let order = order(&waiting);
        assert_eq!(order[..6], ["a", "b", "c", "a", "b", "a"]);
        assert_eq!(order.len(), 53);
    }

    #[test]
    fn an_owner_that_holds_fewer_is_next() {
        let semaphore = Arc::new(FairSemaphore::new(3, 3));
        let mut held: Vec<_> = ["a", "a", "b"].iter().map(|owner| semaphore.try_acquire(owner)).collect();
        assert!(semaphore.try_acquire(&"c").is_none());
        let mut waiting =
            ["a", "b", "c"].each_ref().map(|owner| (*owner, Box::pin(semaphore.acquire(owner))));
        assert!(waiting.iter_mut().all(|(_, permit)| now(permit.as_mut()).is_none()));
        let mut order = Vec::new();
        for _ in 0..2 {
            // One of `a`.
            drop(held.remove(0));
            for (owner, permit) in &mut waiting {
                if !order.contains(owner)
                    && let Some(permit) = now(permit.as_mut())
                {
                    order.push(*owner);
                    held.push(Some(permit));
                }
            }
        }
        // `c` has none, then `a` has none, and `b` has one.
        assert_eq!(order, ["c", "a"]);
    }

    #[test]
    fn one_that_goes_leaves_the_line_and_gives_its_permit_back() {
        let semaphore = Arc::new(FairSemaphore::new(1, 1));
        let permit = semaphore.try_acquire(&"a");
        let mut leaves = Box::pin(semaphore.acquire(&"a"));
        assert!(now(leaves.as_mut()).is_none());
        drop(leaves);
        let mut served = Box::pin(semaphore.acquire(&"b"));
        assert!(now(served.as_mut()).is_none());
        drop(permit);
        // It has got the permit, but does not know it.
        drop(served);
        assert!(semaphore.try_acquire(&"b").is_some());
        let state = semaphore.state();
        assert!(state.owners.is_empty() && state.line.is_empty() && state.free == 1);
    }

    #[test]
    fn an_owner_leaves_what_exceeds_its_share_to_others() {
        let semaphore = Arc::new(FairSemaphore::new(3, 2));
        let held = semaphore.try_acquire(&"a");
        let _held = semaphore.try_acquire(&"a");
        let mut third = pin!(semaphore.acquire(&"a"));
        assert!(now(third.as_mut()).is_none());
        drop(semaphore.try_acquire(&"b").expect("it is left to others"));
        assert!(now(third.as_mut()).is_none());
        drop(held);
        assert!(now(third.as_mut()).is_some());
    }
}
