//! Choose and attempt: tries accounts one after the other until an upstream begins its reply.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use antiphon_protocol::error::ApiError;
use antiphon_protocol::request::{CreateRequest, Operation};
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::correction::Corrections;
use super::near::did_you_mean;
use super::resolve::{Reasoning, Resolved};
use super::sending::Accepted;
use super::trace::Step;
use super::{Facts, Failure, Turn, UpstreamErrorReply};
use crate::body_memory::Reservation;
use antiphon_upstream::account::Account;
use antiphon_upstream::dialect::ReplyFormat;
use antiphon_upstream::pool::{Lease, Preference, Shortage, Verdict, Wanted};
use antiphon_upstream::transport::{EventReader, Redaction, ReplyBody, headers};

/// How often a turn is tried, over all accounts.
const MAX_ATTEMPTS: u32 = 3;
/// Tells the client whether the account could read all encrypted items of the chain.
const REASONING_HEADER: HeaderName = HeaderName::from_static("x-antiphon-reasoning");
/// Names what the account's upstream can't have and was left out of the request.
const OMITTED_HEADER: HeaderName = HeaderName::from_static("x-antiphon-omitted");
/// Headers that name a client's session, for requests without a `prompt_cache_key`.
pub const SESSION_HEADERS: [&str; 2] = ["session-id", "x-session-affinity"];

/// How long a background turn waits before it queues for an account again.
const BUSY_PAUSE: Duration = Duration::from_secs(1);

/// The reply of an upstream that has accepted the turn.
pub struct Reply {
    pub lease: Lease,
    /// The upstream's headers that a client may see.
    pub headers: HeaderMap,
    pub content_type: Option<String>,
    /// `None` once it has been taken to be read.
    pub body: Option<ReplyBody>,
    pub reasoning: Reasoning,
    pub format: ReplyFormat,
    pub redaction: Redaction,
    /// For what is kept of it.
    pub memory: Reservation,
}

/// The part of a reply that commits a turn to its account. Until it has arrived, the turn may go to another account.
pub trait ReplyStart: Sized {
    fn begin(
        turn: &Turn,
        resolved: &Resolved,
        reply: &mut Reply,
        earlier: &Earlier,
    ) -> impl Future<Output = Result<Self, FailedAttempt>> + Send;
}

/// The attempts before the one that is made.
#[derive(Clone, Default)]
pub struct Earlier {
    attempts: u32,
    /// Accounts that are not tried again.
    tried: Vec<String>,
    rate_limited: Vec<String>,
}

/// A failed attempt.
pub struct FailedAttempt {
    /// What the client gets if no other account is left.
    pub failure: Failure,
    pub verdict: Verdict,
}

impl Turn {
    /// Sends the turn upstream and waits for the reply to begin. When an account fails, another one may take over.
    pub(super) async fn attempt<A: ReplyStart>(
        &mut self,
        resolved: &Resolved,
    ) -> Result<(Reply, A), Failure> {
        self.reserve(resolved).await?;
        let turns = Arc::clone(&self.turns);
        let outcome = {
            let attempting = pin!(self.attempt_on_accounts(resolved));
            turns.env.tasks.interruption().or(attempting).await
        };
        outcome.unwrap_or_else(|| Err(self.stopped()))
    }

    async fn attempt_on_accounts<A: ReplyStart>(
        &mut self,
        resolved: &Resolved,
    ) -> Result<(Reply, A), Failure> {
        let mut earlier = Earlier::default();
        let mut last: Option<Failure> = None;
        loop {
            self.trace_step(Step::Choose);
            let lease = match self.choose(resolved, &earlier.tried).await {
                Ok(lease) => lease,
                // The error of an upstream tells the client more than that no account is left.
                Err(shortage) => return Err(last.map_or(shortage, |failure| self.with_retry_after(failure))),
            };
            if let Some(run) = self.facts.door.run().filter(|_| last.is_none()) {
                // Boxed, as it is rare: otherwise every turn's future would have room for it.
                Box::pin(self.begin_in_background(run)).await?;
            }
            self.progress.account = Some(Arc::clone(lease.account()));
            self.progress.sent = Some(self.facts.started.elapsed());
            let attempt = self.attempt_on(lease, resolved, &earlier).await;
            let (lease, FailedAttempt { failure, verdict }) = match attempt {
                Ok(started) => return Ok(started),
                Err(failed) => failed,
            };
            self.record_attempt(verdict.as_str());
            self.learn(&lease, &verdict);
            earlier.add(lease.account(), &verdict);
            drop(lease);
            // What went wrong at an account that could have served the turn tells the client more.
            let failure = match last.take() {
                Some(before) if cannot_serve(&verdict) || says_less(&verdict) => before,
                _ => failure,
            };
            if !verdict.allows_failover() || !self.may_try_again(resolved, &mut earlier) {
                return Err(self.with_retry_after(failure));
            }
            last = Some(failure);
        }
    }

    /// Reports to the leased account how the turn went. A turn that fails on several accounts may itself be the cause: it does not
    /// count against the later ones.
    pub(super) fn learn(&mut self, lease: &Lease, verdict: &Verdict) {
        if *verdict == Verdict::Failed && std::mem::replace(&mut self.progress.has_failed, true) {
            self.progress.is_suspect = true;
            return;
        }
        lease.record_attempt(verdict, self.asked());
    }

