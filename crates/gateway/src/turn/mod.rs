//! One turn, one path: admit, resolve, choose, attempt, relay, record, settle.
//!
//! The doors in [`crate::http`] only parse their framing and render what comes out of here. A turn that has begun always
//! reaches [`settle`], whether it succeeds, fails, or loses its client.

mod adapt;
mod attempt;
mod codex;
mod collect;
mod detach;
mod door;
mod failure;
mod framing;
mod limit;
mod memory;
mod metrics;
mod progress;
mod record;
mod references;
mod relay;
mod resolve;
mod running;
mod sending;
mod settle;
mod stream;
mod warm;

use std::sync::Arc;
use std::time::{Duration, Instant};

use antiphon_protocol::id::{ProjectId, ResponseId};
use antiphon_protocol::request::CreateRequest;
use antiphon_protocol::response::Owned;
use antiphon_store::Timestamp;
use antiphon_store::chain::Chains;
use futures_util::FutureExt;
use http::HeaderMap;
use rand::RngExt;
use tokio::sync::OwnedSemaphorePermit;

pub use self::collect::Collected;
pub use self::detach::{DetachOnDrop, DrainOnDrop};
pub use self::door::Door;
pub use self::failure::{Failure, Fault, RETRY_AFTER, Refusal, Rejected, seconds};
pub use self::memory::{Lane, Memory};
pub use self::metrics::TurnMetrics;
pub use self::resolve::Reasoning;

use self::detach::{Detach, Presence};
use self::progress::Progress;
use self::resolve::Resolved;
use self::running::{Running, RunningGuard};
use antiphon_access::keys::{Caller, Key};
use antiphon_access::limits::Limits;
use antiphon_access::prices::Prices;
use antiphon_runtime::Env;
use antiphon_upstream::pool::Pool;
use antiphon_upstream::transport::Upstream;

const MAX_QUOTED_CHARS: usize = 200;

/// Everything that turns share.
pub struct Turns {
    pub chains: Arc<Chains>,
    pub pool: Arc<Pool>,
    pub upstream: Upstream,
    pub limits: Arc<Limits>,
    pub rules: Rules,
    pub env: Env,
    pub metrics: TurnMetrics,
    running: Running,
}

/// What the operator configured about turns.
#[derive(Debug, Clone)]
pub struct Rules {
    /// How long stored responses live; `None` is for ever.
    pub retention: Option<Duration>,
    pub max_chain_depth: u32,
    pub max_history_bytes: usize,
    /// What there is for request bodies and for what they name, over all turns.
    pub body_memory_bytes: usize,
    /// How large an upstream's reply, or one of its events, may be.
    pub max_reply_bytes: usize,
    /// Until the upstream's headers and its first event.
    pub first_byte: Duration,
    /// Between two events of the upstream.
    pub idle: Duration,
    /// Between two signs of life on a stream to the client.
    pub keep_alive: Duration,
    /// For the whole turn.
    pub turn: Duration,
    /// How long a stored turn goes on without its client; `None` cancels it at once.
    pub finish_within: Option<Duration>,
    pub prices: Arc<Prices>,
    /// What a turn is taken to put out that does not say how much it may.
    pub assumed_output_tokens: u64,
}

/// What a door hands in.
pub struct Incoming {
    pub create: CreateRequest,
    /// The request's headers as the client sent them.
    pub headers: HeaderMap,
    pub caller: Caller,
    pub door: Door,
    /// Holds the memory of the request's body for as long as the turn runs.
    pub body_permit: OwnedSemaphorePermit,
}

/// One running turn.
struct Turn {
    turns: Arc<Turns>,
    facts: Facts,
    progress: Progress,
    /// The request's headers as the client sent them.
    headers: HeaderMap,
    presence: Presence,
    deadline: Instant,
    /// Set while a turn that will be stored is not yet so.
    running: Option<RunningGuard>,
    /// Of the request's body, and of the stored items that it names.
    memory: OwnedSemaphorePermit,
}

/// What a turn's admission has fixed.
struct Facts {
    id: ResponseId,
    project: ProjectId,
    key: Option<Arc<Key>>,
    create: CreateRequest,
    door: Door,
    /// What is stored and shown.
    started_at: Timestamp,
    /// What durations are measured from.
    started: Instant,
}

/// A name that a client has sent, as errors repeat it: not however long it is.
fn quoted(name: &str) -> String {
    match name.char_indices().nth(MAX_QUOTED_CHARS) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}

// === impl Turns ===

impl Turns {
    pub fn new(
        chains: Arc<Chains>,
        pool: Arc<Pool>,
        upstream: Upstream,
        limits: Arc<Limits>,
        rules: Rules,
        env: Env,
    ) -> Self {
        let (metrics, running) = (TurnMetrics::default(), Running::default());
        Self { chains, pool, upstream, limits, rules, env, metrics, running }
    }

    /// Runs a turn to its end, for a client that gets one object.
    pub fn collect(self: &Arc<Self>, incoming: Incoming) -> DetachOnDrop<Result<Collected, Rejected>> {
        let detach = self.detach(&incoming.create);
        let turn = Arc::clone(self).run_to_end(incoming, detach.presence.clone());
        DetachOnDrop::new(turn, detach)
    }

    /// Begins a turn, and streams its events.
    pub fn stream(self: &Arc<Self>, incoming: Incoming) -> DetachOnDrop<Result<DrainOnDrop, Rejected>> {
        let detach = self.detach(&incoming.create);
        let rest = detach.clone();
        let turn = Arc::clone(self).begin(incoming, detach.presence.clone());
        // Not an async block, which would hold the turn twice: as it is given, and as it runs.
        let begun = turn.map(|begun| begun.map(|events| DrainOnDrop::new(events, rest)));
        DetachOnDrop::new(begun, detach)
    }

    /// What becomes of a turn if its client leaves: one that is to be stored is finished, by default.
    fn detach(&self, create: &CreateRequest) -> Detach {
        Detach {
            presence: Presence::default(),
            tasks: self.env.tasks.clone(),
            finish_within: self.rules.finish_within.filter(|_| create.store),
        }
    }

    /// Begins a turn: from here on it has an id and is settled in any case.
    fn admit(self: &Arc<Self>, incoming: Incoming, presence: Presence) -> Turn {
        let Incoming { create, headers, caller, door, body_permit } = incoming;
        let Caller { project, key, .. } = caller;
        let (started_at, started) = (self.env.clock.now(), Instant::now());
        let id = ResponseId::mint(started_at.unix_ms().unsigned_abs(), &rand::rng().random());
        self.metrics.in_flight.inc();
        Turn {
            turns: Arc::clone(self),
            progress: Progress::default(),
            headers,
            presence,
            deadline: started + self.rules.turn,
            running: create.store.then(|| self.running.enter(&project, id)),
            facts: Facts { id, project, key, create, door, started_at, started },
            memory: body_permit,
        }
    }
}

// === impl Turn ===

impl Turn {
    /// Whether the caller's key is for what is asked of it.
    fn check_key(&self) -> Result<(), Failure> {
        let Facts { key, create, .. } = &self.facts;
        match key {
            Some(key) if !key.allows(&create.model) => Err(Failure::ModelNotAllowed(create.model.clone())),
            _ => Ok(()),
        }
    }

    fn owned(&self, resolved: &Resolved) -> Owned {
        let Facts { id, create, .. } = &self.facts;
        Owned::new(*id, resolved.parent.as_ref().map(|parent| parent.id), create.store)
    }
}
