//! A turn whose reply is a stream of events.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use antiphon_protocol::error::ApiError;
use antiphon_protocol::response::Owned;
use antiphon_upstream::transport::EventReader;
use bytes::Bytes;
use futures_util::stream::{iter, unfold};
use futures_util::{FutureExt, Stream};
use http::HeaderMap;

use super::attempt::{Answer, Failed, Reply};
use super::detach::GivenUp;
use super::relay::{Relay, Terminal};
use super::resolve::Resolved;
use super::{Failure, Incoming, Presence, Rejected, Turn, Turns, codex};
use antiphon_upstream::pool::Verdict;

/// A comment: every client skips it, and no proxy takes the stream for dead.
const KEEP_ALIVE: Bytes = Bytes::from_static(b": keep-alive\n\n");
/// How long an upstream may take to end its reply after its terminal event.
const AFTER_TERMINAL: Duration = Duration::from_secs(1);

/// The events of a turn that has begun, framed as its door wants them; for a socket one at a time.
pub struct EventStream {
    pub headers: HeaderMap,
    chunks: Pin<Box<dyn Stream<Item = Bytes> + Send>>,
}

struct Streaming {
    turn: Turn,
    resolved: Option<Resolved>,
    reply: Reply,
    owned: Owned,
    /// `None` once nothing more is to be read.
    events: Option<EventReader>,
    relay: Relay,
    ready: VecDeque<Bytes>,
    phase: Phase,
    /// When the upstream was last heard of.
    heard: Instant,
    /// When the client last got something.
    sent: Instant,
}

/// A stream of which the first event is there, and nothing has gone out.
struct Opening {
    events: EventReader,
    relay: Relay,
    ready: VecDeque<Bytes>,
    phase: Phase,
    heard: Instant,
}

enum Phase {
    Relaying,
    /// Everything before the terminal event is out; the turn is not yet recorded.
    Ending(Box<Terminal>),
    Over,
}

/// What the upstream's stream did next.
pub enum Read {
    /// There are events to be decoded.
    Events,
    End,
    Broken(String),
    Silent,
    TurnTooLong,
    GivenUp,
}

impl Turns {
    /// Runs a turn up to its first event; the rest happens as the stream is read.
    pub(super) async fn begin(
        self: Arc<Self>,
        incoming: Incoming,
        presence: Presence,
    ) -> Result<EventStream, Rejected> {
        if !incoming.create.generate {
            return self.warm_up(incoming, presence).await;
        }
        let mut turn = self.admit(incoming, presence);
        let begun = async {
            let resolved = turn.resolve().await?;
            let (reply, opening) = turn.attempt::<Opening>(&resolved).await?;
            Ok((resolved, reply, opening))
        };
        match begun.await {
            Ok((resolved, reply, opening)) => {
                Ok(Streaming::new(turn, resolved, reply, opening).into_events())
            }
            Err(failure) => {
                turn.progress.fail(&failure);
                turn.settle();
                Err(turn.rejected(failure))
            }
        }
    }
}

// === impl Opening ===

/// Waits for the first event, until which the turn can still go to another account.
impl Answer for Opening {
    async fn begin(turn: &Turn, resolved: &Resolved, reply: &mut Reply) -> Result<Self, Failed> {
        if !reply.is_event_stream() {
            let content_type = reply.content_type.as_deref().unwrap_or("none");
            tracing::warn!(account.id = %reply.lease.account().name, content_type, "the upstream answered no event stream");
            return Err(Failure::UpstreamUnreachable("its answer is no event stream".into()).into());
        }
        let (door, max_reply_bytes) = (&turn.facts.door, turn.turns.rules.max_reply_bytes);
        let is_kept = turn.facts.create.store || door.lane().is_some();
        let mut this = Self {
            events: reply.events(max_reply_bytes),
            relay: Relay::new(turn.owned(resolved), door.framing(), is_kept.then_some(max_reply_bytes)),
            ready: VecDeque::new(),
            phase: Phase::Relaying,
            heard: Instant::now(),
        };
        while this.relay.events() == 0 {
            this.advance(turn).await?;
        }
        this.check_first_event()?;
        Ok(this)
    }
}

