//! Turns that an upstream itself runs in the background. It goes on with them when the connection breaks or the gateway dies, and
//! their events are read on from where they stopped: nothing is paid twice.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use antiphon_protocol::event::write_sse;
use antiphon_protocol::json::{string_member, validate};
use antiphon_store::UpstreamTurn;
use antiphon_upstream::account::Account;
use antiphon_upstream::dialect::ReplyFormat;
use antiphon_upstream::pool::Verdict;
use antiphon_upstream::transport::{About, Redaction, ReplyBody};
use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};

use super::run::Run;
use crate::body_memory::Reservation;
use crate::turn::attempt::{FailedAttempt, Reply};
use crate::turn::detach::Cancellation;
use crate::turn::reading::Silence;
use crate::turn::resolve::{Reasoning, Resolved};
use crate::turn::sending::is_event_stream;
use crate::turn::stream::{ActiveStream, OpeningStream};
use crate::turn::{Failure, Turn};

/// How many streams in a row may end without a new event. After them the response is polled.
const MAX_EMPTY_STREAMS: u32 = 5;
/// Before the events are asked for, first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// How often a response is polled whose events cannot be read.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
const CANCEL_TIMEOUT: Duration = Duration::from_secs(10);
const EVENT_STREAM: &str = "text/event-stream";

/// What a request for the rest of a turn yielded.
enum Rest {
    Body(ReplyBody),
    /// The upstream has the response, but does not stream it.
    NotStreamed,
    /// Not now.
    Later,
}

impl Turn {
    /// Whether the account's upstream runs this turn in the background.
    pub(in crate::turn) fn runs_natively(&self, account: &Account) -> bool {
        self.facts.door.run().is_some() && account.runs_background()
    }

    /// Notes whose items the log will have, and where the upstream runs the turn if it does, before anything more of it is read.
    pub(in crate::turn) async fn note_upstream_turn(&self, account: &Arc<Account>, id: Option<&str>) {
        let Some(run) = self.facts.door.run() else { return };
        let id = id.filter(|_| account.runs_background());
        if run.upstream().is_some() || (id.is_none() && !run.is_streamed) {
            return;
        }
        if let Some(id) = id {
            run.set_upstream(Arc::clone(account), id);
        }
        let upstream = UpstreamTurn { account: account.name.clone(), id: id.map(str::to_owned) };
        if let Err(error) = self.turns.chains.store().set_upstream_turn(&run.lease, upstream).await {
            tracing::warn!(response.id = %self.facts.id, %error, "the upstream of a background turn could not be stored");
        }
    }

    /// The rest of the turn's events after this number, from the upstream that runs it. `None` if it does not, or has lost the
    /// turn, or the turn's time is over: until then an upstream that cannot be reached may come back.
    pub(in crate::turn) async fn reattach(&self, after: Option<u64>) -> Option<ReplyBody> {
        let run = self.facts.door.run()?;
        let (account, id) = run.upstream()?;
        let reattaching = async {
            let mut pause = FIRST_PAUSE;
            while run.may_read_stream(after, MAX_EMPTY_STREAMS) {
                tokio::time::sleep(pause).await;
                tracing::info!(response.id = %self.facts.id, account.id = %account.name, "reading a background turn on at its upstream");
                match self.rest(&account, &id, after).await? {
                    Rest::Body(body) => {
                        run.note_stream(after);
                        return Some(body);
                    }
                    Rest::NotStreamed => break,
                    Rest::Later => pause = MAX_PAUSE.min(pause * 2),
                }
            }
            self.poll_upstream(&account, &id, after).await.map(ReplyBody::Whole)
        };
        tokio::time::timeout_at(self.deadline.into(), reattaching).await.ok().flatten()
    }

