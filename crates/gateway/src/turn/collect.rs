//! A turn whose reply is one JSON object.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use antiphon_protocol::include::HiddenParts;
use antiphon_protocol::json::Object;
use antiphon_protocol::request::Operation;
use antiphon_protocol::response::{Owned, with_output};
use antiphon_runtime::offload::offload_if_long;
use antiphon_upstream::account::Account;
use antiphon_upstream::dialect::Piece;
use antiphon_upstream::transport::ReplyBody;
use bytes::Bytes;
use http::HeaderMap;

use super::attempt::{Earlier, FailedAttempt, Reply, ReplyStart};
use super::background::Unfinished;
use super::correction::is_open;
use super::framing::Framing;
use super::reading::{ReadOutcome, Silence, read_events};
use super::record::{Finished, Items};
use super::relay::{BadStream, Relay, Terminal};
use super::resolve::Resolved;
use super::{Cancellation, Failure, Incoming, Turn, TurnError, Turns};
use crate::body_memory::Reservation;
use antiphon_upstream::pool::Verdict;

pub(super) const TOO_LARGE: &str = "its reply is larger than the limit";
/// Smaller pieces of a reply are copied together, as each takes more memory than its bytes.
const MIN_PIECE_BYTES: usize = 4096;
const NOT_A_RESPONSE: &str = "its reply is not a response object";

/// A finished response; it is durable if it is to be stored.
#[derive(Debug)]
pub struct Collected {
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Turns {
    /// Runs a turn to its end.
    pub(super) async fn run_to_end(
        self: Arc<Self>,
        incoming: Incoming,
        cancellation: Cancellation,
    ) -> Result<Collected, TurnError> {
        let mut turn = self.admit(incoming, cancellation);
        let result = turn.collect().await;
        if let Err(failure) = &result {
            turn.progress.fail(failure);
        }
        turn.settle();
        result.map_err(|failure| turn.turn_error(failure))
    }
}

/// A collected reply commits the turn only when it is complete.
impl ReplyStart for Finished {
    async fn begin(
        turn: &Turn,
        resolved: &Resolved,
        reply: &mut Reply,
        earlier: &Earlier,
    ) -> Result<Self, FailedAttempt> {
        if turn.runs_natively(reply.lease.account()) {
            // Boxed, as it is rare and large.
            Box::pin(turn.await_unstreamed(reply)).await?;
        }
        if turn.facts.create.operation == Operation::Create && reply.is_event_stream() {
            // Boxed, as it is rare and large: otherwise every collected turn's future would reserve space for it.
            return Box::pin(collect_stream(turn, resolved, reply, Some(earlier))).await;
        }
        let body = turn.read_reply(reply).await?;
        if reply.format.is_decoded() {
            return decode_collected(turn, resolved, reply, body, earlier);
        }
        let finished = turn.finish_collected(reply, resolved, body).await?;
        match turn.failover(&finished, resolved, reply, Some(earlier)) {
            Some(failed) => Err(failed),
            None => Ok(finished),
        }
    }
}

/// Reads the response from a stream, for a client that did not ask for one. `earlier` is `None` if no other account can take
/// over.
async fn collect_stream(
    turn: &Turn,
    resolved: &Resolved,
    reply: &mut Reply,
    earlier: Option<&Earlier>,
) -> Result<Finished, FailedAttempt> {
    let mut relay = turn.relay_of(reply, resolved);
    let account = Arc::clone(reply.lease.account());
    let (broken, finished) = match collect_events(turn, reply, &mut relay).await {
        Ok(finished) => match turn.failover(&finished, resolved, reply, earlier) {
            Some(failed) => (failed, Some(finished)),
            None => return whole(turn, finished),
        },
        Err(failed) => (failed, None),
    };
    let is_kept = relay.has_items() || finished.is_some();
    if let Some(run) = turn.facts.door.run().filter(|_| is_kept) {
        run.keep_unfinished(Unfinished { relay, finished, account });
    }
    Err(broken)
}

async fn collect_events(
    turn: &Turn,
    reply: &mut Reply,
    relay: &mut Relay,
) -> Result<Finished, FailedAttempt> {
    let settings = &turn.turns.settings;
    let mut events = reply.events(settings.max_reply_bytes);
    let account = Arc::clone(reply.lease.account());
    let mut passed = VecDeque::new();
    let mut silence = Silence::begin(settings.first_byte_timeout);
    let unreadable = |why: &'static str| match Failure::UpstreamFailed(why.into()) {
        failure if turn.is_run_upstream() => FailedAttempt { failure, verdict: Verdict::Neutral },
        failure => failure.into(),
    };
    let terminal = loop {
        let limit = if relay.has_begun() { settings.idle_timeout } else { settings.first_byte_timeout };
        let silent_at = silence.since + limit;
        let outcome = read_events(turn, &mut events, &mut silence, silent_at).await;
        let is_over = !matches!(outcome, ReadOutcome::Events);
        let terminal = match outcome {
            ReadOutcome::Events if events.received_bytes() > settings.max_reply_bytes => {
                return Err(unreadable(TOO_LARGE));
            }
            ReadOutcome::Events => relay.push(events.decoder(), &mut passed),
            ReadOutcome::End => relay.finish(events.decoder(), &mut passed),
            ReadOutcome::Broken(_) => Ok(None),
            ReadOutcome::Silent if turn.is_run_upstream() => Ok(None),
            ReadOutcome::Silent | ReadOutcome::TurnTooLong => {
                return Err(Failure::UpstreamTimeout("its stream did not end in time").into());
            }
            ReadOutcome::Cancelled => return Err(FailedAttempt::client_gone()),
        };
        let kept_bytes = relay.kept_bytes() + events.decoder().held_bytes();
        let reserved = turn.reserve_for_reply(&mut reply.memory, kept_bytes).await;
        reserved.map_err(FailedAttempt::neutral)?;
        if is_over && matches!(terminal, Ok(None)) {
            let Some(body) = read_on(turn, relay).await? else { return Err(missing_terminal(turn, relay)) };
            events = reply.continued(body, settings.max_reply_bytes);
            relay.skip_repeated();
            silence.since = Instant::now();
            continue;
        }
        passed.clear();
        if let Some(run) = turn.facts.door.run() {
            run.note_received(relay.events());
            turn.note_upstream_turn(&account, relay.upstream_id()).await;
        }
        match terminal {
            Ok(Some(terminal)) => break terminal,
            Ok(None) => {}
            Err(BadStream::OutputTooLarge) => return Err(unreadable(TOO_LARGE)),
            Err(_) => return Err(unreadable("its stream contains invalid events")),
        }
    };
    turn.drain(events);
    Ok(terminal.finished)
}

