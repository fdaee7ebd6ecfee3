//! Background turns: turns whose client is the store.
//!
//! A turn is queued in the store before its client hears of it, and then runs on the same path as all others, with
//! [`Door::Background`](super::Door) as its door. Its owner has a lease; a turn whose lease expires is taken over by any process
//! over the same store. Events of a streamed turn are written to a log before anybody reads them.

mod create;
mod ending;
mod follow;
mod live;
mod log;
mod manage;
mod metrics;
mod native;
mod reader;
mod run;
mod runner;
mod waiting;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use antiphon_access::keys::Keys;
use antiphon_protocol::id::{ProjectId, ResponseId};
use antiphon_runtime::FairSemaphore;
use antiphon_store::{QueueLimits, TurnLease};
use uuid::Uuid;

pub use self::create::Queued;
pub use self::manage::{Cancelled, Found, ReplayRefused, is_background};
pub use self::metrics::BackgroundMetrics;
pub use self::run::{Run, Unfinished};
pub use self::runner::Unmatched;

use self::live::LiveEvents;
use crate::body_memory::BodyMemory;

/// What the operator configured about background turns.
#[derive(Clone)]
pub struct BackgroundSettings {
    /// How many turns this process runs at once.
    pub max_running: usize,
    /// How much of a project may be queued.
    pub queue: QueueLimits,
    /// From the creation of a turn to its end.
    pub max_duration: Duration,
    /// How long a turn's events can be read after its end.
    pub log_retention: Duration,
    /// How often a turn whose owner has died is run again.
    pub retries: u32,
    /// How long a turn waits for an owner that does not renew its lease.
    pub lease: Duration,
    pub keys: Arc<Keys>,
    /// The memory for request bodies.
    pub request_memory: Arc<BodyMemory>,
}

/// The background turns that this process owns.
pub struct BackgroundTurns {
    pub settings: BackgroundSettings,
    pub metrics: BackgroundMetrics,
    /// Identifies this process in leases.
    pub owner: Uuid,
    runs: Mutex<HashMap<ResponseId, Arc<Run>>>,
    /// Turns of other processes that have readers here.
    followed: Mutex<HashMap<ResponseId, Arc<LiveEvents>>>,
    /// Projects share what may run.
    running: Arc<FairSemaphore<ProjectId>>,
}

// === impl BackgroundTurns ===

impl BackgroundTurns {
    pub fn new(settings: BackgroundSettings, owner: Uuid) -> Self {
        Self {
            running: Arc::new(FairSemaphore::new(settings.max_running, settings.max_running)),
            metrics: BackgroundMetrics::default(),
            owner,
            runs: Mutex::default(),
            followed: Mutex::default(),
            settings,
        }
    }

    fn find(&self, id: ResponseId) -> Option<Arc<Run>> {
        self.runs().get(&id).cloned()
    }

    /// The run of a turn, unless it was left to another process.
    fn find_running(&self, id: ResponseId) -> Option<Arc<Run>> {
        self.find(id).filter(|run| !run.is_left())
    }

    /// The leases of the turns that run here.
    fn running_leases(&self) -> HashSet<TurnLease> {
        let runs = self.runs();
        let running = runs.values().filter(|run| !run.is_left() && !run.has_ended());
        running.map(|run| run.lease.clone()).collect()
    }

    fn insert(&self, run: &Arc<Run>) {
        self.runs().insert(run.lease.id, Arc::clone(run));
    }

    fn remove(&self, run: &Arc<Run>) {
        let mut runs = self.runs();
        if runs.get(&run.lease.id).is_some_and(|listed| Arc::ptr_eq(listed, run)) {
            runs.remove(&run.lease.id);
        }
    }

    fn followed(&self) -> MutexGuard<'_, HashMap<ResponseId, Arc<LiveEvents>>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn runs(&self) -> MutexGuard<'_, HashMap<ResponseId, Arc<Run>>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
