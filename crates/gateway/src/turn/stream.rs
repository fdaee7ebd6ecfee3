//! A turn whose reply is a stream of events.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use antiphon_protocol::error::ApiError;
use antiphon_protocol::response::Owned;
use antiphon_runtime::Listener;
use antiphon_upstream::transport::{EventReader, ReplyBody};
use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::{iter, unfold};
use http::HeaderMap;

use super::attempt::{Earlier, FailedAttempt, Reply, ReplyStart};
use super::collect::TOO_LARGE;
use super::detach::Cancelled;
use super::reading::{ReadOutcome, Silence, read_events};
use super::relay::{Relay, Terminal};
use super::resolve::Resolved;
use super::{Cancellation, Failure, Incoming, Turn, TurnError, Turns, codex};

/// A comment: clients skip it, and proxies see that the stream is alive. A blank line follows, for clients that split a stream at
/// blank lines. Where events have ids, none does: openai-python would dispatch an event without data there, and fail.
pub fn keep_alive(has_ids: bool) -> Bytes {
    Bytes::from_static(if has_ids { b": keep-alive\n" } else { b": keep-alive\n\n" })
}

/// The events of a running turn, framed for its door; each chunk for a WebSocket is one event.
pub struct EventStream {
    pub headers: HeaderMap,
    chunks: Pin<Box<dyn Stream<Item = Bytes> + Send>>,
}

pub struct ActiveStream {
    turn: Turn,
    resolved: Option<Resolved>,
    reply: Reply,
    owned: Owned,
    /// `None` once nothing more will be read.
    events: Option<EventReader>,
    relay: Relay,
    pending: VecDeque<Bytes>,
    phase: Phase,
    silence: Silence,
    interruption: Listener,
    /// When the client last got a chunk.
    last_sent_at: Instant,
}

/// A stream whose first event has arrived, and of which nothing was sent to the client.
pub struct OpeningStream {
    events: EventReader,
    relay: Relay,
    pending: VecDeque<Bytes>,
    phase: Phase,
    silence: Silence,
}

enum Phase {
    Relaying,
    /// Everything before the terminal event was sent; the turn is not recorded yet.
    Ending(Box<Terminal>),
    Done,
}

impl Turns {
    /// Runs a turn up to its first event; the rest runs as the stream is read.
    pub(super) async fn begin(
        self: Arc<Self>,
        incoming: Incoming,
        cancellation: Cancellation,
    ) -> Result<EventStream, TurnError> {
        if !incoming.create.generate {
            return self.warm_up(incoming, cancellation).await;
        }
        let mut turn = self.admit(incoming, cancellation);
        let begun = async {
            let resolved = turn.resolve().await?;
            let (reply, opening) = turn.attempt::<OpeningStream>(&resolved).await?;
            Ok((resolved, reply, opening))
        };
        match begun.await {
            Ok((resolved, reply, opening)) => {
                Ok(ActiveStream::new(turn, resolved, reply, opening).into_events())
            }
            Err(failure) => {
                turn.progress.fail(&failure);
                turn.settle();
                Err(turn.turn_error(failure))
            }
        }
    }
}

// === impl OpeningStream ===

/// The first event commits the turn to its account.
impl ReplyStart for OpeningStream {
    async fn begin(
        turn: &Turn,
        resolved: &Resolved,
        reply: &mut Reply,
        _earlier: &Earlier,
    ) -> Result<Self, FailedAttempt> {
        if turn.runs_natively(reply.lease.account()) {
            // Boxed, as it is rare and large.
            Box::pin(turn.await_unstreamed(reply)).await?;
        }
        if !reply.is_event_stream() {
            let content_type = reply.content_type.as_deref().unwrap_or("none");
            tracing::warn!(account.id = %reply.lease.account().name, content_type, "the upstream's reply is not an event stream");
            return Err(Failure::UpstreamFailed("its reply is not an event stream".into()).into());
        }
        let (door, max_reply_bytes) = (&turn.facts.door, turn.turns.settings.max_reply_bytes);
        let is_kept = turn.may_be_continued() || door.run().is_some();
        let relay = Relay::new(turn.owned(resolved), door.framing(), is_kept.then_some(max_reply_bytes))
            .hiding(turn.hidden_parts())
            .correcting(reply.corrections());
        let mut this = Self {
            events: reply.events(max_reply_bytes),
            relay: if turn.facts.create.operation.passes_through() { relay.passing_through() } else { relay },
            pending: VecDeque::new(),
            phase: Phase::Relaying,
            silence: Silence::begin(turn.turns.settings.first_byte_timeout),
        };
        while !this.is_decided() {
            let (held, events) = (this.pending.len(), this.relay.events());
            this.advance(turn).await?;
            let waiting_bytes: usize = this.pending.iter().map(Bytes::len).sum();
            let kept_bytes = this.relay.kept_bytes() + this.events.decoder().held_bytes() + waiting_bytes;
            let reserved = turn.reserve_for_reply(&mut reply.memory, kept_bytes).await;
            reserved.map_err(FailedAttempt::neutral)?;
            if this.relay.events() == events {
                // Comments: nobody waits for them yet.
                this.pending.truncate(held);
                if this.events.received_bytes() > max_reply_bytes {
                    return Err(Failure::UpstreamFailed(TOO_LARGE.into()).into());
                }
            }
        }
        this.check_first_event()?;
        turn.note_upstream_turn(reply.lease.account(), this.relay.upstream_id()).await;
        Ok(this)
    }
}

