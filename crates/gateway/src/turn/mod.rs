//! One turn, one path: admit, resolve, reserve, choose, attempt, relay, record, settle.
//!
//! The doors in `http` parse their framing and render the result; everything else happens here. An admitted turn
//! always reaches `settle`: when it succeeds, when it fails, and when its client leaves.

mod attempt;
mod background;
mod codex;
mod collect;
mod context;
mod conversation;
mod correction;
mod detach;
mod detached;
mod dialect;
mod door;
mod error_reply;
mod failure;
mod framing;
mod hiding;
mod kept;
mod limit;
mod memory;
mod metrics;
mod metrics_by;
mod near;
mod passage;
mod progress;
mod reading;
mod record;
mod references;
mod relay;
mod reply_memory;
mod resolve;
mod retry;
mod running;
mod sending;
mod settle;
mod stream;
mod trace;
mod unpacked;
mod unreadable;
mod variant;
mod warm;

use std::sync::Arc;
use std::time::{Duration, Instant};

use antiphon_protocol::id::{ProjectId, ResponseId};
use antiphon_protocol::include::HiddenParts;
use antiphon_protocol::request::CreateRequest;
use antiphon_protocol::response::Owned;
use antiphon_store::Timestamp;
use antiphon_store::chain::Chains;
use futures_util::FutureExt;
use http::HeaderMap;
use prometheus_client::registry::Registry;
use rand::RngExt;

pub use self::background::{
    BackgroundSettings, BackgroundTurns, Cancelled, Found, Queued, ReplayRefused, Unmatched, is_background,
};
pub use self::collect::Collected;
pub use self::detach::{DetachOnDrop, DrainOnDrop};
pub use self::door::Door;
pub use self::failure::{Failure, TurnError, UpstreamErrorReply};
pub use self::memory::{Lane, LaneMemory};
pub use self::metrics::TurnMetrics;
pub use self::resolve::Reasoning;

use self::conversation::Joined;
use self::detach::{Cancellation, DetachPolicy};
use self::detached::DetachedTurns;
use self::progress::Progress;
use self::resolve::Resolved;
use self::running::{RunningGuard, RunningTurns};
use self::trace::TurnTrace;
use self::unreadable::SealedItems;
use crate::body_memory::Reservation;
use crate::conversations::{ConversationLimits, Conversations};
use crate::telemetry::traces::Traces;
use antiphon_access::keys::{Caller, Key};
use antiphon_access::limits::Limits;
use antiphon_access::prices::Prices;
use antiphon_runtime::Env;
use antiphon_upstream::pool::Pool;
use antiphon_upstream::transport::Upstream;

/// Everything that turns share.
pub struct Turns {
    pub chains: Arc<Chains>,
    pub pool: Arc<Pool>,
    pub upstream: Upstream,
    pub limits: Arc<Limits>,
    pub settings: TurnSettings,
    pub env: Env,
    pub metrics: TurnMetrics,
    pub background: BackgroundTurns,
    pub conversations: Arc<Conversations>,
    detached: Arc<DetachedTurns>,
    running: RunningTurns,
    sealed_items: SealedItems,
}

/// What the operator configured about turns.
#[derive(Clone)]
pub struct TurnSettings {
    /// How long stored responses live; `None` means for ever.
    pub retention: Option<Duration>,
    pub max_chain_depth: u32,
    pub conversations: ConversationLimits,
    pub max_history_bytes: usize,
    /// The largest reply of an upstream, and the largest of its events.
    pub max_reply_bytes: usize,
    /// How long the upstream may take to send its headers, and then its first event.
    pub first_byte_timeout: Duration,
    /// The longest silence between two events of the upstream.
    pub idle_timeout: Duration,
    /// How often a silent stream gets a comment, so that proxies keep the client's connection open.
    pub keep_alive_interval: Duration,
    /// The time limit of the whole turn.
    pub turn_timeout: Duration,
    /// How long a stored turn continues after its client has left; `None` cancels it at once.
    pub finish_timeout: Option<Duration>,
    /// How many turns may do so at once.
    pub max_detached: usize,
    pub prices: Arc<Prices>,
    /// The output that is reserved for a turn without `max_output_tokens`.
    pub assumed_output_tokens: u64,
    pub background: BackgroundSettings,
    /// `None` if no turn is traced.
    pub traces: Option<Arc<Traces>>,
}