/// The response in a reply of another API that is no stream.
fn decode_collected(
    turn: &Turn,
    resolved: &Resolved,
    reply: &Reply,
    body: Bytes,
    earlier: &Earlier,
) -> Result<Finished, FailedAttempt> {
    if let Some((code, message)) = reply.format.error_in(&body) {
        return Err(FailedAttempt::from_error_event(code.to_owned(), reply.redaction.redact_text(message)));
    }
    let mut relay = turn.relay_of(reply, resolved);
    let mut decoder = reply.format.decoder(turn.turns.settings.max_reply_bytes);
    decoder.push(Piece::Whole(body));
    let mut passed = VecDeque::new();
    let terminal = match relay.push(&mut decoder, &mut passed) {
        Ok(None) => relay.finish(&mut decoder, &mut passed),
        ended => ended,
    };
    match terminal {
        Ok(Some(Terminal { finished, .. })) => match turn.failover(&finished, resolved, reply, Some(earlier))
        {
            Some(failed) => Err(failed),
            None => whole(turn, finished),
        },
        Ok(None) if relay.error().is_some() => Err(missing_terminal(turn, &relay)),
        Ok(None) | Err(_) => Err(Failure::UpstreamFailed("its reply is not a chat completion".into()).into()),
    }
}

/// A response put together from events, whole.
fn whole(turn: &Turn, mut finished: Finished) -> Result<Finished, FailedAttempt> {
    let whole = with_output(&finished.response, &turn.hidden_parts().hide_in_array(&finished.output));
    let whole = whole.map_err(|_| Failure::UpstreamFailed(NOT_A_RESPONSE.into()))?;
    finished.response = whole.into();
    Ok(finished)
}