impl Opening {
    async fn advance(&mut self, turn: &Turn) -> Result<(), Failed> {
        let limit = self.heard + turn.turns.rules.first_byte;
        let failure = match read(turn, &mut self.events, &mut self.heard, limit).await {
            Read::Events => match self.relay.push(self.events.decoder(), &mut self.ready) {
                Ok(None) => return Ok(()),
                Ok(Some(terminal)) => {
                    self.phase = Phase::Ending(Box::new(terminal));
                    return Ok(());
                }
                Err(error) => Failure::UpstreamUnreachable(error.to_string().into()),
            },
            Read::End | Read::Broken(_) => {
                Failure::UpstreamUnreachable("it closed the stream before the first event".into())
            }
            Read::Silent | Read::TurnTooLong => Failure::UpstreamTimeout("it sent no event in time"),
            Read::GivenUp => return Err(Failed::client_gone()),
        };
        Err(failure.into())
    }

    /// A stream that begins with the account's failure is as good as an error reply.
    fn check_first_event(&self) -> Result<(), Failed> {
        // More than one may have come in a piece; what follows the first is the client's to see.
        if self.relay.events() > 1 {
            return Ok(());
        }
        let error = match &self.phase {
            Phase::Ending(terminal) => terminal.finished.error(),
            Phase::Relaying | Phase::Over => self.relay.error().cloned(),
        };
        match error.map(|(code, message)| Failed::of_event(code, message)) {
            Some(failed) if failed.verdict.leads_on() => Err(failed),
            _ => Ok(()),
        }
    }
}

// === impl Streaming ===

impl Streaming {
    fn new(mut turn: Turn, resolved: Resolved, mut reply: Reply, opening: Opening) -> Self {
        turn.answered(&reply);
        turn.tell_rates(&mut reply.headers);
        let Opening { events, relay, ready, phase, heard } = opening;
        Self {
            owned: turn.owned(&resolved),
            turn,
            resolved: Some(resolved),
            reply,
            events: Some(events),
            relay,
            ready,
            phase,
            heard,
            sent: Instant::now(),
        }
    }

    fn into_events(mut self) -> EventStream {
        let headers = std::mem::take(&mut self.reply.headers);
        if self.turn.facts.door.has_codex_events() {
            let events = codex::events(&headers, &self.turn.facts.door.framing());
            events.into_iter().rev().for_each(|event| self.ready.push_front(event));
        }
        let chunks = unfold(Box::new(self), |mut this| async move {
            let chunk = this.next_chunk().await?;
            Some((chunk, this))
        });
        EventStream { headers, chunks: Box::pin(chunks) }
    }

