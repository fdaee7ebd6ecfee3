//! Limits of keys and projects. What a turn may come to is held in the store before it goes upstream, all of it or nothing,
//! and settled with what it came to when it is over.
//!
//! [`rules`](self::rules) and [`window`](self::window) are pure; replicas agree as the counters are in the store. Whoever is
//! under no limit never comes here.

mod estimate;
mod exceeded;
mod held;
mod metrics;
mod rates;
mod rules;
mod settings;
mod view;
mod window;

use std::collections::HashMap;
use std::sync::Arc;

use antiphon_protocol::id::{KeyId, ProjectId, ResponseId};
use antiphon_store::{
    Abandoned, Count, CounterId, Hold, Measure, Reservation, Reserved, Store, StoreError, Timestamp,
};
use prometheus_client::registry::Registry;
use rand::RngExt;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

pub use self::estimate::{Estimate, input_tokens};
pub use self::exceeded::Exceeded;
pub use self::held::Held;
pub use self::rates::{Rate, Rates};
pub use self::rules::{NotRules, Rule, Rules};
pub use self::settings::{Budget, LimitSettings, ModelLimits};
pub use self::view::LimitView;
pub use self::window::Window;

use self::metrics::LimitMetrics;

/// Limits that have no window count from here on.
const ALWAYS: Timestamp = Timestamp::from_unix_ms(0);

/// What everybody's limits need.
pub struct Limits {
    projects: HashMap<ProjectId, Rules>,
    store: Arc<dyn Store>,
    /// Identifies this process in reservations.
    replica: Uuid,
    metrics: LimitMetrics,
}

/// Whose limit it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = LimitOwner)]
pub enum Owner {
    Key,
    Project,
}

/// A turn that is about to start, and whose limits it counts against.
pub struct ReservationRequest<'a> {
    pub id: ResponseId,
    pub project: &'a ProjectId,
    pub key: Option<KeyRules<'a>>,
    pub model: &'a str,
    pub now: Timestamp,
    /// No turn runs longer.
    pub expires_at: Timestamp,
}

/// The limits of one key.
#[derive(Debug, Clone, Copy)]
pub struct KeyRules<'a> {
    pub id: KeyId,
    pub rules: &'a Rules,
}

/// Why nothing is held.
#[derive(Debug)]
pub enum NotHeld {
    Exceeded(Box<Exceeded>),
    Store(StoreError),
}

/// One limit of a turn, and what of it the turn asks for.
struct Part<'a> {
    owner: Owner,
    rule: &'a Rule,
    hold: Hold,
}

// === impl Limits ===

impl Limits {
    pub fn new(projects: HashMap<ProjectId, Rules>, store: Arc<dyn Store>) -> Self {
        let replica = Uuid::from_bytes(rand::rng().random());
        Self { projects, store, replica, metrics: LimitMetrics::default() }
    }

    pub fn register_metrics(&self, registry: &mut Registry) {
        self.metrics.register(registry);
    }

    /// The id of this process in its reservations.
    pub fn replica(&self) -> Uuid {
        self.replica
    }

    /// Releases up to `max_rows` of these reservations, and returns how many those were.
    ///
    /// # Errors
    ///
    /// Those of [`Store`]'s own `sweep`; what was released before stays so.
    pub async fn sweep(
        &self,
        abandoned: Abandoned,
        now: Timestamp,
        max_rows: u32,
    ) -> Result<u64, StoreError> {
        let swept = self.store.sweep(abandoned, now, max_rows).await?;
        self.metrics.swept.inc_by(swept);
        Ok(swept)
    }

    /// Whether a caller is under any limit.
    pub fn apply_to(&self, project: &ProjectId, key: Option<KeyRules<'_>>) -> bool {
        key.is_some_and(|key| !key.rules.is_empty())
            || (!self.projects.is_empty() && self.projects.contains_key(project))
    }

