//! Limits: a turn holds what it may come to before an account is chosen, and its client is told what is left.

use std::time::Duration;

use antiphon_protocol::request::Operation;
use antiphon_protocol::usage::Usage;
use http::HeaderMap;

use super::resolve::Resolved;
use super::{Failure, Rejected, Rules, Turn};
use antiphon_access::limits::{Estimate, KeyRules, NotHeld, ReservationRequest, input_tokens};

/// How long after the end of its time a turn may still be about to settle.
const SETTLING: Duration = Duration::from_mins(10);

impl Rules {
    /// How long nobody doubts that a turn runs that holds something.
    pub fn reservation_lifetime(&self) -> Duration {
        self.turn + SETTLING
    }
}

impl Turn {
    /// Costs a caller without limits nothing.
    pub(super) async fn reserve(&mut self, resolved: &Resolved) -> Result<(), Failure> {
        if !self.turns.limits.apply_to(&self.facts.project, self.key_rules()) {
            return Ok(());
        }
        if !self.turns.chains.is_available() {
            return Err(Failure::StoreUnavailable);
        }
        let request = ReservationRequest {
            id: self.facts.id,
            project: &self.facts.project,
            key: self.key_rules(),
            model: &self.facts.create.model,
            now: self.turns.env.clock.now(),
            expires_at: self.facts.started_at.plus(self.turns.rules.reservation_lifetime()),
        };
        let reserving = Box::pin(self.turns.limits.reserve(request, self.estimate(resolved)));
        match self.presence.or_given_up(reserving).await {
            Err(_given_up) => Err(Failure::ClientGone),
            Ok(Ok(held)) => {
                self.progress.rates = held.as_ref().map(|held| held.rates);
                self.progress.held = held;
                Ok(())
            }
            Ok(Err(NotHeld::Exceeded(exceeded))) => {
                self.progress.rates = Some(exceeded.rates);
                Err(Failure::LimitReached(exceeded))
            }
            Ok(Err(NotHeld::Store(error))) => Err(error.into()),
        }
    }

    fn key_rules(&self) -> Option<KeyRules<'_>> {
        self.facts.key.as_deref().map(|key| KeyRules { id: key.id, rules: &key.limits })
    }

    fn estimate(&self, resolved: &Resolved) -> Estimate {
        // No model is asked.
        if self.facts.create.operation == Operation::CountInput {
            return Estimate { cost_nano_usd: Some(0), ..Estimate::default() };
        }
        let rules = &self.turns.rules;
        let own = [self.facts.create.body()].into_iter().chain(resolved.own.replaced_items());
        // Nothing is sent: the turn comes to what it stores.
        if !self.facts.create.generate {
            return Estimate {
                input_tokens: input_tokens(own),
                cost_nano_usd: Some(0),
                ..Estimate::default()
            };
        }
        let input_tokens = input_tokens(resolved.history().chain(own));
        let output_tokens = self.facts.create.max_output_tokens().unwrap_or(rules.assumed_output_tokens);
        let usage = Usage { input_tokens, output_tokens, ..Usage::default() };
        let cost_nano_usd = rules.prices.cost_nano_usd(&self.facts.create.model, &usage);
        Estimate { input_tokens, output_tokens, cost_nano_usd }
    }

    /// What the upstream says of its own limits is not about this client.
    pub(super) fn tell_rates(&self, headers: &mut HeaderMap) {
        if let Some(rates) = &self.progress.rates {
            rates.replace(headers);
        }
    }

    pub(super) fn rejected(&self, failure: Failure) -> Rejected {
        Rejected { failure, rates: self.progress.rates.map(Box::new) }
    }
}
