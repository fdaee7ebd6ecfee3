//! Settle: what a turn came to, in the log, the metrics and the request log; exactly once.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use antiphon_protocol::id::{KeyId, ProjectId, ResponseId};
use antiphon_protocol::request::{CreateRequest, Operation};
use antiphon_protocol::usage::Usage;
use antiphon_store::{LogRow, Settlement, Spent, Timestamp};

use super::attempt::Reply;
use super::record::Finished;
use super::{Failure, Transport, Turns};
use crate::errors::Fault;
use antiphon_access::keys::Key;
use antiphon_access::limits::Held;
use antiphon_upstream::account::Account;
use antiphon_upstream::metrics::ANSWERED;

/// An upstream that has none left for anybody is not the client's doing.
const TOO_MANY_REQUESTS: u16 = 429;

/// The running account of a turn. Dropped unsettled (by a panic), it settles itself as lost.
pub struct Ledger {
    turns: Arc<Turns>,
    id: ResponseId,
    at: Timestamp,
    started: Instant,
    project: ProjectId,
    key: Option<KeyId>,
    model: String,
    operation: Operation,
    store: bool,
    pub transport: Transport,
    /// Where the turn is, or was last.
    pub account: Option<Arc<Account>>,
    pub depth: u32,
    /// What became of the encrypted items of the history.
    reasoning: Option<&'static str>,
    /// Every attempt, and what came of it.
    attempts: Vec<(Arc<Account>, &'static str)>,
    pub first_event: Option<Duration>,
    usage: Usage,
    /// `None` for tokens of a model without a price.
    cost_nano_usd: Option<u64>,
    pub sent_bytes: usize,
    /// Events of a stream that its client has left.
    pub relayed_events: u64,
    /// What the turn holds of limits.
    held: Option<Held>,
    /// Whether the row has gone into the store with the turn itself.
    pub is_recorded: bool,
    outcome: &'static str,
    http_status: u16,
    code: Option<String>,
    fault: Option<&'static str>,
    is_settled: bool,
}

impl Ledger {
    pub(super) fn open(
        turns: &Arc<Turns>,
        (id, at): (ResponseId, Timestamp),
        (project, key): (&ProjectId, Option<&Key>),
        create: &CreateRequest,
        transport: Transport,
    ) -> Self {
        turns.metrics.in_flight.inc();
        Self {
            turns: Arc::clone(turns),
            id,
            at,
            started: Instant::now(),
            project: project.clone(),
            key: key.map(|key| key.id),
            model: create.model.clone(),
            operation: create.operation,
            store: create.store,
            transport,
            account: None,
            depth: 0,
            reasoning: None,
            attempts: Vec::new(),
            first_event: None,
            usage: Usage::default(),
            cost_nano_usd: Some(0),
            sent_bytes: 0,
            relayed_events: 0,
            held: None,
            is_recorded: false,
            outcome: "lost",
            http_status: 500,
            code: None,
            fault: None,
            is_settled: false,
        }
    }

    /// From here on the reservation is settled with the turn.
    pub(super) fn hold(&mut self, held: Option<Held>) {
        self.held = held;
    }

    /// An attempt came to nothing.
    pub(super) fn note_attempt(&mut self, outcome: &'static str) {
        if let Some(account) = &self.account {
            self.turns.upstream.metrics().attempt_ended(&account.name, outcome);
            self.attempts.push((Arc::clone(account), outcome));
        }
    }

    /// An upstream has begun to answer: the turn stays with it.
    pub(super) fn answered(&mut self, reply: &Reply) {
        let account = reply.lease.account();
        self.attempts.push((Arc::clone(account), ANSWERED));
        self.turns.metrics.history_sent(reply.reasoning);
        self.reasoning = Some(reply.reasoning.as_str());
        let after = self.elapsed();
        self.first_event = Some(after);
        let metrics = account.metrics(self.turns.upstream.metrics());
        metrics.answered.inc();
        metrics.first_event.observe(after.as_secs_f64());
    }

    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The turn yielded a response, whatever its status, or what else it was for.
    pub(super) fn end(&mut self, finished: &Finished, sent_bytes: usize) {
        self.outcome = match self.operation {
            Operation::Create => finished.status.as_str(),
            Operation::Compact => "compacted",
            Operation::CountInput => "counted",
        };
        self.http_status = 200;
        self.usage = finished.usage;
        self.cost_nano_usd = self.turns.rules.prices.cost_nano_usd(&self.model, &self.usage);
        self.sent_bytes += sent_bytes;
    }

    /// The turn yielded no response, or not the one that was under way.
    pub(super) fn fail(&mut self, failure: &Failure) {
        let is_gone = matches!(failure, Failure::ClientGone);
        self.outcome = if is_gone { "cancelled" } else { "refused" };
        self.http_status = if is_gone { 499 } else { failure.row().status.as_u16() };
        self.code = match failure {
            Failure::UpstreamError(reply) => antiphon_protocol::error::UpstreamError::parse(&reply.body).code,
            _ => failure.api_error().code.map(Into::into),
        };
        self.fault = Some(failure.row().fault.as_str());
    }

