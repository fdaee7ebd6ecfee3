//! Settle: writes a turn's outcome to the log, the metrics and the request log, exactly once.

use std::fmt;
use std::time::Duration;

use antiphon_access::limits::HeldReservation;
use antiphon_errors::Fault;
use antiphon_protocol::request::Operation;
use antiphon_protocol::usage::Usage;
use antiphon_store::{LogRow, Settlement, Spent};
use serde_json::json;

use super::progress::Attempt;
use super::{Reasoning, Turn};

impl Turn {
    pub(super) fn settle(&mut self) {
        if self.facts.door.run().is_some_and(|run| run.is_left()) {
            self.leave();
        }
        if std::mem::replace(&mut self.progress.is_settled, true) {
            return;
        }
        let duration = self.facts.started.elapsed();
        self.count(duration);
        match self.progress.held.take() {
            Some(held) if self.progress.is_recorded => held.mark_settled(),
            Some(held) => {
                let spent = self.spent(&held);
                held.settle(spent, Some(self.row()));
            }
            None if self.progress.is_recorded => {}
            None => self.turns.chains.append_log(self.row()),
        }
        // After the counters, so that they are complete once no turn is in flight.
        self.turns.metrics.in_flight.dec();
        self.log(duration);
        self.send_trace(duration);
    }

    /// Leaves the turn to whoever runs it later, who settles it.
    pub(super) fn leave(&mut self) {
        if let Some(run) = self.facts.door.run() {
            run.leave();
        }
        if std::mem::replace(&mut self.progress.is_settled, true) {
            return;
        }
        if let Some(held) = self.progress.held.take() {
            held.mark_settled();
        }
        self.turns.metrics.in_flight.dec();
    }

    /// The turn's row in the request log.
    pub(super) fn row(&self) -> LogRow {
        let (facts, progress) = (&self.facts, &self.progress);
        LogRow {
            at: facts.started_at,
            project: facts.project.clone(),
            response: facts.id,
            key: facts.key.as_ref().map(|key| key.id.to_string()),
            account: progress.account.as_ref().map(|account| account.name.clone()),
            model: facts.create.model.clone(),
            transport: facts.door.name().into(),
            outcome: progress.outcome.name.into(),
            http_status: progress.outcome.http_status,
            code: progress.outcome.code.clone(),
            depth: progress.depth,
            attempts: u32::try_from(progress.attempts.len()).unwrap_or(u32::MAX),
            input_tokens: progress.usage.input_tokens,
            cached_tokens: progress.usage.cached_tokens,
            output_tokens: progress.usage.output_tokens,
            reasoning_tokens: progress.usage.reasoning_tokens,
            is_estimated: progress.is_usage_estimated,
            cost_nano_usd: progress.cost_nano_usd,
            duration: facts.started.elapsed(),
            first_event: progress.first_event,
            sent: progress.attempts.last().map(|attempt| attempt.during.0),
            attempt_log: attempt_log(&progress.attempts),
            reasoning: progress.reasoning.map(|reasoning| reasoning.as_str().into()),
        }
    }

    /// Settles the turn's reservation, if it has one, in the transaction that writes its row.
    pub(super) fn settlement(&self) -> Option<Settlement> {
        self.progress.held.as_ref().map(|held| held.settlement(self.spent(held)))
    }

    /// What counts against limits. Tokens are those that the upstream reported. If the client left a stream before the report,
    /// the tokens that it received are estimated, or leaving early would be free. A turn that generates nothing
    /// counts the estimated tokens that it stores. Any other turn without a report counts no
    /// tokens.
    fn spent(&self, held: &HeldReservation) -> Spent {
        let progress = &self.progress;
        if !self.facts.create.generate {
            let is_kept = progress.outcome.fault.is_none();
            let tokens = if is_kept { held.estimate.input_tokens } else { 0 };
            return Spent { requests: u64::from(is_kept), tokens, cost_nano_usd: 0 };
        }
        let mut spent = Spent {
            requests: u64::from(self.counts_as_request()),
            tokens: progress.usage.input_tokens.saturating_add(progress.usage.output_tokens),
            cost_nano_usd: progress.cost_nano_usd.unwrap_or(0),
        };
        if spent.tokens == 0 && progress.relayed_events > 0 {
            let estimate = held.estimate;
            let output_tokens = progress.relayed_events.min(estimate.output_tokens);
            let usage = Usage { input_tokens: estimate.input_tokens, output_tokens, ..Usage::default() };
            let prices = &self.turns.settings.prices;
            spent.tokens = usage.input_tokens.saturating_add(output_tokens);
            spent.cost_nano_usd = prices.cost_nano_usd(&self.facts.create.model, &usage).unwrap_or(0);
        }
        spent
    }

