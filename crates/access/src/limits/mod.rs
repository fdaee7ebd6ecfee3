//! Limits of keys and projects. Before a turn goes upstream, its estimated use is reserved in the store, against all of its
//! limits or none. When it ends, the reservation is settled with its actual use.
//!
//! `rules` and `window` are pure. The counters are in the store, so replicas agree on them.
//! Turns without limits cost no access to the store.

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
use arc_swap::ArcSwap;
use prometheus_client::registry::Registry;
use rand::RngExt;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

pub use self::estimate::{Estimate, input_tokens};
pub use self::exceeded::Exceeded;
pub use self::held::HeldReservation;
pub use self::rates::{Rate, Rates};
pub use self::rules::{InvalidRules, Rule, Rules};
pub use self::settings::{Budget, LimitSettings, ModelLimits};
pub use self::view::{LimitView, NearLimit};
pub use self::window::Window;

use self::metrics::LimitMetrics;

/// Start and end of the one window that limits without a window have.
const NO_WINDOW: Timestamp = Timestamp::from_unix_ms(0);

/// Reserves against the limits of keys and projects.
pub struct Limits {
    /// Replaced when the configuration is loaded again.
    projects: ArcSwap<HashMap<ProjectId, Rules>>,
    store: Arc<dyn Store>,
    /// Identifies this process in reservations.
    replica: Uuid,
    metrics: LimitMetrics,
}

/// Whether the limit belongs to the key or to its project.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = LimitOwner)]
pub enum Owner {
    Key,
    Project,
}

/// A turn or another request that is about to start, with the key and project whose limits apply.
pub struct ReservationRequest<'a> {
    pub id: ResponseId,
    pub project: &'a ProjectId,
    pub key: Option<KeyRules<'a>>,
    pub now: Timestamp,
    /// When the reservation may be released without being settled: the turn has ended by then.
    pub expires_at: Timestamp,
}

/// The limits of one key.
#[derive(Debug, Clone, Copy)]
pub struct KeyRules<'a> {
    pub id: KeyId,
    pub rules: &'a Rules,
}

/// Why nothing was reserved.
#[derive(Debug)]
pub enum ReserveError {
    Exceeded(Box<Exceeded>),
    Store(StoreError),
}

/// One limit of a turn, and how much of it the turn reserves.
struct PlannedHold<'a> {
    owner: Owner,
    rule: &'a Rule,
    hold: Hold,
}

// === impl Limits ===

impl Limits {
    pub fn new(projects: HashMap<ProjectId, Rules>, store: Arc<dyn Store>) -> Self {
        let replica = Uuid::from_bytes(rand::rng().random());
        Self { projects: ArcSwap::from_pointee(projects), store, replica, metrics: LimitMetrics::default() }
    }

    /// Replaces the limits of projects. A limit that stays keeps what was used of it.
    pub fn set_projects(&self, projects: HashMap<ProjectId, Rules>) {
        self.projects.store(Arc::new(projects));
    }

    pub fn register_metrics(&self, registry: &mut Registry) {
        self.metrics.register(registry);
    }

    /// The id of this process in its reservations.
    pub fn replica(&self) -> Uuid {
        self.replica
    }

    /// Releases up to `max_rows` of these reservations. Returns how many it released.
    ///
    /// # Errors
    ///
    /// Fails if the store does; what was released before stays released.
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

    /// Whether a caller has any limit.
    pub fn apply_to(&self, project: &ProjectId, key: Option<KeyRules<'_>>) -> bool {
        key.is_some_and(|key| !key.rules.is_empty()) || self.projects.load().contains_key(project)
    }

    /// Reserves the estimated use of a turn with this model, or reports the limit that it would exceed. `None` if no limit applies
    /// to it.
    pub async fn reserve(
        &self,
        request: ReservationRequest<'_>,
        model: &str,
        estimate: Estimate,
    ) -> Result<Option<HeldReservation>, ReserveError> {
        let projects = self.projects.load();
        let project_rules = projects.get(request.project);
        let planned = planned_holds(&request, &estimate, project_rules, |rule| rule.applies_to(model));
        self.hold(request, planned, estimate).await
    }

    /// Reserves a request that is no turn: of the limits, those on requests with any model apply to it.
    pub async fn reserve_request(
        &self,
        request: ReservationRequest<'_>,
    ) -> Result<Option<HeldReservation>, ReserveError> {
        let estimate = Estimate::default();
        let projects = self.projects.load();
        let project_rules = projects.get(request.project);
        let planned = planned_holds(&request, &estimate, project_rules, Rule::counts_all_requests);
        self.hold(request, planned, estimate).await
    }