impl OpeningStream {
    /// A stream that is read on where an earlier owner of the turn has stopped.
    pub fn continued(events: EventReader, relay: Relay, silence: Silence) -> Self {
        Self { events, relay, pending: VecDeque::new(), phase: Phase::Relaying, silence }
    }

    async fn advance(&mut self, turn: &Turn) -> Result<(), FailedAttempt> {
        let limit = self.silence.since + turn.turns.settings.first_byte_timeout;
        let closed = || Failure::UpstreamFailed("it closed the stream before the first event".into());
        let failure = match read_events(turn, &mut self.events, &mut self.silence, limit).await {
            ReadOutcome::Events => match self.relay.push(self.events.decoder(), &mut self.pending) {
                Ok(None) => return Ok(()),
                Ok(Some(terminal)) => {
                    self.phase = Phase::Ending(Box::new(terminal));
                    return Ok(());
                }
                Err(error) => Failure::UpstreamFailed(error.to_string().into()),
            },
            ReadOutcome::End => match self.relay.finish(self.events.decoder(), &mut self.pending) {
                Ok(Some(terminal)) if self.relay.events() > 0 => {
                    self.phase = Phase::Ending(Box::new(terminal));
                    return Ok(());
                }
                Ok(None) if self.is_decided() => return Ok(()),
                Ok(_) => closed(),
                Err(error) => Failure::UpstreamFailed(error.to_string().into()),
            },
            ReadOutcome::Broken(_) => closed(),
            ReadOutcome::Silent | ReadOutcome::TurnTooLong => Failure::UpstreamTimeout("no event in time"),
            ReadOutcome::Cancelled => return Err(FailedAttempt::client_gone()),
        };
        Err(failure.into())
    }

    /// Whether the response has begun or failed. Other events may come before that.
    fn is_decided(&self) -> bool {
        self.relay.has_begun() || self.relay.error().is_some() || !matches!(self.phase, Phase::Relaying)
    }

    /// A stream that begins with a failure of the account counts as an error reply, whatever has arrived with the failure.
    fn check_first_event(&self) -> Result<(), FailedAttempt> {
        if self.relay.has_begun() {
            return Ok(());
        }
        let error = match &self.phase {
            Phase::Ending(terminal) => terminal.finished.error(),
            Phase::Relaying | Phase::Done => self.relay.error().cloned(),
        };
        match error.map(|(code, message)| FailedAttempt::from_error_event(code, message)) {
            Some(failed) if failed.verdict.allows_failover() => Err(failed),
            _ => Ok(()),
        }
    }
}

// === impl ActiveStream ===

impl ActiveStream {
    pub fn new(mut turn: Turn, resolved: Resolved, mut reply: Reply, opening: OpeningStream) -> Self {
        turn.reply_started(&reply);
        turn.apply_rate_limit_headers(&mut reply.headers);
        let OpeningStream { events, relay, pending, phase, silence } = opening;
        let interruption = turn.turns.env.tasks.interruption();
        Self {
            owned: turn.owned(&resolved),
            turn,
            resolved: Some(resolved),
            reply,
            events: Some(events),
            relay,
            pending,
            phase,
            silence,
            interruption,
            last_sent_at: Instant::now(),
        }
    }

    pub fn into_events(mut self) -> EventStream {
        let headers = std::mem::take(&mut self.reply.headers);
        if self.turn.facts.door.has_codex_events() && codex::is_codex(&self.turn.headers) {
            let events = codex::events(&headers, &self.turn.facts.door.framing());
            events.into_iter().rev().for_each(|event| self.pending.push_front(event));
        }
        let chunks = unfold(Box::new(self), |mut this| async move {
            let chunk = this.next_chunk().await?;
            Some((chunk, this))
        });
        EventStream { headers, chunks: Box::pin(chunks) }
    }