/// A request that a door has parsed.
pub struct Incoming {
    pub create: CreateRequest,
    /// The request's headers as the client sent them.
    pub headers: HeaderMap,
    pub caller: Caller,
    pub door: Door,
    /// Reserves the memory of the request's body while the turn runs.
    pub memory: Reservation,
}

/// One running turn.
struct Turn {
    turns: Arc<Turns>,
    facts: Facts,
    progress: Progress,
    /// The request's headers as the client sent them.
    headers: HeaderMap,
    cancellation: Cancellation,
    deadline: Instant,
    /// Set until a turn that is to be stored has been recorded.
    running: Option<RunningGuard>,
    /// Memory of the request's body and of the stored items that it references.
    memory: Reservation,
    /// `None` if the turn is not traced.
    trace: Option<Box<TurnTrace>>,
}

/// What is fixed when a turn is admitted.
struct Facts {
    id: ResponseId,
    project: ProjectId,
    key: Option<Arc<Key>>,
    create: CreateRequest,
    door: Door,
    /// For stored and visible times.
    started_at: Timestamp,
    /// For measuring durations.
    started: Instant,
}

/// What identifies a turn, and bounds it.
#[derive(Clone, Copy)]
struct Admission {
    id: ResponseId,
    started_at: Timestamp,
    started: Instant,
    deadline: Instant,
}

// === impl Turns ===

impl Turns {
    pub fn new(
        chains: Arc<Chains>,
        pool: Arc<Pool>,
        upstream: Upstream,
        limits: Arc<Limits>,
        settings: TurnSettings,
        env: Env,
    ) -> Self {
        let background = BackgroundTurns::new(settings.background.clone(), limits.replica());
        let conversations = Conversations::new(
            Arc::clone(&chains),
            Arc::clone(&env.clock),
            env.tasks.clone(),
            settings.retention,
            settings.conversations,
        );
        let conversations = Arc::new(conversations);
        let detached = Arc::new(DetachedTurns::new(settings.max_detached));
        Self {
            chains,
            pool,
            upstream,
            limits,
            settings,
            env,
            metrics: TurnMetrics::default(),
            background,
            conversations,
            detached,
            running: RunningTurns::default(),
            sealed_items: SealedItems::default(),
        }
    }

    pub fn register_metrics(&self, registry: &mut Registry) {
        self.metrics.register(registry);
        self.detached.register(registry);
        self.background.metrics.register(registry);
    }

    /// Runs a turn to its end, for a client that wants one JSON object.
    pub fn collect(self: &Arc<Self>, incoming: Incoming) -> DetachOnDrop<Result<Collected, TurnError>> {
        let detach = self.detach_policy(&incoming);
        let turn = Arc::clone(self).run_to_end(incoming, detach.cancellation.clone());
        DetachOnDrop::new(turn, detach)
    }

    /// Begins a turn and streams its events.
    pub fn stream(self: &Arc<Self>, incoming: Incoming) -> DetachOnDrop<Result<DrainOnDrop, TurnError>> {
        let detach = self.detach_policy(&incoming);
        let rest = detach.clone();
        let turn = Arc::clone(self).begin(incoming, detach.cancellation.clone());
        // An async block would hold the turn twice: as an argument and as the running future.
        let begun = turn.map(|begun| begun.map(|events| DrainOnDrop::new(events, rest)));
        DetachOnDrop::new(begun, detach)
    }

