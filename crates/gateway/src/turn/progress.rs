//! What is known of a turn while it runs.

use std::sync::Arc;
use std::time::Duration;

use antiphon_access::limits::{HeldReservation, Rates, input_tokens};
use antiphon_errors::Fault;
use antiphon_protocol::error::UpstreamError;
use antiphon_protocol::request::Operation;
use antiphon_protocol::usage::Usage;
use antiphon_store::Status;
use antiphon_upstream::account::Account;
use antiphon_upstream::client::ConnectTime;
use antiphon_upstream::metrics::ANSWERED;

use super::attempt::{FailedAttempt, Reply};
use super::record::Finished;
use super::{Failure, Reasoning, Turn};

/// The state of a turn beyond what was fixed at its admission; the log, the metrics and the request log get it.
pub struct Progress {
    /// The account of the current or latest attempt.
    pub account: Option<Arc<Account>>,
    pub attempts: Vec<Attempt>,
    /// When the current or latest attempt began, after the start of the turn.
    pub sent: Option<Duration>,
    /// Of the current or latest attempt.
    pub connect_time: ConnectTime,
    pub depth: u32,
    /// Whether the encrypted items of the chain were sent.
    pub reasoning: Option<Reasoning>,
    pub first_event: Option<Duration>,
    pub usage: Usage,
    /// Whether the upstream reported no usage, although it served a request that passes through.
    pub is_usage_estimated: bool,
    /// `None` for tokens of a model without a price.
    pub cost_nano_usd: Option<u64>,
    pub sent_bytes: usize,
    /// Events that were relayed on a stream before its client left.
    pub relayed_events: u64,
    /// The turn's reservation; it is settled with the turn.
    pub held: Option<HeldReservation>,
    /// What the client's limits have left.
    pub rates: Option<Rates>,
    /// Whether the turn failed on several accounts, so that the request may be the cause.
    pub is_suspect: bool,
    /// Whether an account has failed with the turn.
    pub has_failed: bool,
    /// Whether the turn is recorded, and its row in the request log with it.
    pub is_recorded: bool,
    pub outcome: Outcome,
    pub is_settled: bool,
}

/// One attempt at an upstream, and its outcome.
pub struct Attempt {
    pub account: Arc<Account>,
    pub outcome: &'static str,
    /// When it began and ended, after the start of the turn. An attempt that succeeds ends with the first event.
    pub during: (Duration, Duration),
    /// How long it took to connect, unless a connection was reused.
    pub connect: Option<Duration>,
}

/// Logs, traces and the request log keep no more of an error code: an upstream's can have any length.
const MAX_CODE_BYTES: usize = 64;

/// How a turn ended.
pub struct Outcome {
    /// A response status, or another word if the turn yielded no response.
    pub name: &'static str,
    /// The status that the client got.
    pub http_status: u16,
    /// At most [`MAX_CODE_BYTES`] of the code that the client got.
    pub code: Option<String>,
    pub fault: Option<Fault>,
    /// Whether the request itself is why it failed. A rate limit of the upstream is not the client's fault.
    pub is_own_fault: bool,
}

// === impl Turn ===

impl Turn {
    /// Notes a failed attempt.
    pub(super) fn record_attempt(&mut self, outcome: &'static str) {
        if let Some(account) = &self.progress.account {
            self.turns.upstream.metrics().attempt_ended(&account.name, outcome);
            let (account, now) = (Arc::clone(account), self.facts.started.elapsed());
            let during = (self.progress.sent.unwrap_or(now), now);
            let connect = self.progress.connect_time.take();
            self.progress.attempts.push(Attempt { account, outcome, during, connect });
            self.trace_attempt_outcome();
            // Another attempt at the same account follows at once.
            self.progress.sent = Some(now);
        }
    }

    /// Notes that an upstream has begun its reply: the turn stays with it.
    pub(super) fn reply_started(&mut self, reply: &Reply) {
        let account = reply.lease.account();
        let after = self.facts.started.elapsed();
        self.turns.metrics.count_reasoning(reply.reasoning);
        let metrics = account.metrics(self.turns.upstream.metrics());
        metrics.answered.inc();
        metrics.first_event.observe(after.as_secs_f64());
        let progress = &mut self.progress;
        let during = (progress.sent.unwrap_or(after), after);
        let (account, connect) = (Arc::clone(account), progress.connect_time.take());
        progress.attempts.push(Attempt { account, outcome: ANSWERED, during, connect });
        progress.reasoning = Some(reply.reasoning);
        progress.first_event = Some(after);
        self.trace_attempt_outcome();
    }