    async fn next_chunk(&mut self) -> Option<Bytes> {
        loop {
            if let Some(chunk) = self.pending.pop_front() {
                self.last_sent_at = Instant::now();
                self.turn.progress.sent_bytes += chunk.len();
                return Some(chunk);
            }
            match std::mem::replace(&mut self.phase, Phase::Done) {
                Phase::Done => return None,
                // Boxed, here and below: it comes once, and every stream would have room for it.
                Phase::Ending(terminal) => Box::pin(self.end(*terminal)).await,
                Phase::Relaying => {
                    self.phase = Phase::Relaying;
                    self.advance().await;
                }
            }
        }
    }

    /// Reads from the upstream once, and handles what came.
    async fn advance(&mut self) {
        let settings = &self.turn.turns.settings;
        let silent_at = self.silence.since + settings.idle_timeout;
        let limit = match self.turn.facts.door.needs_keep_alive() {
            true => silent_at.min(self.last_sent_at + settings.keep_alive_interval),
            false => silent_at,
        };
        let Some(events) = &mut self.events else { return };
        let outcome = {
            let reading = pin!(read_events(&self.turn, events, &mut self.silence, limit));
            self.interruption.or(reading).await
        };
        let Some(outcome) = outcome else {
            let failure = self.turn.stopped();
            return Box::pin(self.interrupt(failure)).await;
        };
        let (why, error) = match outcome {
            ReadOutcome::Silent if limit < silent_at => {
                return self.pending.push_back(keep_alive(events.decoder().has_ids()));
            }
            ReadOutcome::Events => match self.relay.push(events.decoder(), &mut self.pending) {
                Ok(None) => return self.reserve().await,
                Ok(Some(terminal)) => return self.phase = Phase::Ending(Box::new(terminal)),
                Err(error) => return Box::pin(self.break_off(&error.to_string(), None)).await,
            },
            ReadOutcome::End => match self.relay.finish(events.decoder(), &mut self.pending) {
                Ok(Some(terminal)) => return self.phase = Phase::Ending(Box::new(terminal)),
                Ok(None) => ("it ended without a terminal event", None),
                Err(error) => return Box::pin(self.break_off(&error.to_string(), None)).await,
            },
            ReadOutcome::Broken(error) => ("the connection was lost", Some(error)),
            ReadOutcome::Silent => ("it was silent for too long", None),
            ReadOutcome::TurnTooLong => {
                return Box::pin(self.interrupt(Failure::turn_too_long())).await;
            }
            ReadOutcome::Cancelled => return Box::pin(self.cancel()).await,
        };
        match self.read_on().await {
            Some(Ok(None)) => {}
            Some(Ok(Some(body))) => {
                self.events = Some(self.reply.continued(body, self.turn.turns.settings.max_reply_bytes));
                self.relay.skip_repeated();
                return self.silence.since = Instant::now();
            }
            Some(Err(Cancelled)) => return Box::pin(self.cancel()).await,
            None => {
                let failure = self.turn.stopped();
                return Box::pin(self.interrupt(failure)).await;
            }
        }
        if self.turn.is_run_upstream() && Instant::now() >= self.turn.deadline {
            return Box::pin(self.interrupt(Failure::turn_too_long())).await;
        }
        Box::pin(self.break_off(why, error)).await;
    }

    /// Reserves memory for what is kept of the reply.
    async fn reserve(&mut self) {
        let held_bytes = self.events.as_mut().map_or(0, |events| events.decoder().held_bytes());
        let kept_bytes = self.relay.kept_bytes() + held_bytes;
        if self.turn.try_reserve_for_reply(&mut self.reply.memory, kept_bytes) {
            return;
        }
        let reserved = {
            let reserving = self.turn.reserve_for_reply(&mut self.reply.memory, kept_bytes);
            self.interruption.or(pin!(Box::pin(reserving))).await
        };
        match reserved {
            Some(Ok(())) => {}
            Some(Err(Failure::ClientGone)) => Box::pin(self.cancel()).await,
            Some(Err(failure)) => Box::pin(self.interrupt(failure)).await,
            None => {
                let failure = self.turn.stopped();
                Box::pin(self.interrupt(failure)).await;
            }
        }
    }

    /// Ends a stream with which something is wrong, or whose upstream ends it with an `error` event. The transport's `error` is
    /// not for clients.
    async fn break_off(&mut self, why: &str, error: Option<String>) {
        let failed = match self.relay.error().cloned() {
            Some((code, message)) => FailedAttempt::from_error_event(code, message),
            None => {
                let account = &self.reply.lease.account().name;
                tracing::warn!(response.id = %self.turn.facts.id, account.id = %account, reason = why, error, "the upstream's stream broke off");
                Failure::StreamInterrupted(why.to_owned()).into()
            }
        };
        self.turn.learn(&self.reply.lease, &failed.verdict);
        self.interrupt(failed.failure).await;
    }