    /// A stream that had begun was ended by the gateway.
    pub(super) fn break_off(&mut self, failure: &Failure) {
        self.fail(failure);
        self.http_status = 200;
        self.outcome = if matches!(failure, Failure::ClientGone) { "cancelled" } else { "failed" };
    }

    pub(super) fn row(&self) -> LogRow {
        LogRow {
            at: self.at,
            project: self.project.clone(),
            response: self.id,
            key: self.key.map(|key| key.to_string()),
            account: self.account.as_ref().map(|account| account.name.clone()),
            model: self.model.clone(),
            transport: self.transport.as_str().into(),
            outcome: self.outcome.into(),
            http_status: self.http_status,
            code: self.code.clone(),
            depth: self.depth,
            attempts: u32::try_from(self.attempts.len()).unwrap_or(u32::MAX),
            input_tokens: self.usage.input_tokens,
            cached_tokens: self.usage.cached_tokens,
            output_tokens: self.usage.output_tokens,
            reasoning_tokens: self.usage.reasoning_tokens,
            cost_nano_usd: self.cost_nano_usd,
            duration: self.elapsed(),
            first_event: self.first_event,
        }
    }

    /// What settles the turn's reservation, if it has one, for a write that brings its row.
    pub(super) fn settlement(&self) -> Option<Settlement> {
        self.held.as_ref().map(|held| held.settlement(self.spent(held)))
    }

    /// What counts against limits. Tokens are those that the upstream reports. Of a stream that its client has left before the
    /// upstream could, what the client got is estimated, or leaving early would be free; whatever else ended without a
    /// report counts no tokens.
    fn spent(&self, held: &Held) -> Spent {
        let mut spent = Spent {
            requests: u64::from(self.is_request()),
            tokens: self.usage.input_tokens.saturating_add(self.usage.output_tokens),
            cost_nano_usd: self.cost_nano_usd.unwrap_or(0),
        };
        if spent.tokens == 0 && self.relayed_events > 0 {
            let estimate = held.estimate;
            let output_tokens = self.relayed_events.min(estimate.output_tokens);
            let usage = Usage { input_tokens: estimate.input_tokens, output_tokens, ..Usage::default() };
            spent.tokens = usage.input_tokens.saturating_add(output_tokens);
            spent.cost_nano_usd = self.turns.rules.prices.cost_nano_usd(&self.model, &usage).unwrap_or(0);
        }
        spent
    }

    /// Whether the turn counts as a request: an upstream has answered it, or refused what the client asks for. What
    /// upstreams, the store or this gateway failed at takes nothing from a key.
    fn is_request(&self) -> bool {
        let is_own_fault =
            self.fault == Some(Fault::Client.as_str()) && self.http_status != TOO_MANY_REQUESTS;
        self.first_event.is_some() || (is_own_fault && !self.attempts.is_empty())
    }

    pub(super) fn settle(&mut self) {
        if std::mem::replace(&mut self.is_settled, true) {
            return;
        }
        let metrics = &self.turns.metrics;
        let duration = self.elapsed();
        metrics.in_flight.dec();
        metrics.turn_ended(self.transport, self.outcome, duration, self.first_event);
        metrics.count_tokens(&self.usage);
        metrics.count_cost(self.cost_nano_usd);
        if let Some(fault) = self.fault {
            metrics.turn_failed(fault, self.code.as_deref());
        }
        match self.held.take() {
            Some(held) if self.is_recorded => held.settled(),
            Some(held) => {
                let spent = self.spent(&held);
                held.settle(spent, self.row());
            }
            None if self.is_recorded => {}
            None => self.turns.chains.append_log(self.row()),
        }
        tracing::info!(
            target: "antiphon::turn",
            {
                response.id = %self.id,
                project.id = %self.project,
                key.id = self.key.map(tracing::field::display),
                account.id = self.account.as_ref().map(|account| account.name.as_str()),
                model = %self.model,
                turn.operation = operation_name(self.operation),
                turn.transport = self.transport.as_str(),
                turn.outcome = self.outcome,
                turn.attempts = %Attempts(&self.attempts),
                turn.store = self.store,
                turn.recorded = self.is_recorded,
                http.status = self.http_status,
                error.code = self.code.as_deref(),
                error.fault = self.fault,
                chain.depth = self.depth,
                chain.reasoning = self.reasoning,
                sent_bytes = self.sent_bytes,
                input_tokens = self.usage.input_tokens,
                output_tokens = self.usage.output_tokens,
                duration_ms = duration.as_secs_f64() * 1e3,
                first_event_ms = self.first_event.map(|first| first.as_secs_f64() * 1e3),
            },
            "turn"
        );
    }
}

/// `account:outcome` of each attempt.
struct Attempts<'a>(&'a [(Arc<Account>, &'static str)]);

impl fmt::Display for Attempts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (account, outcome)) in self.0.iter().enumerate() {
            let separator = if place == 0 { "" } else { " " };
            write!(f, "{separator}{}:{outcome}", account.name)?;
        }
        Ok(())
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.settle();
    }
}

fn operation_name(operation: Operation) -> &'static str {
    match operation {
        Operation::Create => "create",
        Operation::Compact => "compact",
        Operation::CountInput => "input_tokens",
    }
}
