//! A turn whose reply is one JSON object.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use antiphon_protocol::json::Object;
use antiphon_protocol::request::Operation;
use antiphon_protocol::response::with_output;
use antiphon_upstream::transport::ReadError;
use bytes::Bytes;
use http::HeaderMap;

use super::attempt::{Answer, Failed, Reply};
use super::framing::Framing;
use super::record::Finished;
use super::relay::{BadStream, Relay};
use super::resolve::Resolved;
use super::stream::{Read, read};
use super::{Failure, Incoming, Presence, Rejected, Turn, Turns};
use antiphon_upstream::pool::Verdict;

const TOO_LARGE: &str = "its answer is larger than the limit";

/// A finished response, durable if it is to be stored.
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
        presence: Presence,
    ) -> Result<Collected, Rejected> {
        let mut turn = self.admit(incoming, presence);
        let result = turn.collect().await;
        if let Err(failure) = &result {
            turn.progress.fail(failure);
        }
        turn.settle();
        result.map_err(|failure| turn.rejected(failure))
    }
}

/// A collected reply is there only as a whole.
impl Answer for Finished {
    async fn begin(turn: &Turn, resolved: &Resolved, reply: &mut Reply) -> Result<Self, Failed> {
        if turn.facts.create.operation == Operation::Create && reply.is_event_stream() {
            // Boxed, as it is rare and large: every collected turn would carry its place.
            return Box::pin(fold(turn, resolved, reply)).await;
        }
        let body = turn.read_reply(reply).await?;
        Ok(turn.finish_collected(reply, resolved, &body)?)
    }
}

/// Puts the response of a stream together, for a client that has asked for no stream.
async fn fold(turn: &Turn, resolved: &Resolved, reply: &mut Reply) -> Result<Finished, Failed> {
    let rules = &turn.turns.rules;
    let mut relay = Relay::new(turn.owned(resolved), Framing::Sse, Some(rules.max_reply_bytes));
    let mut events = reply.events(rules.max_reply_bytes);
    let mut passed = VecDeque::new();
    let mut heard = Instant::now();
    let broken = |why: &'static str| Failed::from(Failure::UpstreamUnreachable(why.into()));
    let terminal = loop {
        let silence = if relay.events() > 0 { rules.idle } else { rules.first_byte };
        let silent_at = heard + silence;
        let terminal = match read(turn, &mut events, &mut heard, silent_at).await {
            Read::Events if events.received_bytes() > rules.max_reply_bytes => {
                return Err(broken(TOO_LARGE));
            }
            Read::Events => relay.push(events.decoder(), &mut passed),
            Read::End => match relay.finish(events.decoder(), &mut passed) {
                Ok(None) => return Err(without_end(&relay)),
                ended => ended,
            },
            Read::Broken(_) => return Err(without_end(&relay)),
            Read::Silent | Read::TurnTooLong => {
                return Err(Failure::UpstreamTimeout("its stream did not end in time").into());
            }
            Read::GivenUp => return Err(Failed::client_gone()),
        };
        passed.clear();
        match terminal {
            Ok(Some(terminal)) => break terminal,
            Ok(None) => {}
            Err(BadStream::OutputTooLarge) => return Err(broken(TOO_LARGE)),
            Err(_) => return Err(broken("its stream is no stream of events")),
        }
    };
    let mut finished = terminal.finished;
    if let Some((code, message)) = finished.error() {
        let failed = Failed::of_event(code, message);
        if failed.verdict.leads_on() {
            return Err(failed);
        }
    }
    let whole = with_output(&finished.response, &finished.output);
    finished.response = whole.map_err(|_| broken("its answer is no response object"))?.into();
    Ok(finished)
}

fn without_end(relay: &Relay) -> Failed {
    match relay.error().cloned() {
        Some((code, message)) => Failed::of_event(code, message),
        None => Failure::UpstreamUnreachable("its stream ended without a response".into()).into(),
    }
}

impl Turn {
    async fn collect(&mut self) -> Result<Collected, Failure> {
        let resolved = self.resolve().await?;
        let (mut reply, finished) = self.attempt::<Finished>(&resolved).await?;
        self.answered(&reply);
        self.tell_rates(&mut reply.headers);
        reply.lease.learn(&finished.verdict(), &self.facts.create.model);
        let response = finished.response.clone();
        self.end(&finished, response.len());
        self.record(finished, &resolved, Some(reply.lease.account())).await?;
        Ok(Collected { headers: reply.headers, body: response })
    }

    async fn read_reply(&self, reply: &mut Reply) -> Result<Bytes, Failed> {
        let Some(body) = reply.body.take() else { return Ok(Bytes::new()) };
        let reading = body.collect(self.turns.rules.max_reply_bytes);
        let limit = self.deadline.min(Instant::now() + self.turns.rules.first_byte);
        match tokio::time::timeout_at(limit.into(), self.presence.or_given_up(reading)).await {
            Ok(Ok(Ok(body))) => Ok(reply.lease.account().settings.dialect.decode_collected(body)),
            Ok(Err(_given_up)) => Err(Failed::client_gone()),
            Err(_elapsed) => Err(Failure::UpstreamTimeout("its answer did not end in time").into()),
            Ok(Ok(Err(ReadError::TooLarge { .. }))) => Err(Failed {
                failure: Failure::UpstreamUnreachable(TOO_LARGE.into()),
                verdict: Verdict::Neutral,
            }),
            Ok(Ok(Err(error @ ReadError::Broken(_)))) => {
                tracing::warn!(account.id = %reply.lease.account().name, %error, "the upstream's answer broke off");
                Err(Failure::UpstreamUnreachable("its answer broke off".into()).into())
            }
        }
    }

    fn finish_collected(
        &self,
        reply: &Reply,
        resolved: &Resolved,
        body: &Bytes,
    ) -> Result<Finished, Failure> {
        let no_response = || {
            let account = &reply.lease.account().name;
            let content_type = reply.content_type.as_deref().unwrap_or("none");
            tracing::warn!(account.id = %account, content_type, "the upstream's answer is no response object");
            Failure::UpstreamUnreachable("its answer is no response object".into())
        };
        let object = Object::parse(body).map_err(|_| no_response())?;
        let response = match self.facts.create.operation {
            Operation::Create => self.owned(resolved).rewrite(&object).into(),
            // There is no response that would be ours to name.
            Operation::Compact | Operation::CountInput => body.clone(),
        };
        Ok(Finished::of_upstream(response, &object, &[]))
    }
}
