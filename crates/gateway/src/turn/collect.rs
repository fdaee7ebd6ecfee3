//! A turn whose reply is one JSON object.

use std::sync::Arc;
use std::time::Instant;

use antiphon_protocol::json::Object;
use antiphon_protocol::request::Operation;
use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::attempt::{Answer, Failed, Reply};
use super::record::Finished;
use super::resolve::Resolved;
use super::{Failure, Incoming, Presence, Turn, Turns};
use crate::pool::Verdict;

/// A finished response, durable if it is to be stored.
#[derive(Debug)]
pub struct Collected {
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Turns {
    /// Runs a turn to its end.
    pub async fn collect(
        self: Arc<Self>,
        incoming: Incoming,
        presence: Presence,
    ) -> Result<Collected, Failure> {
        let mut turn = self.admit(incoming, presence);
        let result = turn.collect().await;
        if let Err(failure) = &result {
            turn.ledger.fail(failure);
        }
        turn.ledger.settle();
        result
    }
}

/// A collected reply is there only as a whole.
impl Answer for Finished {
    async fn begin(turn: &Turn, resolved: &Resolved, reply: &mut Reply) -> Result<Self, Failed> {
        let body = turn.read_reply(reply).await?;
        Ok(turn.finish_collected(reply, resolved, &body)?)
    }
}

impl Turn {
    async fn collect(&mut self) -> Result<Collected, Failure> {
        let resolved = self.resolve().await?;
        let (reply, finished) = self.attempt::<Finished>(&resolved).await?;
        self.ledger.answered(&reply);
        reply.lease.learn(&finished.verdict(), &self.create.model);
        let response = finished.response.clone();
        self.ledger.end(&finished, response.len());
        self.record(finished, resolved, &reply.lease).await?;
        Ok(Collected { headers: reply.headers, body: response })
    }

    async fn read_reply(&self, reply: &mut Reply) -> Result<Bytes, Failed> {
        let Some(body) = reply.body.take() else { return Ok(Bytes::new()) };
        let reading = Limited::new(body, self.turns.rules.max_reply_bytes).collect();
        let limit = self.deadline.min(Instant::now() + self.turns.rules.first_byte);
        match tokio::time::timeout_at(limit.into(), self.presence.or_given_up(reading)).await {
            Ok(Ok(Ok(body))) => Ok(body.to_bytes()),
            Ok(Err(_given_up)) => Err(Failed::client_gone()),
            Err(_elapsed) => Err(Failure::UpstreamTimeout("its answer did not end in time").into()),
            Ok(Ok(Err(error))) if error.is::<LengthLimitError>() => Err(Failed {
                failure: Failure::UpstreamUnreachable("its answer is larger than the limit".into()),
                verdict: Verdict::Neutral,
            }),
            Ok(Ok(Err(error))) => {
                tracing::warn!(account.id = %reply.lease.account().name, error, "the upstream's answer broke off");
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
        let response = match self.create.operation {
            Operation::Create => self.owned(resolved).rewrite(&object).into(),
            // There is no response that would be ours to name.
            Operation::Compact | Operation::CountInput => body.clone(),
        };
        Ok(Finished::of_upstream(response, &object, &[]))
    }
}
