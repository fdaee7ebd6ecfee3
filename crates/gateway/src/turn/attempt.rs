//! Choose and attempt: accounts for the turn, one after the other, until an upstream begins to answer.

use std::sync::Arc;
use std::time::Instant;

use antiphon_protocol::error::UpstreamError;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::resolve::{Reasoning, Resolved};
use super::{Failure, Turn, UpstreamErrorReply};
use crate::errors::RETRY_AFTER;
use antiphon_runtime::whole_seconds;
use antiphon_upstream::account::Account;
use antiphon_upstream::pool::{Lease, Origin, Preference, Shortage, Verdict, Wanted};
use antiphon_upstream::transport::{EventReader, ReplyBody, headers};

/// How often a turn is tried, on one account or another.
const MAX_ATTEMPTS: u32 = 3;
/// An error reply is passed on whole up to this size; a larger one is no error reply of the API.
const MAX_REFUSAL_BYTES: usize = 1024 * 1024;
/// Tells the client whether everything encrypted in its history could be read where the turn was served.
const REASONING_HEADER: HeaderName = HeaderName::from_static("x-antiphon-reasoning");
/// Headers that name a client's session, where the request has no `prompt_cache_key`.
const SESSION_HEADERS: [&str; 2] = ["session-id", "x-session-affinity"];

/// An upstream that has accepted the turn.
pub struct Reply {
    pub lease: Lease,
    /// Those of the upstream's headers that a client may see.
    pub headers: HeaderMap,
    pub content_type: Option<String>,
    /// Gone once it has been read.
    pub body: Option<ReplyBody>,
    pub reasoning: Reasoning,
}

/// What has to come before a turn is committed to an account: as long as it has not, the turn may go to another.
pub trait Answer: Sized {
    fn begin(
        turn: &Turn,
        resolved: &Resolved,
        reply: &mut Reply,
    ) -> impl Future<Output = Result<Self, Failed>> + Send;
}

/// An attempt that came to nothing.
pub struct Failed {
    /// What the client is told if there is no other account.
    pub failure: Failure,
    pub verdict: Verdict,
}

impl Turn {
    /// Sends the turn upstream and waits for the answer to begin. What an account can't do, another may.
    pub(super) async fn attempt<A: Answer>(&mut self, resolved: &Resolved) -> Result<(Reply, A), Failure> {
        self.reserve(resolved).await?;
        let mut tried: Vec<String> = Vec::new();
        let mut last: Option<Failure> = None;
        let (mut attempts, mut has_failed) = (0, false);
        loop {
            attempts += 1;
            let lease = match self.choose(resolved, &tried).await {
                Ok(lease) => lease,
                // What an upstream said tells the client more than that there is none left.
                Err(shortage) => return Err(last.map_or(shortage, |failure| self.with_return(failure))),
            };
            self.progress.account = Some(Arc::clone(lease.account()));
            let (lease, Failed { failure, verdict }) = match self.attempt_on(lease, resolved).await {
                Ok(begun) => return Ok(begun),
                Err(failed) => failed,
            };
            self.note_attempt(verdict.as_str());
            // What fails on one account after the other is suspect itself, and counts against its caller alone.
            let is_suspect = has_failed && verdict == Verdict::Failed;
            has_failed |= verdict == Verdict::Failed;
            if is_suspect {
                self.progress.is_suspect = true;
            } else {
                self.learn(&lease, &verdict);
            }
            // An account that is rate limited may be back soon, and others are not asked twice.
            if !matches!(verdict, Verdict::RateLimited { .. }) {
                tried.push(lease.account().name.clone());
            }
            drop(lease);
            if !verdict.allows_failover() || attempts == MAX_ATTEMPTS || !self.has_another(resolved, &tried) {
                return Err(self.with_return(failure));
            }
            last = Some(failure);
        }
    }

    /// Lets the account of a lease learn how the turn went there.
    pub(super) fn learn(&self, lease: &Lease, verdict: &Verdict) {
        lease.record_attempt(verdict, &self.facts.create.model, self.caller());
    }

    async fn attempt_on<A: Answer>(
        &mut self,
        lease: Lease,
        resolved: &Resolved,
    ) -> Result<(Reply, A), (Lease, Failed)> {
        let mut reply = self.send_until_accepted(lease, resolved).await?;
        match A::begin(self, resolved, &mut reply).await {
            Ok(answer) => Ok((reply, answer)),
            Err(failed) => Err((reply.lease, failed)),
        }
    }