    /// Waits for the end of a turn that its upstream runs, but has not answered with a stream. The reply then is the turn's
    /// last event. Elsewhere the turn would be paid twice.
    pub(in crate::turn) async fn await_unstreamed(&self, reply: &mut Reply) -> Result<(), FailedAttempt> {
        let account = Arc::clone(reply.lease.account());
        if reply.is_event_stream() || reply.format.is_decoded() {
            return Ok(());
        }
        let response = self.read_reply(reply).await?;
        let event = match terminal_event(&response, None) {
            Some(event) => event,
            None => {
                let Some(id) = id_of_running(&response) else {
                    reply.body = Some(ReplyBody::Whole(response));
                    return Ok(());
                };
                self.note_upstream_turn(&account, Some(&id)).await;
                let polling = self.cancellation.or_cancelled(self.poll_upstream(&account, &id, None));
                match tokio::time::timeout_at(self.deadline.into(), polling).await {
                    Ok(Ok(Some(event))) => event,
                    Ok(Ok(None)) | Err(_) => return Err(self.without_rest()),
                    Ok(Err(_cancelled)) => return Err(FailedAttempt::client_gone()),
                }
            }
        };
        reply.body = Some(ReplyBody::Whole(event));
        reply.content_type = Some(EVENT_STREAM.to_owned());
        Ok(())
    }

    /// Why a turn that an upstream runs cannot be read on.
    pub(in crate::turn) fn without_rest(&self) -> FailedAttempt {
        let failure = match Instant::now() < self.deadline {
            true => Failure::StreamInterrupted("the upstream has lost the turn".to_owned()),
            false => Failure::turn_too_long(),
        };
        FailedAttempt { failure, verdict: Verdict::Neutral }
    }

    /// Whether an upstream has begun to run the turn in the background: on another account it would be paid twice.
    pub(in crate::turn) fn is_run_upstream(&self) -> bool {
        self.facts.door.run().is_some_and(|run| run.upstream().is_some())
    }

    async fn rest(&self, account: &Account, id: &str, after: Option<u64>) -> Option<Rest> {
        let Some(reply) = self.ask(account, id, About::Events { after }).await? else {
            return Some(Rest::Later);
        };
        match reply.status() {
            StatusCode::OK if is_event_stream(&reply) => Some(Rest::Body(reply.into_body())),
            StatusCode::OK | StatusCode::BAD_REQUEST => Some(Rest::NotStreamed),
            StatusCode::NOT_FOUND => None,
            _ => Some(Rest::Later),
        }
    }

    /// The outer `None` says that there is no such address, the inner one that there was no reply in time.
    async fn ask(&self, account: &Account, id: &str, about: About) -> Option<Option<Response<ReplyBody>>> {
        let upstream = &self.turns.upstream;
        let asking = async {
            let authorization = upstream.authorization(account).await.ok()?;
            upstream.ask_about(account, authorization.as_ref(), id, about).await.ok()
        };
        match tokio::time::timeout(self.turns.settings.first_byte_timeout, asking).await {
            Ok(Some(Some(reply))) => Some(Some(reply)),
            Ok(Some(None)) => None,
            Ok(None) | Err(_) => Some(None),
        }
    }

