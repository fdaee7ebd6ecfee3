//! The right to use a connection. Projects take turns, whatever they have waiting, and one always leaves a connection to others.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use antiphon_protocol::id::ProjectId;
use tokio::sync::oneshot;

/// For whom a connection is used: a project, or the gateway itself.
type Caller = Option<ProjectId>;

/// One permit for each connection.
pub(crate) struct Permits {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    connections: usize,
    /// Who holds a permit, once for each.
    holders: Vec<Caller>,
    /// Callers that wait. The next one is first.
    lines: VecDeque<Line>,
    next_number: u64,
    is_closed: bool,
    /// Waits for the last permit to come back.
    closer: Option<oneshot::Sender<()>>,
}

/// What waits for a caller, of which there is at least one.
struct Line {
    caller: Caller,
    waiters: BTreeMap<u64, oneshot::Sender<()>>,
}

/// A place in a line. Dropping it leaves the line.
struct Ticket {
    state: Arc<Mutex<State>>,
    caller: Caller,
    number: u64,
    granted: oneshot::Receiver<()>,
}

/// Comes back when it is dropped.
pub(crate) struct Permit {
    state: Arc<Mutex<State>>,
    caller: Caller,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Permits ===

impl Permits {
    pub(crate) fn new(connections: usize) -> Self {
        Self { state: Arc::new(Mutex::new(State { connections, ..State::default() })) }
    }

    /// Waits for its turn. `None` once they are closed.
    pub(crate) async fn acquire(&self, caller: Option<&ProjectId>) -> Option<Permit> {
        let mut ticket = {
            let mut state = lock(&self.state);
            if state.is_closed {
                return None;
            }
            let caller = caller.cloned();
            if state.may_hold(&caller) {
                state.holders.push(caller.clone());
                return Some(Permit { state: Arc::clone(&self.state), caller });
            }
            let (number, granted) = state.join(caller.clone());
            Ticket { state: Arc::clone(&self.state), caller, number, granted }
        };
        (&mut ticket.granted).await.ok()?;
        Some(Permit { state: Arc::clone(&self.state), caller: ticket.caller.clone() })
    }

    /// Gives out no more, and waits for those that are held.
    pub(crate) async fn close(&self) {
        let returned = {
            let mut state = lock(&self.state);
            state.is_closed = true;
            state.lines.clear();
            if state.holders.is_empty() {
                return;
            }
            let (closer, returned) = oneshot::channel();
            state.closer = Some(closer);
            returned
        };
        // An error means that someone else waits as well, and longer.
        returned.await.ok();
    }

    #[cfg(test)]
    pub(crate) fn free(&self) -> usize {
        let state = lock(&self.state);
        state.connections - state.holders.len()
    }
}

// === impl State ===

impl State {
    fn may_hold(&self, caller: &Caller) -> bool {
        let held = || self.holders.iter().filter(|holder| *holder == caller).count();
        let share = self.connections.saturating_sub(1).max(1);
        self.holders.len() < self.connections && (caller.is_none() || held() < share)
    }

    fn join(&mut self, caller: Caller) -> (u64, oneshot::Receiver<()>) {
        let (sender, granted) = oneshot::channel();
        let number = self.next_number;
        self.next_number += 1;
        match self.lines.iter_mut().find(|line| line.caller == caller) {
            Some(line) => {
                line.waiters.insert(number, sender);
            }
            None => self.lines.push_back(Line { caller, waiters: BTreeMap::from([(number, sender)]) }),
        }
        (number, granted)
    }

    fn leave(&mut self, caller: &Caller, number: u64) {
        let Some(n) = self.lines.iter().position(|line| line.caller == *caller) else { return };
        self.lines[n].waiters.remove(&number);
        if self.lines[n].waiters.is_empty() {
            self.lines.remove(n);
        }
    }

    fn give_back(&mut self, caller: &Caller) {
        if let Some(n) = self.holders.iter().position(|holder| holder == caller) {
            self.holders.swap_remove(n);
        }
        self.grant();
        if self.holders.is_empty()
            && let Some(closer) = self.closer.take()
        {
            closer.send(()).ok();
        }
    }

