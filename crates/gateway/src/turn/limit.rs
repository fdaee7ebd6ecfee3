//! Reserve: a turn reserves its estimated usage before an account is chosen, and its client learns what is left.

use std::time::Duration;

use antiphon_protocol::request::Operation;
use antiphon_protocol::usage::Usage;
use http::HeaderMap;

use super::context::Replayed;
use super::resolve::Resolved;
use super::trace::Step;
use super::{Failure, Turn, TurnError};
use antiphon_access::limits::{Estimate, KeyRules, ReservationRequest, ReserveError, input_tokens};

/// How long a turn may take to settle after its time limit.
const SETTLE_GRACE: Duration = Duration::from_mins(10);

impl Turn {
    /// Reserves the turn's estimated usage. Does no work for a caller without limits.
    pub(super) async fn reserve(&mut self, resolved: &Resolved) -> Result<(), Failure> {
        if self.progress.held.is_some() || !self.turns.limits.apply_to(&self.facts.project, self.key_rules())
        {
            return Ok(());
        }
        self.trace_step(Step::Reserve);
        if !self.turns.chains.is_available() {
            return Err(Failure::StoreUnavailable);
        }
        let request = ReservationRequest {
            id: self.facts.id,
            project: &self.facts.project,
            key: self.key_rules(),
            now: self.turns.env.clock.now(),
            // If its replica is never found dead.
            expires_at: self.facts.started_at.plus(self.deadline - self.facts.started + SETTLE_GRACE),
        };
        let reserving =
            Box::pin(self.turns.limits.reserve(request, &self.facts.create.model, self.estimate(resolved)));
        match self.cancellation.or_cancelled(reserving).await {
            Err(_cancelled) => Err(Failure::ClientGone),
            Ok(Ok(held)) => {
                self.progress.rates = held.as_ref().map(|held| held.rates);
                self.progress.held = held;
                Ok(())
            }
            Ok(Err(ReserveError::Exceeded(exceeded))) => {
                self.progress.rates = Some(exceeded.rates);
                Err(Failure::LimitReached(exceeded))
            }
            Ok(Err(ReserveError::Store(error))) => Err(error.into()),
        }
    }

    /// Holds the reservation that was made when the turn was created.
    pub(super) fn adopt_reservation(&mut self, resolved: &Resolved) {
        let estimate = self.estimate(resolved);
        self.progress.held = Some(self.turns.limits.adopt(self.facts.id, estimate));
    }

    fn key_rules(&self) -> Option<KeyRules<'_>> {
        self.facts.key.as_deref().map(|key| KeyRules { id: key.id, rules: &key.limits })
    }

    fn estimate(&self, resolved: &Resolved) -> Estimate {
        // Counting uses no model.
        if self.facts.create.operation == Operation::CountInput {
            return Estimate { cost_nano_usd: Some(0), ..Estimate::default() };
        }
        let settings = &self.turns.settings;
        let history: Vec<Replayed<'_>> = resolved.history().collect();
        let own = [&self.facts.create.body()[..]].into_iter().chain(resolved.own.replaced_items());
        // A turn that generates nothing uses what it stores.
        if !self.facts.create.generate {
            return Estimate {
                input_tokens: input_tokens(own),
                cost_nano_usd: Some(0),
                ..Estimate::default()
            };
        }
        let input_tokens = input_tokens(history.iter().map(|replayed| replayed.segment.items()).chain(own));
        let create = &self.facts.create;
        let asked_tokens = create.max_output_tokens().unwrap_or(settings.assumed_output_tokens);
        let output_tokens = asked_tokens.saturating_mul(create.choices());
        let usage = Usage { input_tokens, output_tokens, ..Usage::default() };
        let cost_nano_usd = settings.prices.cost_nano_usd(&self.facts.create.model, &usage);
        Estimate { input_tokens, output_tokens, cost_nano_usd }
    }

    /// Replaces the upstream's rate limit headers, which are not about this client, by those of the caller's limits.
    pub(super) fn apply_rate_limit_headers(&self, headers: &mut HeaderMap) {
        if let Some(rates) = &self.progress.rates {
            rates.replace(headers);
        }
    }

    pub(super) fn turn_error(&self, failure: Failure) -> TurnError {
        TurnError { failure, rates: self.progress.rates.map(Box::new) }
    }
}