    /// Waits for the end of a turn whose events cannot be read. Yields its last event; `None` if the upstream has lost the turn.
    async fn poll_upstream(&self, account: &Account, id: &str, after: Option<u64>) -> Option<Bytes> {
        let settings = &self.turns.settings;
        loop {
            if let Some(reply) = self.ask(account, id, About::Response).await? {
                if reply.status() == StatusCode::NOT_FOUND {
                    return None;
                }
                let reading = reply.into_body().collect(settings.max_reply_bytes);
                let read = tokio::time::timeout(settings.first_byte_timeout, reading).await;
                if let Ok(Ok(response)) = read
                    && let Some(event) = terminal_event(&response, after)
                {
                    return Some(event);
                }
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Has the upstream cancel the turn, if it runs it.
    pub(in crate::turn) fn cancel_upstream(&self) {
        let Some((account, id)) =
            self.facts.door.run().filter(|run| !run.is_left()).and_then(|run| run.upstream())
        else {
            return;
        };
        let upstream = self.turns.upstream.clone();
        self.turns.env.tasks.spawn(async move {
            let cancelling = async {
                let authorization = upstream.authorization(&account).await.ok()?;
                upstream.ask_about(&account, authorization.as_ref(), &id, About::Cancel).await.ok()
            };
            if !matches!(tokio::time::timeout(CANCEL_TIMEOUT, cancelling).await, Ok(Some(_))) {
                tracing::warn!(account.id = %account.name, "a background turn could not be cancelled at its upstream");
            }
        });
    }

    /// Goes on with a turn that an earlier owner has started and the upstream runs.
    pub(super) async fn attach(
        mut self,
        (account, id): (String, String),
        resolved: Resolved,
        cancellation: Cancellation,
    ) {
        let turns = Arc::clone(&self.turns);
        let Some(run) = self.facts.door.run().cloned() else { return };
        let Some(lease) = turns.pool.lease_of(&account) else {
            return self.end_taken_over(&Failure::Stopped, &resolved).await;
        };
        run.set_upstream(Arc::clone(lease.account()), &id);
        self.progress.account = Some(Arc::clone(lease.account()));
        let after = run.unwritten().last().filter(|_| run.is_streamed);
        let reattached = {
            let reattaching = pin!(self.cancellation.or_cancelled(self.reattach(after)));
            turns.env.tasks.interruption().or(reattaching).await
        };
        let body = match reattached {
            Some(Ok(Some(body))) => body,
            Some(Ok(None)) => return self.end_taken_over(&self.without_rest().failure, &resolved).await,
            Some(Err(_cancelled)) => return self.end_taken_over(&Failure::ClientGone, &resolved).await,
            None => return self.leave(),
        };
        // What the turn was sent with is not known here: a key has not changed, and a token is looked up when it is needed.
        let redaction = Redaction::new(Arc::clone(lease.account()), None);
        let mut reply = Reply {
            lease,
            headers: HeaderMap::new(),
            content_type: Some(EVENT_STREAM.to_owned()),
            body: Some(body),
            reasoning: Reasoning::Full,
            format: ReplyFormat::Responses,
            redaction,
            memory: Reservation::empty(self.memory.share()),
        };
        if !run.is_streamed {
            if let Err(failure) = self.collect_rest(&resolved, reply).await {
                self.end_without_reply(failure, &resolved).await;
            }
            return self.settle();
        }
        let Ok(mut relay) = self.relay_log(&resolved).await else { return self.leave() };
        relay.skip_repeated();
        let relay = relay.correcting(reply.corrections());
        let silence = Silence::begin(turns.settings.first_byte_timeout);
        let opening = OpeningStream::continued(reply.events(turns.settings.max_reply_bytes), relay, silence);
        let mut events = ActiveStream::new(self, resolved, reply, opening).into_events();
        turns.log_events(&mut events, &run, &cancellation).await;
    }
}

/// The upstream's id of a response that has not ended.
fn id_of_running(response: &[u8]) -> Option<String> {
    validate(response).ok()?;
    let is_running = matches!(&*string_member(response, "status")?, "queued" | "in_progress");
    is_running.then(|| string_member(response, "id").map(Into::into)).flatten()
}

/// The event that ends the stream of this response, if it has ended.
fn terminal_event(response: &[u8], after: Option<u64>) -> Option<Bytes> {
    validate(response).ok()?;
    let status = string_member(response, "status")?;
    let kind = match &*status {
        "completed" | "incomplete" => status.as_ref(),
        "failed" | "cancelled" => "failed",
        _ => return None,
    };
    let number = after.map_or(0, |after| after + 1);
    let mut data =
        format!(r#"{{"type":"response.{kind}","sequence_number":{number},"response":"#).into_bytes();
    data.extend_from_slice(response);
    data.push(b'}');
    let mut event = Vec::with_capacity(data.len() + 64);
    write_sse(&mut event, format!("response.{kind}").as_bytes(), &data);
    Some(event.into())
}

impl Run {
    pub fn upstream(&self) -> Option<(Arc<Account>, String)> {
        self.lock_upstream().clone()
    }

    pub fn set_upstream(&self, account: Arc<Account>, id: &str) {
        *self.lock_upstream() = Some((account, id.to_owned()));
        self.unwritten().follow_upstream();
    }

    /// What an account's upstream has run of the turn has failed: another one may run it.
    pub fn forget_upstream(&self) {
        *self.lock_upstream() = None;
    }
}