    /// The rest of a stream that has broken off, if the upstream goes on with the turn. The outer `None` says that the process
    /// stops.
    async fn read_on(&self) -> Option<Result<Option<ReplyBody>, Cancelled>> {
        if self.turn.facts.door.run().is_none() {
            return Some(Ok(None));
        }
        let reattaching = self.turn.reattach(self.relay.last_number());
        let reattaching = pin!(self.turn.cancellation.or_cancelled(reattaching));
        self.turn.turns.env.tasks.interruption().or(reattaching).await
    }

    /// Records the turn, and only then sends its terminal event.
    async fn end(&mut self, terminal: Terminal) {
        let Some(resolved) = self.resolved.take() else { return };
        if self.turn.facts.create.operation.passes_through() {
            self.turn.progress.relayed_events = self.relay.events();
        }
        self.turn.end(&terminal.finished, 0);
        self.turn.learn(&self.reply.lease, &terminal.finished.verdict());
        self.turn.log_terminal(&terminal);
        let maker = self.reply.lease.account().maker();
        match self.turn.record(terminal.finished, &resolved, Some(maker)).await {
            Ok(()) => self.pending.extend(Some(terminal.frame).filter(|frame| !frame.is_empty())),
            Err(failure) => {
                self.turn.progress.interrupt(&failure);
                let failed = self.failed_terminal(&failure.api_error());
                self.pending.extend(failed.error.into_iter().chain([failed.frame]));
            }
        }
        self.turn.settle();
        self.drain_reply();
    }

    /// Reads the upstream's reply to its end, or its connection could not be reused.
    fn drain_reply(&mut self) {
        if let Some(events) = self.events.take() {
            self.turn.drain(events);
        }
    }

    /// Ends the stream in place of the upstream.
    async fn interrupt(&mut self, failure: Failure) {
        let terminal = self.failed_terminal(&failure.api_error());
        self.turn.progress.interrupt(&failure);
        let Some(resolved) = self.resolved.take() else { return };
        if matches!(failure, Failure::Stopped) && self.turn.may_run_again() {
            self.turn.leave();
            return self.phase = Phase::Done;
        }
        self.turn.cancel_upstream();
        self.log_rest(&terminal);
        let maker = self.reply.lease.account().maker();
        let (error, frame) = match self.turn.record(terminal.finished, &resolved, Some(maker)).await {
            Ok(()) => (terminal.error, terminal.frame),
            Err(failure) => {
                self.turn.progress.interrupt(&failure);
                let failed = self.failed_terminal(&failure.api_error());
                (failed.error, failed.frame)
            }
        };
        self.pending.extend(error.into_iter().chain([frame]).filter(|frame| !frame.is_empty()));
        self.turn.settle();
        self.phase = Phase::Done;
    }

    /// Ends a turn that is not to be finished without its client.
    async fn cancel(&mut self) {
        let Some(resolved) = self.resolved.take() else { return };
        self.turn.cancel_upstream();
        let terminal = self.relay.cancel(|| self.skeleton());
        self.log_rest(&terminal);
        self.turn.progress.relayed_events = self.relay.events();
        self.turn.progress.interrupt(&Failure::ClientGone);
        // Nobody is left to get the error; the store has logged and counted it.
        let maker = self.reply.lease.account().maker();
        self.turn.record(terminal.finished, &resolved, Some(maker)).await.ok();
        self.turn.settle();
        self.phase = Phase::Done;
    }

    /// Logs what was relayed last and the end of the stream: nothing is logged once the turn has ended.
    fn log_rest(&self, terminal: &Terminal) {
        let Some(run) = self.turn.facts.door.run() else { return };
        self.pending.iter().for_each(|chunk| run.log(chunk));
        self.turn.log_terminal(terminal);
    }

    fn failed_terminal(&self, error: &ApiError) -> Terminal {
        self.relay.fail(error, || self.skeleton())
    }

    fn skeleton(&self) -> Vec<u8> {
        self.owned.skeleton(&self.turn.facts.create.model, self.turn.facts.started_at.unix_seconds())
    }
}

// === impl EventStream ===

impl EventStream {
    /// A stream of these frames.
    pub(super) fn from_frames(frames: impl IntoIterator<Item = Bytes, IntoIter: Send + 'static>) -> Self {
        Self { headers: HeaderMap::new(), chunks: Box::pin(iter(frames)) }
    }

    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        self.chunks.as_mut().poll_next(cx)
    }
}