    async fn attempt_on<A: ReplyStart>(
        &mut self,
        lease: Lease,
        resolved: &Resolved,
        earlier: &Earlier,
    ) -> Result<(Reply, A), (Lease, FailedAttempt)> {
        if let Some(run) = self.facts.door.run() {
            run.forget_upstream();
        }
        let mut reply = self.send_until_accepted(lease, resolved).await?;
        match A::begin(self, resolved, &mut reply, earlier).await {
            Ok(started) => Ok((reply, started)),
            Err(failed) => Err((reply.lease, failed)),
        }
    }

    /// Sends the turn to one account; repeats it in a form that this account accepts, if there is one.
    async fn send_until_accepted(
        &mut self,
        lease: Lease,
        resolved: &Resolved,
    ) -> Result<Reply, (Lease, FailedAttempt)> {
        let account = Arc::clone(lease.account());
        match self.send_with_retries(&account, resolved).await {
            Ok(accepted) => {
                let reasoning = HeaderValue::from_static(accepted.reasoning.as_str());
                let mut reply = Reply::new(lease, accepted, Reservation::empty(self.memory.share()));
                if !self.facts.create.operation.passes_through() {
                    reply.headers.insert(REASONING_HEADER, reasoning);
                }
                Ok(reply)
            }
            Err(failed) => Err((lease, failed)),
        }
    }

    async fn choose(&self, resolved: &Resolved, tried: &[String]) -> Result<Lease, Failure> {
        let pool = &self.turns.pool;
        let key = self.affinity_key();
        let wanted = self.wanted(resolved, key.as_deref(), tried);
        let listing = Wanted { may_be_unlisted: false, ..wanted };
        let choosing = async {
            loop {
                let mut chosen = pool.choose(listing).await;
                if let Err(Shortage::NotOffered) = chosen {
                    Box::pin(pool.refresh_catalogs(&self.turns.upstream, self.turns.env.clock.now())).await;
                }
                if let Err(
                    Shortage::NotOffered | Shortage::Unusable | Shortage::Refused | Shortage::EndpointMissing,
                ) = chosen
                {
                    chosen = pool.choose(wanted).await;
                }
                match chosen {
                    // Nobody waits for a background turn.
                    Err(Shortage::Busy | Shortage::Cooling { .. }) if self.facts.door.run().is_some() => {
                        tokio::time::sleep(BUSY_PAUSE).await;
                    }
                    chosen => return chosen,
                }
            }
        };
        let chosen =
            tokio::time::timeout_at(self.deadline.into(), self.cancellation.or_cancelled(choosing)).await;
        match chosen {
            Err(_elapsed) => Err(Failure::AllBusy),
            Ok(Err(_cancelled)) => Err(Failure::ClientGone),
            Ok(Ok(chosen)) => chosen.map_err(|shortage| self.no_account_failure(shortage)),
        }
    }

    pub(super) fn wanted<'a>(
        &'a self,
        resolved: &'a Resolved,
        key: Option<&'a str>,
        tried: &'a [String],
    ) -> Wanted<'a> {
        let preference = Preference { origin: resolved.origin(), key };
        Wanted { preference, tried, ..self.asked() }
    }

    /// What the turn requires of any account.
    pub(super) fn asked(&self) -> Wanted<'_> {
        let CreateRequest { operation, model, .. } = &self.facts.create;
        let caller = self.caller();
        Wanted { operation: *operation, model, caller, may_be_unlisted: true, ..Wanted::default() }
    }

    /// Turns with the same key prefer the same account, so that they share its upstream's cache.
    fn affinity_key(&self) -> Option<String> {
        let session = || {
            let header = SESSION_HEADERS.iter().find_map(|name| self.headers.get(*name))?;
            header.to_str().ok().map(str::to_owned)
        };
        self.facts.create.prompt_cache_key().or_else(session).filter(|key| !key.is_empty())
    }

    /// Whose requests count together when they make accounts fail; `None` without keys, as callers cannot be told apart.
    pub(super) fn caller(&self) -> Option<&str> {
        self.facts.key.as_ref().map(|_| self.facts.project.as_str())
    }

    fn can_fail_over(&self, resolved: &Resolved, tried: &[String]) -> bool {
        Instant::now() < self.deadline && self.turns.pool.has_candidate(self.wanted(resolved, None, tried))
    }

    fn may_try_again(&self, resolved: &Resolved, earlier: &mut Earlier) -> bool {
        if !self.can_fail_over(resolved, &earlier.tried) {
            // No other account is left, but a rate limited one may be ready again soon.
            earlier.tried.retain(|name| !earlier.rate_limited.contains(name));
        }
        earlier.attempts < MAX_ATTEMPTS && self.can_fail_over(resolved, &earlier.tried)
    }

    /// Whether the turn would be tried again once this attempt has failed.
    pub(super) fn may_move(&self, resolved: &Resolved, earlier: &Earlier, from: &Account) -> bool {
        let mut after = earlier.clone();
        after.add(from, &Verdict::Failed);
        self.may_try_again(resolved, &mut after)
    }

    pub(super) fn no_account_failure(&self, shortage: Shortage) -> Failure {
        match shortage {
            Shortage::Busy => Failure::AllBusy,
            Shortage::Cooling { until, is_limited } => {
                let wait = until.since(self.turns.env.clock.now());
                if is_limited { Failure::AllCoolingDown(wait) } else { Failure::AllFailing(wait) }
            }
            Shortage::Unusable => Failure::NoAccount,
            Shortage::Refused => Failure::CredentialsRefused,
            // Elsewhere its upstreams may well serve it.
            Shortage::NotOffered if self.facts.create.operation != Operation::Create && self.is_listed() => {
                self.endpoint_missing()
            }
            Shortage::NotOffered => self.model_not_found(),
            Shortage::EndpointMissing => self.endpoint_missing(),
        }
    }

    /// Names models that the caller may use and whose names are like the one that nobody has.
    pub(super) fn model_not_found(&self) -> Failure {
        let Facts { key, create, .. } = &self.facts;
        let allows = |model: &str| key.as_ref().is_none_or(|key| key.allows(model));
        let models = self.turns.pool.models().only(allows);
        let is_known = models.find(&create.model).is_some();
        let near = if is_known { String::new() } else { did_you_mean(&create.model, models.ids()) };
        Failure::ModelNotFound { model: create.model.clone(), near }
    }

    fn is_listed(&self) -> bool {
        self.turns.pool.models().find(&self.facts.create.model).is_some()
    }

    pub(super) fn endpoint_missing(&self) -> Failure {
        let CreateRequest { operation, model, .. } = &self.facts.create;
        Failure::EndpointMissing { path: operation.path(), model: model.clone() }
    }
}