/// The rest of a stream that has broken off, from an upstream that goes on with the turn.
async fn read_on(turn: &Turn, relay: &Relay) -> Result<Option<ReplyBody>, FailedAttempt> {
    let reattached = turn.cancellation.or_cancelled(turn.reattach(relay.last_number())).await;
    reattached.map_err(|_cancelled| FailedAttempt::client_gone())
}

fn missing_terminal(turn: &Turn, relay: &Relay) -> FailedAttempt {
    if turn.is_run_upstream() {
        return turn.without_rest();
    }
    match relay.error().cloned() {
        Some((code, message)) => FailedAttempt::from_error_event(code, message),
        None => Failure::UpstreamFailed("its stream ended without a response".into()).into(),
    }
}

impl Turn {
    /// A response whose failure another account may not share. Where none can take over, the client gets the response as it is,
    /// unless it says that a limit of the account was reached: that is an error reply, after which clients ask again.
    fn failover(
        &self,
        finished: &Finished,
        resolved: &Resolved,
        reply: &Reply,
        earlier: Option<&Earlier>,
    ) -> Option<FailedAttempt> {
        let (code, message) = finished.error()?;
        let failed = FailedAttempt::from_error_event(code, message);
        let is_moved = match failed.verdict {
            Verdict::RateLimited { .. } | Verdict::OutOfQuota { .. } => earlier.is_some(),
            Verdict::Failed | Verdict::TooLarge => {
                earlier.is_some_and(|earlier| self.may_move(resolved, earlier, reply.lease.account()))
            }
            _ => false,
        };
        is_moved.then_some(failed)
    }

    /// Puts a response together that is to be collected.
    fn relay_of(&self, reply: &Reply, resolved: &Resolved) -> Relay {
        let max_bytes = self.turns.settings.max_reply_bytes;
        let relay = Relay::new(self.owned(resolved), Framing::Sse, Some(max_bytes));
        relay.hiding(self.hidden_parts()).correcting(reply.corrections())
    }

    async fn collect(&mut self) -> Result<Collected, Failure> {
        let resolved = self.resolve().await?;
        self.collect_resolved(&resolved).await
    }

    pub(super) async fn collect_resolved(&mut self, resolved: &Resolved) -> Result<Collected, Failure> {
        let (reply, finished) = self.attempt::<Finished>(resolved).await?;
        self.record_collected(reply, finished, resolved).await
    }

    /// Collects what an upstream still has of a turn.
    pub(super) async fn collect_rest(
        &mut self,
        resolved: &Resolved,
        mut reply: Reply,
    ) -> Result<Collected, Failure> {
        let collected = collect_stream(self, resolved, &mut reply, None).await;
        let finished = collected.map_err(|failed| failed.failure)?;
        self.record_collected(reply, finished, resolved).await
    }

    async fn record_collected(
        &mut self,
        mut reply: Reply,
        finished: Finished,
        resolved: &Resolved,
    ) -> Result<Collected, Failure> {
        self.reply_started(&reply);
        self.apply_rate_limit_headers(&mut reply.headers);
        self.learn(&reply.lease, &finished.verdict());
        let response = finished.response.clone();
        self.end(&finished, response.len());
        self.record(finished, resolved, Some(reply.lease.account().maker())).await?;
        Ok(Collected { headers: reply.headers, body: reply.memory.hold(response) })
    }

    pub(super) async fn read_reply(&self, reply: &mut Reply) -> Result<Bytes, FailedAttempt> {
        let Some(body) = reply.body.take() else { return Ok(Bytes::new()) };
        self.read_body(reply.lease.account(), body, &mut reply.memory).await
    }