    async fn hold(
        &self,
        request: ReservationRequest<'_>,
        planned: Vec<PlannedHold<'_>>,
        estimate: Estimate,
    ) -> Result<Option<HeldReservation>, ReserveError> {
        if planned.is_empty() {
            return Ok(None);
        }
        let holds = planned.iter().map(|planned| planned.hold.clone()).collect();
        let reservation =
            Reservation { id: request.id, replica: self.replica, expires_at: request.expires_at, holds };
        let reserved = self.store.reserve(reservation).await.map_err(ReserveError::Store)?;
        let rates = remaining_rates(&planned, &reserved, request.now);
        // Nothing may await or fail before this value exists: dropping it releases the reservation.
        let held = reserved.is_held.then(|| {
            let store = Arc::clone(&self.store);
            HeldReservation::new(request.id, store, rates, estimate, self.metrics.reservation_guard())
        });
        if held.is_some() {
            return Ok(held);
        }
        let exceeded = longest_exceeded(&planned, &reserved.counts, request.now);
        let Some((PlannedHold { owner, rule, hold }, count)) = exceeded else { return Ok(None) };
        self.metrics.count_rejection(rule);
        let reset = rule.window.map(|_| (hold.window_end, hold.window_end.since(request.now)));
        Err(ReserveError::Exceeded(Box::new(Exceeded {
            owner: *owner,
            rule: (*rule).clone(),
            count,
            amount: hold.amount,
            reset,
            rates,
        })))
    }

    /// The reservation that another process, or an earlier attempt, has made for this turn, if it has made one.
    pub fn adopt(&self, id: ResponseId, estimate: Estimate) -> HeldReservation {
        let store = Arc::clone(&self.store);
        HeldReservation::new(id, store, Rates::default(), estimate, self.metrics.reservation_guard())
    }
}

/// What the turn holds of the limits of its key and of its project.
fn planned_holds<'a>(
    request: &ReservationRequest<'a>,
    estimate: &Estimate,
    project_rules: Option<&'a Rules>,
    applies: impl Fn(&Rule) -> bool,
) -> Vec<PlannedHold<'a>> {
    let mut planned = Vec::new();
    let mut add = |owner, scope: Arc<str>, rules: &'a Rules| {
        for rule in rules.all().filter(|rule| applies(rule)) {
            // A limit of which the turn needs nothing cannot reject it.
            let Some(amount) = amount_to_hold(rule, estimate) else { continue };
            let (window_start, window_end) =
                rule.window.map_or((NO_WINDOW, NO_WINDOW), |window| window.bounds_at(request.now));
            let counter = CounterId { scope: Arc::clone(&scope), rule: Arc::clone(&rule.name), window_start };
            let hold = Hold { counter, window_end, measure: rule.measure, amount, limit: rule.limit };
            planned.push(PlannedHold { owner, rule, hold });
        }
    };
    if let Some(key) = request.key.filter(|key| !key.rules.is_empty()) {
        add(Owner::Key, key.id.to_string().into(), key.rules);
    }
    if let Some(rules) = project_rules {
        add(Owner::Project, project_scope(request.project).into(), rules);
    }
    planned
}

fn project_scope(project: &ProjectId) -> String {
    format!("project:{project}")
}

/// At most the whole limit: a turn with a larger estimate runs when the limit is unused, and is settled with its actual
/// use. An estimate alone never rejects a turn for good.
fn amount_to_hold(rule: &Rule, estimate: &Estimate) -> Option<u64> {
    let amount = match rule.measure {
        Measure::Requests | Measure::Turns => 1,
        Measure::Tokens => estimate.input_tokens.saturating_add(estimate.output_tokens),
        Measure::Cost => estimate.cost_nano_usd?,
    };
    (amount > 0).then_some(amount.min(rule.limit))
}

/// The exceeded limit whose window ends last: a client that retries earlier is rejected again.
fn longest_exceeded<'a, 'b>(
    planned: &'b [PlannedHold<'a>],
    counts: &[Count],
    now: Timestamp,
) -> Option<(&'b PlannedHold<'a>, Count)> {
    let all = planned.iter().zip(counts.iter().copied());
    let exceeded = all.filter(|(planned, count)| !planned.hold.fits(*count));
    exceeded.max_by_key(|(planned, _)| planned.hold.window_end.since(now))
}

fn remaining_rates(planned: &[PlannedHold<'_>], reserved: &Reserved, now: Timestamp) -> Rates {
    let lowest_rate = |measure: Measure| {
        let all = planned.iter().zip(&reserved.counts);
        let per_minute = all.filter(|(PlannedHold { rule, .. }, _)| {
            rule.measure == measure && rule.window == Some(Window::Minute)
        });
        let rates = per_minute.map(|(PlannedHold { rule, hold, .. }, count)| {
            let held_now = if reserved.is_held { hold.amount } else { 0 };
            let taken = count.used.saturating_add(count.held).saturating_add(held_now);
            let limit = rule.limit;
            Rate { limit, remaining: limit.saturating_sub(taken), reset: hold.window_end.since(now) }
        });
        rates.min_by_key(|rate| rate.remaining)
    };
    Rates { requests: lowest_rate(Measure::Requests), tokens: lowest_rate(Measure::Tokens) }
}