    /// Gives what is free to the first that may hold it.
    fn grant(&mut self) {
        while let Some(n) = self.lines.iter().position(|line| self.may_hold(&line.caller)) {
            let Some(mut line) = self.lines.remove(n) else { return };
            if let Some((_, waiter)) = line.waiters.pop_first()
                && waiter.send(()).is_ok()
            {
                self.holders.push(line.caller.clone());
            }
            if !line.waiters.is_empty() {
                self.lines.push_back(line);
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        state.leave(&self.caller, self.number);
        // It was granted, and nobody has learnt of it.
        if self.granted.try_recv().is_ok() {
            state.give_back(&self.caller);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        lock(&self.state).give_back(&self.caller);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;

    use super::*;

    fn acquire<'a>(permits: &'a Permits, project: &'a Option<ProjectId>) -> BoxFuture<'a, Option<Permit>> {
        permits.acquire(project.as_ref()).boxed()
    }

    fn now(waiting: &mut BoxFuture<'_, Option<Permit>>) -> Option<Permit> {
        waiting.now_or_never().map(|permit| permit.expect("it is not closed"))
    }

    #[test]
    fn a_project_leaves_a_connection_to_others() {
        let permits = Permits::new(3);
        let (a, b, own) = (Some(ProjectId::new("a")), Some(ProjectId::new("b")), None);
        let mut held: Vec<_> = (0..2).map(|_| now(&mut acquire(&permits, &a)).unwrap()).collect();
        let mut third = acquire(&permits, &a);
        assert!(now(&mut third).is_none());
        drop(now(&mut acquire(&permits, &b)).unwrap());
        assert!(now(&mut third).is_none(), "b's connection stays free");
        held.pop();
        let third = now(&mut third).unwrap();
        drop((held, third));
        let all: Vec<_> = (0..3).map(|_| now(&mut acquire(&permits, &own)).unwrap()).collect();
        assert!(now(&mut acquire(&permits, &own)).is_none());
        drop(all);
        let single = Permits::new(1);
        assert!(now(&mut acquire(&single, &a)).is_some());
    }

    #[test]
    fn projects_take_turns() {
        let permits = Permits::new(1);
        let (a, b) = (Some(ProjectId::new("a")), Some(ProjectId::new("b")));
        let first = now(&mut acquire(&permits, &a)).unwrap();
        let mut of_a: Vec<_> = (0..3).map(|_| acquire(&permits, &a)).collect();
        let mut of_b: Vec<_> = (0..2).map(|_| acquire(&permits, &b)).collect();
        for waiting in of_a.iter_mut().chain(&mut of_b) {
            assert!(now(waiting).is_none());
        }
        drop(first);
        let [a0, a1, a2] = &mut of_a[..] else { unreachable!() };
        let [b0, b1] = &mut of_b[..] else { unreachable!() };
        for waiting in [a0, b0, a1, b1, a2] {
            drop(now(waiting).expect("it is the turn of this one"));
        }
    }

    #[test]
    fn who_leaves_keeps_nothing() {
        let permits = Permits::new(1);
        let a = Some(ProjectId::new("a"));
        let first = now(&mut acquire(&permits, &a)).unwrap();
        let (mut gone, mut granted, mut last) =
            (acquire(&permits, &a), acquire(&permits, &a), acquire(&permits, &a));
        for waiting in [&mut gone, &mut granted, &mut last] {
            assert!(now(waiting).is_none());
        }
        drop(gone);
        drop(first);
        assert!(now(&mut last).is_none(), "another has it");
        drop(granted);
        assert!(now(&mut last).is_some());
        let state = lock(&permits.state);
        assert_eq!((state.holders.len(), state.lines.len()), (0, 0));
    }

    #[tokio::test]
    async fn closing_waits_for_what_is_held_and_refuses_the_rest() {
        let permits = Permits::new(1);
        let held = permits.acquire(None).await;
        let mut waiting = acquire(&permits, &None);
        assert!((&mut waiting).now_or_never().is_none());
        let mut closing = permits.close().boxed();
        assert!((&mut closing).now_or_never().is_none());
        assert!(waiting.await.is_none());
        assert!(permits.acquire(None).await.is_none());
        drop(held);
        closing.await;
        permits.close().await;
    }
}
