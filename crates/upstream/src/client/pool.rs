//! Idle connections of one worker.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::rt::Executor;
use hyper_util::rt::TokioExecutor;
use tokio::time::Instant;

use super::http1::Http1;
use super::origin::Origin;

/// Shorter than the keep-alive timeout of most upstreams; some have 5 s.
const IDLE_LIMIT: Duration = Duration::from_secs(30);
/// How often connections that were idle for too long are closed.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

pub struct Pool {
    bounds: Bounds,
    state: Mutex<State>,
}

/// How many idle connections are kept.
#[derive(Clone, Copy)]
pub struct Bounds {
    pub per_origin: usize,
    pub total: usize,
}

#[derive(Default)]
struct State {
    /// In the order in which they became idle. The last one is taken first.
    origins: HashMap<Origin, VecDeque<Idle>>,
    /// Idle connections of all origins.
    idle: usize,
    is_sweeping: bool,
}

struct Idle {
    connection: Box<Http1>,
    since: Instant,
}

// === impl Pool ===

impl Pool {
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, state: Mutex::default() }
    }

    /// A connection on which a request can be sent now.
    pub fn take(&self, origin: &Origin) -> Option<Box<Http1>> {
        self.lock().take(origin, Instant::now())
    }

    /// Keeps a connection for the next request.
    pub fn put(self: &Arc<Self>, origin: Origin, mut connection: Box<Http1>) {
        if connection.detach() {
            let mut state = self.lock();
            state.put(origin, connection, self.bounds, Instant::now());
            self.start_sweeping(&mut state);
        }
    }

    /// Starts a task that closes idle connections, unless it is running. It ends when there are none.
    fn start_sweeping(self: &Arc<Self>, state: &mut State) {
        if std::mem::replace(&mut state.is_sweeping, true) {
            return;
        }
        let pool = Arc::downgrade(self);
        TokioExecutor::new().execute(async move {
            loop {
                tokio::time::sleep(SWEEP_INTERVAL).await;
                let Some(pool) = pool.upgrade() else { return };
                let mut state = pool.lock();
                state.sweep(Instant::now());
                if state.origins.is_empty() {
                    state.is_sweeping = false;
                    return;
                }
            }
        });
    }

    #[cfg(test)]
    pub fn idle(&self) -> usize {
        self.lock().idle
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("idle", &self.lock().idle).finish_non_exhaustive()
    }
}

// === impl State ===

impl State {
    fn take(&mut self, origin: &Origin, now: Instant) -> Option<Box<Http1>> {
        let at_origin = self.origins.get_mut(origin)?;
        while let Some(mut idle) = at_origin.pop_back() {
            self.idle -= 1;
            if now < idle.since + IDLE_LIMIT && idle.connection.is_alive() {
                return Some(idle.connection);
            }
        }
        None
    }

    fn put(&mut self, origin: Origin, connection: Box<Http1>, bounds: Bounds, now: Instant) {
        let at_origin = self.origins.entry(origin).or_default();
        self.idle -= drop_expired(at_origin, now);
        if at_origin.len() >= bounds.per_origin {
            at_origin.pop_front();
            self.idle -= 1;
        }
        if self.idle < bounds.total {
            at_origin.push_back(Idle { connection, since: now });
            self.idle += 1;
        }
    }

    fn sweep(&mut self, now: Instant) {
        self.origins.retain(|_, at_origin| {
            self.idle -= drop_expired(at_origin, now);
            !at_origin.is_empty()
        });
    }
}

/// Closes connections that were idle for too long. Returns how many.
fn drop_expired(idle: &mut VecDeque<Idle>, now: Instant) -> usize {
    let expired = idle.partition_point(|idle| idle.since + IDLE_LIMIT <= now);
    idle.drain(..expired).count()
}
