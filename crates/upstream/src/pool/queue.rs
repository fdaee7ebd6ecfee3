//! Turns that wait for an account. Projects take turns, whatever they have waiting; the turns of a project are served in the order
//! of their arrival.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque, btree_map, btree_set};
use std::sync::Arc;

use antiphon_protocol::request::Operation;
use tokio::sync::oneshot;

use super::{Inner, Lease, Origin, Pool, Preference, Shortage, Wanted};

/// Whose turns wait: a project's, or those of all callers if callers are not known.
type Caller = Option<Arc<str>>;

#[derive(Debug, Default)]
pub struct Queue {
    lines: HashMap<Caller, Line>,
    /// Whose lines there are, the next one first.
    order: BTreeSet<(u64, Caller)>,
    /// Whose lines there are, the longest one last.
    lengths: BTreeSet<(usize, Caller)>,
    len: usize,
    /// Counts what has happened.
    tick: u64,
}

/// The turns of one caller, of which at least one waits.
#[derive(Debug)]
struct Line {
    /// When it was last served, or came.
    since: u64,
    waiters: BTreeMap<u64, Waiter>,
}

#[derive(Debug)]
struct Waiter {
    needs: Needs,
    /// The name and the boundary of the account that served the chain.
    origin: Option<(String, String)>,
    key: Option<String>,
    sender: oneshot::Sender<Result<Lease, Shortage>>,
}

/// Turns that need the same wait for the same.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Needs {
    operation: Operation,
    model: String,
    caller: Caller,
    tried: Vec<String>,
    may_be_unlisted: bool,
}

#[derive(Debug, Clone)]
struct Position {
    caller: Caller,
    number: u64,
}

/// A turn's position in the queue. Dropping it leaves the queue.
#[derive(Debug)]
pub struct Ticket {
    pool: Arc<Pool>,
    position: Position,
    receiver: oneshot::Receiver<Result<Lease, Shortage>>,
}

/// All that wait: the first of each line, then the second of each, and so on.
struct InOrder<'a> {
    queue: &'a Queue,
    next: btree_set::Iter<'a, (u64, Caller)>,
    begun: VecDeque<(&'a Caller, btree_map::Iter<'a, u64, Waiter>)>,
}

// === impl Queue ===

impl Queue {
    pub fn join(&mut self, pool: &Arc<Pool>, wanted: Wanted<'_>) -> Ticket {
        let (sender, receiver) = oneshot::channel();
        let caller: Caller = wanted.caller.map(Arc::from);
        let origin = wanted.preference.origin;
        let waiter = Waiter {
            needs: Needs {
                operation: wanted.operation,
                model: wanted.model.to_owned(),
                caller: caller.clone(),
                tried: wanted.tried.to_vec(),
                may_be_unlisted: wanted.may_be_unlisted,
            },
            origin: origin.map(|origin| (origin.account.to_owned(), origin.boundary.to_owned())),
            key: wanted.preference.key.map(str::to_owned),
            sender,
        };
        let number = self.change(&caller, |line, tick| {
            line.waiters.insert(tick, waiter);
            tick
        });
        Ticket { pool: Arc::clone(pool), position: Position { caller, number }, receiver }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Has the longest line give up its last place for a turn of this caller, unless its own line would then be as long.
    pub fn make_room(&mut self, caller: Option<&str>) -> bool {
        let own = self.lines.get(&caller.map(Arc::from)).map_or(0, |line| line.waiters.len());
        let Some((length, longest)) = self.lengths.last().cloned() else { return false };
        if length <= own + 1 {
            return false;
        }
        let last = self.change(&longest, |line, _| line.waiters.pop_last());
        if let Some((_, waiter)) = last {
            waiter.sender.send(Err(Shortage::Busy)).ok();
        }
        true
    }

    fn in_order(&self) -> InOrder<'_> {
        InOrder { queue: self, next: self.order.iter(), begun: VecDeque::new() }
    }

    /// Ends a wait. Returns the lease if the turn has left.
    fn resolve(&mut self, position: &Position, outcome: Result<Lease, Shortage>) -> Option<Lease> {
        let waiter = self.change(&position.caller, |line, tick| {
            if outcome.is_ok() {
                line.since = tick;
            }
            line.waiters.remove(&position.number)
        });
        match waiter {
            Some(waiter) => waiter.sender.send(outcome).err()?.ok(),
            None => outcome.ok(),
        }
    }

    /// Changes a line, and with it its place among the others.
    fn change<T>(&mut self, caller: &Caller, change: impl FnOnce(&mut Line, u64) -> T) -> T {
        self.tick += 1;
        let tick = self.tick;
        let line = self
            .lines
            .entry(caller.clone())
            .or_insert_with(|| Line { since: tick, waiters: BTreeMap::new() });
        self.order.remove(&(line.since, caller.clone()));
        self.lengths.remove(&(line.waiters.len(), caller.clone()));
        self.len -= line.waiters.len();
        let changed = change(line, tick);
        self.len += line.waiters.len();
        if line.waiters.is_empty() {
            self.lines.remove(caller);
        } else {
            self.order.insert((line.since, caller.clone()));
            self.lengths.insert((line.waiters.len(), caller.clone()));
        }
        changed
    }
}

impl Inner {
    /// Gives accounts to up to so many of the turns that wait, in their order. Turns that have nothing left to wait for get the
    /// reason.
    pub(super) fn dispatch(&mut self, pool: &Arc<Pool>, max: usize, unclaimed: &mut Vec<Lease>) {
        let now = pool.clock.now();
        let mut queue = std::mem::take(&mut self.queue);
        let (mut outcomes, mut served) = (Vec::new(), 0);
        let mut waiting = HashSet::new();
        for (position, waiter) in queue.in_order() {
            if waiting.contains(&waiter.needs) {
                continue;
            }
            let outcome = match self.pick_slot(waiter.wanted(), now) {
                Ok(index) => Ok(self.lease(pool, index)),
                Err(shortage) if self.is_worth_waiting_for(shortage, now) => {
                    waiting.insert(&waiter.needs);
                    continue;
                }
                Err(shortage) => Err(shortage),
            };
            served += usize::from(outcome.is_ok());
            outcomes.push((position, outcome));
            if served == max {
                break;
            }
        }
        for (position, outcome) in outcomes {
            unclaimed.extend(queue.resolve(&position, outcome));
        }
        self.queue = queue;
    }
}

// === impl Waiter ===

impl Waiter {
    fn wanted(&self) -> Wanted<'_> {
        let origin = self.origin.as_ref().map(|(account, boundary)| Origin { account, boundary });
        let preference = Preference { origin, key: self.key.as_deref() };
        let Needs { operation, model, caller, tried, may_be_unlisted } = &self.needs;
        Wanted {
            operation: *operation,
            model,
            caller: caller.as_deref(),
            preference,
            tried,
            may_be_unlisted: *may_be_unlisted,
        }
    }
}

// === impl InOrder ===

impl<'a> Iterator for InOrder<'a> {
    type Item = (Position, &'a Waiter);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (caller, mut line) = match self.next.next() {
                Some((_, caller)) => (caller, self.queue.lines.get(caller)?.waiters.iter()),
                None => self.begun.pop_front()?,
            };
            if let Some((number, waiter)) = line.next() {
                self.begun.push_back((caller, line));
                return Some((Position { caller: caller.clone(), number: *number }, waiter));
            }
        }
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

impl Drop for Ticket {
    fn drop(&mut self) {
        let Position { caller, number } = &self.position;
        self.pool.lock().queue.change(caller, |line, _| drop(line.waiters.remove(number)));
    }
}