    /// What happens to the turn when its client leaves. Only a turn that is to be stored may continue.
    fn detach_policy(&self, incoming: &Incoming) -> DetachPolicy {
        DetachPolicy {
            cancellation: Cancellation::default(),
            tasks: self.env.tasks.clone(),
            detached: Arc::clone(&self.detached),
            share: Arc::clone(incoming.memory.share()),
            finish_timeout: self.settings.finish_timeout.filter(|_| incoming.create.store),
        }
    }

    /// Admits a turn: it gets an id, and from now on it is settled in any case.
    fn admit(self: &Arc<Self>, incoming: Incoming, cancellation: Cancellation) -> Turn {
        self.admit_as(incoming, self.admission(self.settings.turn_timeout), cancellation)
    }

    /// For a turn that starts now.
    fn admission(&self, limit: Duration) -> Admission {
        let (started_at, started) = (self.env.clock.now(), Instant::now());
        let id = ResponseId::mint(started_at.unix_ms().unsigned_abs(), &rand::rng().random());
        Admission { id, started_at, started, deadline: started + limit }
    }

    fn admit_as(
        self: &Arc<Self>,
        incoming: Incoming,
        admission: Admission,
        cancellation: Cancellation,
    ) -> Turn {
        let trace = self.settings.traces.as_ref().and_then(|traces| TurnTrace::begin(traces, &incoming));
        let Incoming { create, headers, caller, door, memory } = incoming;
        let Caller { project, key, .. } = caller;
        let Admission { id, started_at, started, deadline } = admission;
        self.metrics.in_flight.inc();
        Turn {
            turns: Arc::clone(self),
            progress: Progress::default(),
            headers,
            cancellation,
            deadline,
            running: create.store.then(|| self.running.insert(&project, id)),
            facts: Facts { id, project, key, create, door, started_at, started },
            memory,
            trace,
        }
    }
}

// === impl Turn ===

impl Turn {
    /// Checks that the caller's key may use the model.
    fn check_key(&self) -> Result<(), Failure> {
        let Facts { key, create, .. } = &self.facts;
        match key {
            // The key allowed it when the turn was created.
            Some(_) if self.facts.door.run().is_some() => Ok(()),
            Some(key) if !key.allows(&create.model) => Err(Failure::ModelNotAllowed(create.model.clone())),
            _ => Ok(()),
        }
    }

    /// Counts a turn that the shutdown interrupts.
    fn stopped(&self) -> Failure {
        self.turns.metrics.turn_cut_off();
        Failure::Stopped
    }

    /// Whether the response can be continued from here: it is stored, or the lane of a socket remembers it.
    fn may_be_continued(&self) -> bool {
        self.facts.create.store || self.facts.door.lane().is_some()
    }

    /// What the client does not get of output items: the encrypted reasoning that only the gateway asked for. Of a response that is
    /// not stored it gets that too, as from the API: it may have to send it back. The log of a background turn always has it,
    /// for whoever takes the turn over.
    fn hidden_parts(&self) -> HiddenParts {
        let is_hidden_by_reader = self.facts.door.run().is_some_and(|run| run.hides_reasoning);
        let is_asked_for = self.facts.create.includes_encrypted_reasoning();
        match self.facts.create.store && !is_asked_for && !is_hidden_by_reader {
            true => HiddenParts::ENCRYPTED_REASONING,
            false => HiddenParts::NOTHING,
        }
    }

    fn owned(&self, resolved: &Resolved) -> Owned {
        let Facts { id, create, started_at, .. } = &self.facts;
        let joined = resolved.joined.as_ref().map(Joined::id);
        let previous = resolved.parent.as_ref().filter(|_| joined.is_none()).map(|parent| parent.id);
        let queued_at = create.background.then(|| started_at.unix_seconds());
        Owned::new(*id, previous, create.store).in_conversation(joined).in_background(queued_at)
    }
}