    /// Holds what the turn may come to, or says which limit is in the way. `None` if no limit is about this turn.
    pub async fn reserve(
        &self,
        request: ReservationRequest<'_>,
        estimate: Estimate,
    ) -> Result<Option<Held>, NotHeld> {
        let parts = self.parts(&request, &estimate);
        if parts.is_empty() {
            return Ok(None);
        }
        let holds = parts.iter().map(|part| part.hold.clone()).collect();
        let reservation =
            Reservation { id: request.id, replica: self.replica, expires_at: request.expires_at, holds };
        let reserved = self.store.reserve(reservation).await.map_err(NotHeld::Store)?;
        // From here on it is given back, whatever happens.
        let rates = rates(&parts, &reserved, request.now);
        let held = reserved.is_held.then(|| {
            let store = Arc::clone(&self.store);
            Held::new(request.id, store, rates, estimate, self.metrics.held())
        });
        if held.is_some() {
            return Ok(held);
        }
        let exceeded = worst(&parts, &reserved.counts, request.now);
        let Some((part, count)) = exceeded else { return Ok(None) };
        self.metrics.rejected(part.rule);
        let reset = part.rule.window.map(|_| (part.hold.window_end, part.hold.window_end.since(request.now)));
        Err(NotHeld::Exceeded(Box::new(Exceeded {
            owner: part.owner,
            rule: part.rule.clone(),
            count,
            amount: part.hold.amount,
            reset,
            rates,
        })))
    }

    fn parts<'a>(&'a self, request: &ReservationRequest<'a>, estimate: &Estimate) -> Vec<Part<'a>> {
        let mut parts = Vec::new();
        let mut add = |owner, scope: Arc<str>, rules: &'a Rules| {
            for rule in rules.of_model(request.model) {
                // What a turn asks nothing of can't keep it from starting.
                let Some(amount) = amount(rule, estimate) else { continue };
                let (window_start, window_end) =
                    rule.window.map_or((ALWAYS, ALWAYS), |window| window.around(request.now));
                let counter =
                    CounterId { scope: Arc::clone(&scope), rule: Arc::clone(&rule.name), window_start };
                let hold = Hold { counter, window_end, measure: rule.measure, amount, limit: rule.limit };
                parts.push(Part { owner, rule, hold });
            }
        };
        if let Some(key) = request.key.filter(|key| !key.rules.is_empty()) {
            add(Owner::Key, key.id.to_string().into(), key.rules);
        }
        if let Some(rules) = self.projects.get(request.project) {
            add(Owner::Project, scope_of_project(request.project).into(), rules);
        }
        parts
    }
}

fn scope_of_project(project: &ProjectId) -> String {
    format!("project:{project}")
}

/// A turn that may need more than the whole limit holds all of it: it runs if nothing else does, and is settled with what it
/// came to. An estimate alone never refuses it for good.
fn amount(rule: &Rule, estimate: &Estimate) -> Option<u64> {
    let amount = match rule.measure {
        Measure::Requests | Measure::Turns => 1,
        Measure::Tokens => estimate.input_tokens.saturating_add(estimate.output_tokens),
        Measure::Cost => estimate.cost_nano_usd?,
    };
    (amount > 0).then_some(amount.min(rule.limit))
}

/// Of the limits that are exceeded the one that lasts longest: who comes back before is refused again.
fn worst<'a, 'b>(parts: &'b [Part<'a>], counts: &[Count], now: Timestamp) -> Option<(&'b Part<'a>, Count)> {
    let all = parts.iter().zip(counts.iter().copied());
    let exceeded = all.filter(|(part, count)| !part.hold.fits(*count));
    exceeded.max_by_key(|(part, _)| part.hold.window_end.since(now))
}

fn rates(parts: &[Part<'_>], reserved: &Reserved, now: Timestamp) -> Rates {
    let of = |measure: Measure| {
        let all = parts.iter().zip(&reserved.counts);
        let of_minute =
            all.filter(|(part, _)| part.rule.measure == measure && part.rule.window == Some(Window::Minute));
        let rates = of_minute.map(|(part, count)| {
            let own = if reserved.is_held { part.hold.amount } else { 0 };
            let taken = count.used.saturating_add(count.held).saturating_add(own);
            let limit = part.rule.limit;
            Rate { limit, remaining: limit.saturating_sub(taken), reset: part.hold.window_end.since(now) }
        });
        rates.min_by_key(|rate| rate.remaining)
    };
    Rates { requests: of(Measure::Requests), tokens: of(Measure::Tokens) }
}