// === impl Earlier ===

impl Earlier {
    fn add(&mut self, account: &Account, verdict: &Verdict) {
        // Nothing was tried where there is no endpoint, or where the API has no words for the request.
        self.attempts += u32::from(!cannot_serve(verdict));
        self.tried.push(account.name.clone());
        if matches!(verdict, Verdict::RateLimited { .. }) {
            self.rate_limited.push(account.name.clone());
        }
    }
}

// === impl Reply ===

impl Reply {
    fn new(lease: Lease, accepted: Accepted, memory: Reservation) -> Self {
        let Accepted { reply, reasoning, format, omitted, authorization } = accepted;
        let (head, body) = reply.into_parts();
        let content_type = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let mut headers = headers::for_client(&head.headers);
        if let Some(omitted) = omitted {
            headers.insert(OMITTED_HEADER, omitted);
        }
        let content_type = content_type.map(str::to_owned);
        let redaction = Redaction::new(Arc::clone(lease.account()), authorization);
        Self { lease, headers, content_type, body: Some(body), reasoning, format, redaction, memory }
    }

    /// What is put right in it.
    pub fn corrections(&self) -> Corrections {
        Corrections::new(self.redaction.clone())
    }

    /// Takes the body, to read it event by event.
    pub fn events(&mut self, max_event_bytes: usize) -> EventReader {
        let body = self.body.take().unwrap_or_else(ReplyBody::empty);
        EventReader::new(body, &self.format, max_event_bytes)
    }

    /// Continues with another body.
    pub fn continued(&mut self, body: ReplyBody, max_event_bytes: usize) -> EventReader {
        self.body = Some(body);
        self.events(max_event_bytes)
    }

    pub fn is_event_stream(&self) -> bool {
        self.content_type.as_deref().is_some_and(|kind| kind.starts_with("text/event-stream"))
    }
}

// === impl FailedAttempt ===

impl FailedAttempt {
    /// From an error event that begins the stream, before anything was sent to the client.
    pub fn from_error_event(code: String, message: String) -> Self {
        let verdict = Verdict::from_event(&code, &message);
        let failure =
            Failure::UpstreamError(Box::new(UpstreamErrorReply::from_event(&verdict, code, message)));
        Self { failure, verdict }
    }

    /// The account's upstream speaks an API that can't express the request.
    pub fn unsupported(error: ApiError) -> Self {
        Self { failure: Failure::Unsupported(Box::new(error)), verdict: Verdict::Unsupported }
    }

    /// No connection to the account's upstream.
    pub fn unreachable(failure: Failure) -> Self {
        Self { failure, verdict: Verdict::Unreachable }
    }

    /// It is not the account's failure.
    pub fn neutral(failure: Failure) -> Self {
        Self { failure, verdict: Verdict::Neutral }
    }

    pub fn client_gone() -> Self {
        Self::neutral(Failure::ClientGone)
    }
}

/// Counts as a failure of the account.
impl From<Failure> for FailedAttempt {
    fn from(failure: Failure) -> Self {
        Self { failure, verdict: Verdict::Failed }
    }
}

fn cannot_serve(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::EndpointMissing | Verdict::Unsupported)
}

/// Whether what went wrong at an earlier account tells the client more.
fn says_less(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::ModelMissing | Verdict::CredentialRefused | Verdict::CredentialInvalid)
}
