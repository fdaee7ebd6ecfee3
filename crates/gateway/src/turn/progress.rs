//! What a turn learns on its way, until it is settled.

use std::sync::Arc;
use std::time::Duration;

use antiphon_access::limits::{HeldReservation, Rates};
use antiphon_protocol::error::UpstreamError;
use antiphon_protocol::request::Operation;
use antiphon_protocol::usage::Usage;
use antiphon_upstream::account::Account;
use antiphon_upstream::metrics::ANSWERED;

use super::attempt::Reply;
use super::record::Finished;
use super::{Failure, Reasoning, Turn};
use crate::errors::Fault;

/// What there is to tell of a turn beside what its admission has fixed.
pub struct Progress {
    /// Where the turn is, or was last.
    pub account: Option<Arc<Account>>,
    pub attempts: Vec<Attempt>,
    pub depth: u32,
    /// What became of the encrypted items of the history.
    pub reasoning: Option<Reasoning>,
    pub first_event: Option<Duration>,
    pub usage: Usage,
    /// `None` for tokens of a model without a price.
    pub cost_nano_usd: Option<u64>,
    pub sent_bytes: usize,
    /// Events of a stream that its client has left.
    pub relayed_events: u64,
    /// What the turn holds of limits; it is settled with the turn.
    pub held: Option<HeldReservation>,
    /// What is left to a client that is under limits.
    pub rates: Option<Rates>,
    /// Whether the turn failed on one account after the other, so that the request may be what made them fail.
    pub is_suspect: bool,
    /// Whether the row has gone into the store with the turn itself.
    pub is_recorded: bool,
    pub outcome: Outcome,
    pub is_settled: bool,
}

/// One try at an upstream, and what came of it.
pub struct Attempt {
    pub account: Arc<Account>,
    pub outcome: &'static str,
}

/// How a turn ended.
pub struct Outcome {
    /// A response status, or what the turn came to if it yielded no response.
    pub name: &'static str,
    /// What the client was told.
    pub http_status: u16,
    pub code: Option<String>,
    pub fault: Option<Fault>,
}

// === impl Turn ===

impl Turn {
    /// An attempt came to nothing.
    pub(super) fn note_attempt(&mut self, outcome: &'static str) {
        if let Some(account) = &self.progress.account {
            self.turns.upstream.metrics().attempt_ended(&account.name, outcome);
            self.progress.attempts.push(Attempt { account: Arc::clone(account), outcome });
        }
    }

    /// An upstream has begun to answer: the turn stays with it.
    pub(super) fn answered(&mut self, reply: &Reply) {
        let account = reply.lease.account();
        let after = self.facts.started.elapsed();
        self.turns.metrics.history_sent(reply.reasoning);
        let metrics = account.metrics(self.turns.upstream.metrics());
        metrics.answered.inc();
        metrics.first_event.observe(after.as_secs_f64());
        let progress = &mut self.progress;
        progress.attempts.push(Attempt { account: Arc::clone(account), outcome: ANSWERED });
        progress.reasoning = Some(reply.reasoning);
        progress.first_event = Some(after);
    }

    /// The turn yielded a response, whatever its status, or what else it was for.
    pub(super) fn end(&mut self, finished: &Finished, sent_bytes: usize) {
        let create = &self.facts.create;
        let progress = &mut self.progress;
        progress.outcome = Outcome::of_response(create.operation, finished);
        progress.usage = finished.usage;
        progress.cost_nano_usd = self.turns.rules.prices.cost_nano_usd(&create.model, &finished.usage);
        progress.sent_bytes += sent_bytes;
    }
}

// === impl Progress ===

impl Progress {
    /// The turn yielded no response, or not the one that was under way.
    pub fn fail(&mut self, failure: &Failure) {
        self.outcome = Outcome::of_failure(failure);
    }

    /// A stream that had begun was ended by the gateway.
    pub fn break_off(&mut self, failure: &Failure) {
        self.outcome = Outcome::of_broken_stream(failure);
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            account: None,
            attempts: Vec::new(),
            depth: 0,
            reasoning: None,
            first_event: None,
            usage: Usage::default(),
            cost_nano_usd: Some(0),
            sent_bytes: 0,
            relayed_events: 0,
            held: None,
            rates: None,
            is_suspect: false,
            is_recorded: false,
            outcome: Outcome::LOST,
            is_settled: false,
        }
    }
}

// === impl Outcome ===

impl Outcome {
    /// Nobody said how the turn ended: it panicked.
    const LOST: Self = Self { name: "lost", http_status: 500, code: None, fault: None };

    fn of_response(operation: Operation, finished: &Finished) -> Self {
        let name = match operation {
            Operation::Create => finished.status.as_str(),
            Operation::Compact => "compacted",
            Operation::CountInput => "counted",
        };
        Self { name, http_status: 200, code: None, fault: None }
    }

    fn of_failure(failure: &Failure) -> Self {
        let row = failure.row();
        let (name, http_status) = match failure {
            Failure::ClientGone => ("cancelled", 499),
            _ => ("refused", row.status.as_u16()),
        };
        let code = match failure {
            Failure::UpstreamError(reply) => UpstreamError::parse(&reply.body).code,
            _ => row.error.code.map(Into::into),
        };
        Self { name, http_status, code, fault: Some(row.fault) }
    }

    fn of_broken_stream(failure: &Failure) -> Self {
        let name = if matches!(failure, Failure::ClientGone) { "cancelled" } else { "failed" };
        Self { name, http_status: 200, ..Self::of_failure(failure) }
    }
}