    /// Whether the turn counts as a request: an upstream served it, or rejected it as the client's fault, or it failed on
    /// several accounts. Other failures of upstreams, the store or the gateway do not count.
    fn counts_as_request(&self) -> bool {
        // The reply to a background turn may have begun, and was to be collected.
        let has_begun = self.facts.door.run().is_some_and(|run| run.received_events() > 0);
        self.progress.first_event.is_some()
            || has_begun
            || self.progress.is_suspect
            || (self.progress.outcome.is_own_fault && !self.progress.attempts.is_empty())
    }

    fn count(&self, duration: Duration) {
        let (metrics, progress) = (&self.turns.metrics, &self.progress);
        let outcome = &progress.outcome;
        metrics.turn_ended(&self.facts.door, outcome.name, duration, progress.first_event);
        metrics.count_tokens(&progress.usage);
        let model = progress.account.as_ref().map(|_| self.facts.create.model.as_str());
        let key = self.facts.key.as_ref().map(|key| key.name.as_str());
        metrics.by.turn_ended(model, key, &progress.usage);
        if progress.is_usage_estimated {
            metrics.usage_estimated();
        }
        metrics.count_cost(progress.cost_nano_usd);
        if let Some(fault) = outcome.fault {
            metrics.turn_failed(fault.as_str(), outcome.code.as_deref());
        }
    }

    fn log(&self, duration: Duration) {
        let (facts, progress) = (&self.facts, &self.progress);
        tracing::info!(
            target: "antiphon::turn",
            {
                response.id = %facts.id,
                project.id = %facts.project,
                key.id = facts.key.as_ref().map(|key| tracing::field::display(key.id)),
                account.id = progress.account.as_ref().map(|account| account.name.as_str()),
                model = %facts.create.model,
                turn.operation = operation_name(facts.create.operation),
                turn.transport = facts.door.name(),
                turn.outcome = progress.outcome.name,
                turn.attempts = %Attempts(&progress.attempts),
                turn.store = facts.create.store,
                turn.recorded = progress.is_recorded,
                http.status = progress.outcome.http_status,
                error.code = progress.outcome.code.as_deref(),
                error.fault = progress.outcome.fault.map(Fault::as_str),
                chain.depth = progress.depth,
                chain.reasoning = progress.reasoning.map(Reasoning::as_str),
                sent_bytes = progress.sent_bytes,
                input_tokens = progress.usage.input_tokens,
                output_tokens = progress.usage.output_tokens,
                usage.estimated = progress.is_usage_estimated.then_some(true),
                duration_ms = millis(duration),
                first_event_ms = progress.first_event.map(millis),
                trace.id = self.trace.as_ref().map(|trace| tracing::field::display(trace.id)),
            },
            "turn"
        );
    }
}

/// Milliseconds with at most three decimals.
fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}

/// A turn that is dropped by a panic is settled as lost.
impl Drop for Turn {
    fn drop(&mut self) {
        self.settle();
    }
}

/// `account:outcome` of each attempt.
struct Attempts<'a>(&'a [Attempt]);

impl fmt::Display for Attempts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Attempt { account, outcome, .. }) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { " " };
            write!(f, "{separator}{}:{outcome}", account.name)?;
        }
        Ok(())
    }
}

/// Attempts as the request log keeps them. `None` if the rest of the row says all there is of a single one.
fn attempt_log(attempts: &[Attempt]) -> Option<String> {
    if matches!(attempts, [] | [Attempt { connect: None, .. }]) {
        return None;
    }
    let micros = |time: &Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let attempt = |Attempt { account, outcome, during: (began, ended), connect }: &Attempt| {
        let mut attempt = json!({
            "account": account.name, "outcome": outcome, "began_us": micros(began), "ended_us": micros(ended),
        });
        if let Some(connect) = connect {
            attempt["connect_us"] = micros(connect).into();
        }
        attempt
    };
    Some(attempts.iter().map(attempt).collect::<serde_json::Value>().to_string())
}

pub(super) fn operation_name(operation: Operation) -> &'static str {
    match operation {
        Operation::Create => "create",
        Operation::Compact => "compact",
        Operation::CountInput => "input_tokens",
        Operation::ChatCompletion => "chat_completion",
        Operation::Embed => "embed",
    }
}