    async fn next_chunk(&mut self) -> Option<Bytes> {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                self.sent = Instant::now();
                self.turn.progress.sent_bytes += chunk.len();
                return Some(chunk);
            }
            match std::mem::replace(&mut self.phase, Phase::Over) {
                Phase::Over => return None,
                Phase::Ending(terminal) => self.end(*terminal).await,
                Phase::Relaying => {
                    self.phase = Phase::Relaying;
                    self.advance().await;
                }
            }
        }
    }

    /// Reads on, until there is something to send or the stream is over.
    async fn advance(&mut self) {
        let rules = &self.turn.turns.rules;
        let silent_at = self.heard + rules.idle;
        let limit = match self.turn.facts.door.needs_keep_alive() {
            true => silent_at.min(self.sent + rules.keep_alive),
            false => silent_at,
        };
        let Some(events) = &mut self.events else { return };
        let why = match read(&self.turn, events, &mut self.heard, limit).await {
            Read::Silent if limit < silent_at => return self.ready.push_back(KEEP_ALIVE),
            Read::Events => match self.relay.push(events.decoder(), &mut self.ready) {
                Ok(None) => return,
                Ok(Some(terminal)) => return self.phase = Phase::Ending(Box::new(terminal)),
                Err(error) => error.to_string(),
            },
            Read::End => match self.relay.finish(events.decoder(), &mut self.ready) {
                Ok(Some(terminal)) => return self.phase = Phase::Ending(Box::new(terminal)),
                Ok(None) => "it ended without a terminal event".to_owned(),
                Err(error) => error.to_string(),
            },
            Read::Broken(error) => {
                tracing::warn!(response.id = %self.turn.facts.id, error, "the upstream's stream broke off");
                "the connection broke off".to_owned()
            }
            Read::Silent => "it sent nothing for too long".to_owned(),
            Read::TurnTooLong => return self.break_off("the turn took longer than it may").await,
            Read::GivenUp => return self.cancel().await,
        };
        self.reply.lease.learn(&Verdict::Failed, &self.turn.facts.create.model);
        self.break_off(&why).await;
    }

    /// Records the turn, and only then lets its terminal event out.
    async fn end(&mut self, terminal: Terminal) {
        let Some(resolved) = self.resolved.take() else { return };
        self.turn.end(&terminal.finished, 0);
        self.reply.lease.learn(&terminal.finished.verdict(), &self.turn.facts.create.model);
        let account = self.reply.lease.account();
        match self.turn.record(terminal.finished, &resolved, Some(account)).await {
            Ok(()) => self.ready.push_back(terminal.frame),
            Err(failure) => {
                self.turn.progress.break_off(&failure);
                let failed = self.failed(&failure.api_error());
                self.ready.extend(failed.error.into_iter().chain([failed.frame]));
            }
        }
        self.turn.settle();
        self.let_upstream_finish();
    }

    /// A connection can be used again only once its reply has been read to the end.
    fn let_upstream_finish(&mut self) {
        let Some(rest) = self.events.take().and_then(EventReader::into_rest) else { return };
        let mut rest = Box::pin(rest);
        if rest.as_mut().now_or_never().is_none() {
            self.turn.turns.env.tasks.spawn(async move {
                tokio::time::timeout(AFTER_TERMINAL, rest).await.ok();
            });
        }
    }

    /// The upstream did not bring the response to its end.
    async fn break_off(&mut self, why: &str) {
        let failure = Failure::StreamBroken(why.to_owned());
        let terminal = self.failed(&failure.api_error());
        self.turn.progress.break_off(&failure);
        let Some(resolved) = self.resolved.take() else { return };
        let account = self.reply.lease.account();
        let (error, frame) = match self.turn.record(terminal.finished, &resolved, Some(account)).await {
            Ok(()) => (terminal.error, terminal.frame),
            Err(failure) => {
                self.turn.progress.break_off(&failure);
                let failed = self.failed(&failure.api_error());
                (failed.error, failed.frame)
            }
        };
        self.ready.extend(error.into_iter().chain([frame]));
        self.turn.settle();
        self.phase = Phase::Over;
    }

    /// The client has left, and the turn is not to be finished without it.
    async fn cancel(&mut self) {
        let Some(resolved) = self.resolved.take() else { return };
        let finished = self.relay.cancel(|| self.skeleton());
        self.turn.progress.relayed_events = self.relay.events();
        self.turn.progress.break_off(&Failure::ClientGone);
        // There is nobody to tell; the store has logged and counted the failure.
        self.turn.record(finished, &resolved, Some(self.reply.lease.account())).await.ok();
        self.turn.settle();
        self.phase = Phase::Over;
    }

    fn failed(&self, error: &ApiError) -> Terminal {
        self.relay.fail(error, || self.skeleton())
    }

    fn skeleton(&self) -> Vec<u8> {
        self.owned.skeleton(&self.turn.facts.create.model, self.turn.facts.started_at.unix_seconds())
    }
}

/// Waits for the upstream until `silent_at`, or the end of the turn's time.
pub async fn read(turn: &Turn, events: &mut EventReader, heard: &mut Instant, silent_at: Instant) -> Read {
    let limit = turn.deadline.min(silent_at);
    let reading = turn.presence.or_given_up(events.read());
    match tokio::time::timeout_at(limit.into(), reading).await {
        Err(_elapsed) if limit == turn.deadline => Read::TurnTooLong,
        Err(_elapsed) => Read::Silent,
        Ok(Err(GivenUp)) => Read::GivenUp,
        Ok(Ok(Ok(false))) => Read::End,
        Ok(Ok(Err(error))) => Read::Broken(error),
        Ok(Ok(Ok(true))) => {
            *heard = Instant::now();
            Read::Events
        }
    }
}

// === impl EventStream ===

impl EventStream {
    /// Events that are all there.
    pub(super) fn of_frames(frames: impl IntoIterator<Item = Bytes, IntoIter: Send + 'static>) -> Self {
        Self { headers: HeaderMap::new(), chunks: Box::pin(iter(frames)) }
    }

    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        self.chunks.as_mut().poll_next(cx)
    }
}