    /// Reads a reply that is no stream.
    pub(super) async fn read_body(
        &self,
        account: &Account,
        body: ReplyBody,
        memory: &mut Reservation,
    ) -> Result<Bytes, FailedAttempt> {
        let reading = self.read_whole(account, body, memory);
        let limit = self.deadline.min(Instant::now() + self.turns.settings.first_byte_timeout);
        match tokio::time::timeout_at(limit.into(), self.cancellation.or_cancelled(reading)).await {
            Ok(Ok(read)) => read,
            Ok(Err(_cancelled)) => Err(FailedAttempt::client_gone()),
            Err(_elapsed) => Err(Failure::UpstreamTimeout("its reply did not end in time").into()),
        }
    }

    async fn read_whole(
        &self,
        account: &Account,
        mut body: ReplyBody,
        memory: &mut Reservation,
    ) -> Result<Bytes, FailedAttempt> {
        let (mut pieces, mut small, mut size_bytes) = (Vec::new(), Vec::new(), 0);
        let cut_off = |error| {
            tracing::warn!(account.id = %account.name, error, "the upstream's reply was cut off");
            Failure::UpstreamFailed("its reply was cut off".into())
        };
        while let Some(piece) = body.next_bytes().await.map_err(cut_off)? {
            size_bytes += piece.len();
            if size_bytes > self.turns.settings.max_reply_bytes {
                return Err(FailedAttempt::neutral(Failure::UpstreamFailed(TOO_LARGE.into())));
            }
            self.reserve_for_reply(memory, size_bytes).await.map_err(FailedAttempt::neutral)?;
            if pieces.is_empty() || (small.is_empty() && piece.len() >= MIN_PIECE_BYTES) {
                pieces.push(piece);
                continue;
            }
            small.extend_from_slice(&piece);
            if small.len() >= MIN_PIECE_BYTES {
                pieces.push(std::mem::take(&mut small).into());
            }
        }
        if !small.is_empty() {
            pieces.push(small.into());
        }
        Ok(if pieces.len() == 1 { pieces.remove(0) } else { pieces.concat().into() })
    }

    async fn finish_collected(
        &self,
        reply: &Reply,
        resolved: &Resolved,
        body: Bytes,
    ) -> Result<Finished, Failure> {
        // The reply to another operation is not a response that the gateway gives an id to.
        let owned = (self.facts.create.operation == Operation::Create).then(|| self.owned(resolved));
        let (hidden, corrections) = (self.hidden_parts(), reply.corrections());
        let size_bytes = body.len();
        let finish = move || {
            let object = Object::parse(&body).map_err(|_| NOT_A_RESPONSE)?;
            let Some(corrected) = corrections.of_collected(&object) else {
                return finished_of(&body, &object, owned.as_ref(), hidden);
            };
            let object = Object::parse(&corrected).map_err(|_| NOT_A_RESPONSE)?;
            finished_of(&corrected, &object, owned.as_ref(), hidden)
        };
        let finished = offload_if_long(size_bytes, finish).await.map_err(|_| Failure::Internal)?;
        finished.map_err(|why: &str| {
            let account = &reply.lease.account().name;
            let content_type = reply.content_type.as_deref().unwrap_or("none");
            tracing::warn!(account.id = %account, content_type, reason = why, "the upstream's reply is not a finished response");
            Failure::UpstreamFailed(why.into())
        })
    }
}

/// The response in a collected reply. `owned` is `None` for a reply that is none.
fn finished_of(
    body: &Bytes,
    object: &Object<'_>,
    owned: Option<&Owned>,
    hidden: HiddenParts,
) -> Result<Finished, &'static str> {
    let Some(owned) = owned else {
        return Ok(Finished::from_upstream(body.clone(), object, &Items::new(), None));
    };
    if object.get("status").is_none() && object.get("output").is_none() {
        return Err(NOT_A_RESPONSE);
    }
    if is_open(object) {
        return Err("its reply is not the end of the response");
    }
    let response = owned.rewrite(object);
    let response = hidden.hide_in_response(&response).unwrap_or(response).into();
    let mut finished = Finished::from_upstream(response, object, &Items::new(), None);
    finished.body = owned.stored_body(object).map(Bytes::from);
    Ok(finished)
}
