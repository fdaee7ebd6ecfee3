//! One turn, one path: admit, resolve, choose, attempt, relay, record, settle.
//!
//! The doors in [`crate::http`] only parse their framing and render what comes out of here. A turn that has begun always
//! reaches [`settle`], whether it succeeds, fails, or loses its client.

mod adapt;
mod attempt;
mod codex;
mod collect;
mod failure;
mod framing;
mod limit;
mod memory;
mod metrics;
mod presence;
mod record;
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
use http::HeaderMap;
use rand::RngExt;
use tokio::sync::OwnedSemaphorePermit;

pub use self::collect::Collected;
pub use self::failure::{Failure, TurnError, UpstreamErrorReply};
pub use self::memory::{Lane, Memory};
pub use self::metrics::TurnMetrics;
pub use self::presence::{Departure, Presence, UntilDrained, UntilFinished};
pub use self::stream::EventStream;

pub use self::resolve::Reasoning;

use self::framing::Framing;
use self::resolve::Resolved;
use self::running::{Running, RunningGuard};
use self::settle::Ledger;
use antiphon_access::keys::{Caller, Key};
use antiphon_access::limits::{Limits, Rates};
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
    pub transport: Transport,
    /// Where the turn runs if it came on a socket.
    pub lane: Option<Lane>,
    /// Holds the memory of the request's body for as long as the turn runs.
    pub body_permit: OwnedSemaphorePermit,
}

/// How the client speaks to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    Http,
    Sse,
    WebSocket,
}

/// One running turn.
struct Turn {
    turns: Arc<Turns>,
    id: ResponseId,
    project: ProjectId,
    key: Option<Arc<Key>>,
    create: CreateRequest,
    headers: HeaderMap,
    presence: Presence,
    lane: Option<Lane>,
    started_at: Timestamp,
    deadline: Instant,
    ledger: Ledger,
    /// What is left to a client that is under limits.
    rates: Option<Rates>,
    /// Set while a turn that will be stored is not yet so.
    running: Option<RunningGuard>,
    _body_permit: OwnedSemaphorePermit,
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

    /// What becomes of this turn if its client leaves: one that is to be stored is finished, by default.
    pub fn departure(&self, store: bool) -> Departure {
        Departure {
            presence: Presence::default(),
            tasks: self.env.tasks.clone(),
            finish_within: self.rules.finish_within.filter(|_| store),
        }
    }

    /// Begins a turn: from here on it has an id and is settled in any case.
    fn admit(self: &Arc<Self>, incoming: Incoming, presence: Presence) -> Turn {
        let started_at = self.env.clock.now();
        let id = ResponseId::mint(started_at.unix_ms().unsigned_abs(), &rand::rng().random());
        let Incoming { create, headers, caller, transport, lane, body_permit } = incoming;
        let Caller { project, key, .. } = caller;
        let running = create.store.then(|| self.running.enter(&project, id));
        let ledger = Ledger::open(self, (id, started_at), (&project, key.as_deref()), &create, transport);
        Turn {
            turns: Arc::clone(self),
            id,
            project,
            key,
            create,
            headers,
            presence,
            lane,
            started_at,
            deadline: Instant::now() + self.rules.turn,
            ledger,
            rates: None,
            running,
            _body_permit: body_permit,
        }
    }
}

// === impl Turn ===

impl Turn {
    /// Whether the caller's key is for what is asked of it.
    fn check_key(&self) -> Result<(), Failure> {
        match &self.key {
            Some(key) if !key.allows(&self.create.model) => {
                Err(Failure::ModelNotAllowed(self.create.model.clone()))
            }
            _ => Ok(()),
        }
    }

    fn framing(&self) -> Framing {
        match &self.lane {
            Some(lane) => Framing::Socket(lane.stream_id.clone()),
            None => Framing::Sse,
        }
    }

    fn owned(&self, resolved: &Resolved) -> Owned {
        Owned::new(self.id, resolved.parent.as_ref().map(|parent| parent.id), self.create.store)
    }
}

// === impl Transport ===

impl Transport {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Sse => "sse",
            Self::WebSocket => "websocket",
        }
    }
}
