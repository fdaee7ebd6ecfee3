//! Limits of keys and projects. What a turn may come to is held in the store before it goes upstream, all of it or nothing,
//! and settled with what it came to when it is over.
//!
//! [`rules`](self::rules) and [`window`](self::window) are pure; replicas agree as the counters are in the store. Whoever is
//! under no limit never comes here.

mod estimate;
mod exceeded;
mod held;
mod keep;
mod rates;
mod rules;
mod window;

use std::collections::HashMap;
use std::sync::Arc;

use antiphon_protocol::id::{ProjectId, ResponseId};
use antiphon_store::{Count, CounterId, Hold, Measure, Reservation, Reserved, Store, StoreError, Timestamp};

pub use self::estimate::{Estimate, input_tokens};
pub use self::exceeded::Exceeded;
pub use self::held::Held;
pub use self::keep::keep_limits;
pub use self::rates::{Rate, Rates};
pub use self::rules::{NotRules, Rule, Rules};
pub use self::window::Window;

use crate::keys::Key;
use crate::metrics::Metrics;

/// Limits that have no window count from here on.
const ALWAYS: Timestamp = Timestamp::from_unix_ms(0);

/// What everybody's limits need.
pub struct Limits {
    projects: HashMap<ProjectId, Rules>,
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
}

/// Whose limit it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    Key,
    Project,
}

/// A turn that wants to start.
pub struct Asking<'a> {
    pub id: ResponseId,
    pub project: &'a ProjectId,
    pub key: Option<&'a Key>,
    pub model: &'a str,
    pub now: Timestamp,
    /// No turn runs longer.
    pub expires_at: Timestamp,
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
    pub fn new(projects: HashMap<ProjectId, Rules>, store: Arc<dyn Store>, metrics: Arc<Metrics>) -> Self {
        Self { projects, store, metrics }
    }

    /// Whether a caller is under any limit.
    pub fn apply_to(&self, project: &ProjectId, key: Option<&Key>) -> bool {
        key.is_some_and(|key| !key.limits.is_empty())
            || (!self.projects.is_empty() && self.projects.contains_key(project))
    }

    /// Holds what the turn may come to, or says which limit is in the way. `None` if no limit is about this turn.
    pub async fn reserve(&self, asking: Asking<'_>, estimate: Estimate) -> Result<Option<Held>, NotHeld> {
        let parts = self.parts(&asking, &estimate);
        if parts.is_empty() {
            return Ok(None);
        }
        let holds = parts.iter().map(|part| part.hold.clone()).collect();
        let reservation = Reservation { id: asking.id, expires_at: asking.expires_at, holds };
        let reserved = self.store.reserve(reservation).await.map_err(NotHeld::Store)?;
        // From here on it is given back, whatever happens.
        let rates = rates(&parts, &reserved, asking.now);
        let held = reserved.is_held.then(|| {
            let store = Arc::clone(&self.store);
            Held::new(asking.id, store, (rates, estimate), self.metrics.limits.held())
        });
        if held.is_some() {
            return Ok(held);
        }
        let exceeded = worst(&parts, &reserved.counts, asking.now);
        let Some((part, count)) = exceeded else { return Ok(None) };
        self.metrics.limits.rejected(part.rule);
        let reset = part.rule.window.map(|_| (part.hold.window_end, part.hold.window_end.since(asking.now)));
        Err(NotHeld::Exceeded(Box::new(Exceeded {
            owner: part.owner,
            rule: part.rule.clone(),
            count,
            amount: part.hold.amount,
            reset,
            rates,
        })))
    }

    fn parts<'a>(&'a self, asking: &Asking<'a>, estimate: &Estimate) -> Vec<Part<'a>> {
        let mut parts = Vec::new();
        let mut add = |owner, scope: Arc<str>, rules: &'a Rules| {
            for rule in rules.of_model(asking.model) {
                // What a turn asks nothing of can't keep it from starting.
                let Some(amount) = amount(rule, estimate) else { continue };
                let (window_start, window_end) =
                    rule.window.map_or((ALWAYS, ALWAYS), |window| window.around(asking.now));
                let counter =
                    CounterId { scope: Arc::clone(&scope), rule: Arc::clone(&rule.name), window_start };
                let hold = Hold { counter, window_end, measure: rule.measure, amount, limit: rule.limit };
                parts.push(Part { owner, rule, hold });
            }
        };
        if let Some(key) = asking.key.filter(|key| !key.limits.is_empty()) {
            add(Owner::Key, key.id.to_string().into(), &key.limits);
        }
        if let Some(rules) = self.projects.get(asking.project) {
            add(Owner::Project, format!("project:{}", asking.project).into(), rules);
        }
        parts
    }
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