    /// Sends the turn to one account, and again where the account itself can be helped.
    async fn send_until_accepted(
        &mut self,
        lease: Lease,
        resolved: &Resolved,
    ) -> Result<Reply, (Lease, Failed)> {
        let account = Arc::clone(lease.account());
        match self.send_adapting(&account, resolved).await {
            Ok((reply, reasoning)) => Ok(accepted(lease, reply, reasoning)),
            Err(failed) => Err((lease, failed)),
        }
    }

    async fn choose(&self, resolved: &Resolved, tried: &[String]) -> Result<Lease, Failure> {
        let pool = &self.turns.pool;
        let key = self.affinity_key();
        let wanted = self.wanted(resolved, key.as_deref(), tried);
        let choosing = async {
            match pool.choose(wanted).await {
                Err(Shortage::NotOffered) => {
                    Box::pin(pool.refresh_catalogs(&self.turns.upstream, self.turns.env.clock.now())).await;
                    pool.choose(wanted).await
                }
                chosen => chosen,
            }
        };
        let chosen = tokio::time::timeout_at(self.deadline.into(), self.presence.or_given_up(choosing)).await;
        match chosen {
            Err(_elapsed) => Err(Failure::Busy),
            Ok(Err(_given_up)) => Err(Failure::ClientGone),
            Ok(Ok(chosen)) => chosen.map_err(|shortage| self.short(shortage)),
        }
    }

    fn wanted<'a>(&'a self, resolved: &'a Resolved, key: Option<&'a str>, tried: &'a [String]) -> Wanted<'a> {
        let parent = resolved.parent.as_deref().filter(|parent| !parent.account.is_empty());
        let origin = parent.map(|parent| Origin { account: &parent.account, boundary: &parent.boundary });
        let preference = Preference { origin, key };
        Wanted { model: &self.facts.create.model, caller: self.caller(), preference, tried }
    }

    /// What turns have in common that should share an upstream's cache.
    fn affinity_key(&self) -> Option<String> {
        let session = || {
            let header = SESSION_HEADERS.iter().find_map(|name| self.headers.get(*name))?;
            header.to_str().ok().map(str::to_owned)
        };
        self.facts.create.prompt_cache_key().or_else(session).filter(|key| !key.is_empty())
    }

    /// Who is to blame for what a request does to accounts. Without keys nobody is told apart.
    fn caller(&self) -> Option<&str> {
        self.facts.key.as_ref().map(|_| self.facts.project.as_str())
    }

    fn has_another(&self, resolved: &Resolved, tried: &[String]) -> bool {
        Instant::now() < self.deadline && self.turns.pool.has_candidate(self.wanted(resolved, None, tried))
    }

    fn short(&self, shortage: Shortage) -> Failure {
        match shortage {
            Shortage::Busy => Failure::Busy,
            Shortage::Cooling { until, is_limited } => {
                let rest = until.since(self.turns.env.clock.now());
                if is_limited { Failure::Cooling(rest) } else { Failure::AllFailing(rest) }
            }
            Shortage::Unusable => Failure::NoAccount,
            Shortage::NotOffered => Failure::ModelNotFound(self.facts.create.model.clone()),
        }
    }

    /// A rate limit ends for the client when the first account is back. Whoever is not told a time may give up.
    fn with_return(&self, mut failure: Failure) -> Failure {
        let Failure::UpstreamError(refusal) = &mut failure else { return failure };
        let until = match refusal.status {
            StatusCode::TOO_MANY_REQUESTS => {
                self.turns.pool.earliest_ready_at(&self.facts.create.model, self.caller())
            }
            StatusCode::SERVICE_UNAVAILABLE => None,
            _ => return failure,
        };
        let rest = until.map(|until| until.since(self.turns.env.clock.now()));
        if rest.is_some() || !refusal.headers.contains_key(header::RETRY_AFTER) {
            refusal.headers.remove("retry-after-ms");
            let rest = HeaderValue::from(whole_seconds(rest.unwrap_or(RETRY_AFTER)));
            refusal.headers.insert(header::RETRY_AFTER, rest);
        }
        failure
    }