    /// Notes the turn's result: a response of any status, or the result of another operation.
    pub(super) fn end(&mut self, finished: &Finished, sent_bytes: usize) {
        self.trace_response(finished);
        let create = &self.facts.create;
        let is_reported = finished.usage != Usage::default();
        let is_estimated =
            !is_reported && create.operation.passes_through() && finished.status == Status::Completed;
        let usage = if is_estimated { self.estimated_usage(finished) } else { finished.usage };
        let progress = &mut self.progress;
        progress.outcome = Outcome::from_response(create.operation, finished);
        progress.usage = usage;
        progress.is_usage_estimated = is_estimated || usage.is_estimated;
        progress.cost_nano_usd = self.turns.settings.prices.cost_nano_usd(&create.model, &usage);
        progress.sent_bytes += sent_bytes;
    }

    /// The usage of a request that passes through, by the size of request and reply; each event of a stream is about a token.
    fn estimated_usage(&self, finished: &Finished) -> Usage {
        let output_tokens = match (self.facts.create.operation, self.progress.relayed_events) {
            (Operation::Embed, _) => 0,
            (_, 0) => input_tokens([&finished.response[..]]),
            (_, events) => events,
        };
        Usage {
            input_tokens: input_tokens([&self.facts.create.body()[..]]),
            output_tokens,
            ..Usage::default()
        }
    }
}

// === impl Progress ===

impl Progress {
    /// Notes that the turn failed.
    pub fn fail(&mut self, failure: &Failure) {
        self.outcome = Outcome::from_failure(failure);
    }

    /// Notes that the gateway ended a stream early.
    pub fn interrupt(&mut self, failure: &Failure) {
        self.outcome = Outcome::from_interrupted_stream(failure);
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            account: None,
            attempts: Vec::new(),
            sent: None,
            connect_time: ConnectTime::default(),
            depth: 0,
            reasoning: None,
            first_event: None,
            usage: Usage::default(),
            is_usage_estimated: false,
            cost_nano_usd: Some(0),
            sent_bytes: 0,
            relayed_events: 0,
            held: None,
            rates: None,
            is_suspect: false,
            has_failed: false,
            is_recorded: false,
            outcome: Outcome::LOST,
            is_settled: false,
        }
    }
}

// === impl Outcome ===

impl Outcome {
    /// The turn panicked.
    const LOST: Self = Self { name: "lost", http_status: 500, code: None, fault: None, is_own_fault: false };

    fn from_response(operation: Operation, finished: &Finished) -> Self {
        let name = match operation {
            Operation::Create | Operation::ChatCompletion | Operation::Embed => finished.status.as_str(),
            Operation::Compact => "compacted",
            Operation::CountInput => "counted",
        };
        match finished.error() {
            Some((code, message)) => {
                let failed = FailedAttempt::from_error_event(code, message);
                Self { name, http_status: 200, ..Self::from_failure(&failed.failure) }
            }
            None => Self { name, http_status: 200, code: None, fault: None, is_own_fault: false },
        }
    }

    fn from_failure(failure: &Failure) -> Self {
        let row = failure.row();
        let (name, http_status) = match failure {
            Failure::ClientGone => ("cancelled", 499),
            _ => ("refused", row.status.as_u16()),
        };
        let code = match failure {
            // Nothing went wrong.
            Failure::ClientGone => None,
            Failure::UpstreamError(reply) => UpstreamError::parse(&reply.body).code,
            _ => row.error.code.map(Into::into),
        };
        let code = code.filter(|code: &String| !code.is_empty()).map(|mut code| {
            code.truncate(code.floor_char_boundary(MAX_CODE_BYTES));
            code
        });
        let is_own_fault = row.fault == Fault::Client;
        Self { name, http_status, code, fault: Some(row.fault), is_own_fault }
    }

    fn from_interrupted_stream(failure: &Failure) -> Self {
        let name = if matches!(failure, Failure::ClientGone) { "cancelled" } else { "failed" };
        Self { name, http_status: 200, ..Self::from_failure(failure) }
    }
}