    pub(super) async fn read_refusal(
        &self,
        reply: http::Response<ReplyBody>,
    ) -> Result<UpstreamErrorReply, Failed> {
        let (head, body) = reply.into_parts();
        let reading = body.collect(MAX_REFUSAL_BYTES);
        let limit = self.deadline.min(Instant::now() + self.turns.rules.idle);
        let read = tokio::time::timeout_at(limit.into(), self.presence.or_given_up(reading)).await;
        let body = match read {
            Ok(Ok(Ok(body))) => body,
            Ok(Err(_given_up)) => return Err(Failed::client_gone()),
            Ok(Ok(Err(_))) | Err(_) => Bytes::new(),
        };
        let mut headers = headers::for_client(&head.headers);
        if let Some(content_type) = head.headers.get(header::CONTENT_TYPE) {
            headers.insert(header::CONTENT_TYPE, content_type.clone());
        }
        Ok(UpstreamErrorReply { status: head.status, headers, body })
    }

    /// What an error reply says about the account, and which of it is the client's to see.
    pub(super) fn refused(
        &self,
        account: &Account,
        refusal: UpstreamErrorReply,
        error: &UpstreamError,
    ) -> Failed {
        let now = self.turns.env.clock.now();
        let model = &self.facts.create.model;
        let model = account.alias(model).unwrap_or(model);
        let verdict = Verdict::from_reply(refusal.status, error, &refusal.headers, model, now);
        let is_envelope = is_envelope(&refusal.body);
        let failure = match refusal.status {
            // The account's credential is wrong, not the client's, and the message may quote a part of it.
            _ if verdict == Verdict::CredentialRefused => Failure::NoAccount,
            status if status.is_client_error() => Failure::UpstreamError(Box::new(refusal)),
            status if status.is_server_error() && is_envelope => Failure::UpstreamError(Box::new(refusal)),
            status => {
                tracing::warn!(
                    account.id = %account.name,
                    http.status = status.as_u16(),
                    "the upstream answered no API error"
                );
                match status {
                    StatusCode::GATEWAY_TIMEOUT => Failure::UpstreamTimeout("it answered 504"),
                    _ => Failure::UpstreamUnreachable(format!("it answered {}", status.as_u16()).into()),
                }
            }
        };
        Failed { failure, verdict }
    }
}

// === impl Reply ===

impl Reply {
    /// The body, to be read event by event.
    pub fn events(&mut self, max_event_bytes: usize) -> EventReader {
        let body = self.body.take().unwrap_or_else(ReplyBody::empty);
        EventReader::new(body, self.lease.account().settings.dialect, max_event_bytes)
    }

    pub fn is_event_stream(&self) -> bool {
        self.content_type.as_deref().is_some_and(|kind| kind.starts_with("text/event-stream"))
    }
}

// === impl Failed ===

impl Failed {
    /// An upstream that says in its stream that it has failed, before anything has gone out.
    pub fn of_event(code: String, message: String) -> Self {
        let verdict = Verdict::from_code(&code);
        let failure = Failure::UpstreamError(Box::new(UpstreamErrorReply::of_event(&verdict, code, message)));
        Self { failure, verdict }
    }

    /// There is no connection to the account's upstream.
    pub fn unreachable(failure: Failure) -> Self {
        Self { failure, verdict: Verdict::Unreachable }
    }

    pub fn client_gone() -> Self {
        Self { failure: Failure::ClientGone, verdict: Verdict::Neutral }
    }
}

/// The account has failed.
impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Self { failure, verdict: Verdict::Failed }
    }
}

fn accepted(lease: Lease, reply: http::Response<ReplyBody>, reasoning: Reasoning) -> Reply {
    let (head, body) = reply.into_parts();
    let content_type = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let mut headers = headers::for_client(&head.headers);
    headers.insert(REASONING_HEADER, HeaderValue::from_static(reasoning.as_str()));
    Reply { lease, headers, content_type: content_type.map(str::to_owned), body: Some(body), reasoning }
}

/// Whether the body is an error of the API, that a client understands.
fn is_envelope(body: &[u8]) -> bool {
    antiphon_protocol::json::validate(body).is_ok()
        && antiphon_protocol::json::member(body, "error").is_some()
}
