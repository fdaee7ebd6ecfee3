//! Choose and attempt: an account for the turn, and its upstream's reply.

use std::time::Instant;

use antiphon_protocol::error::UpstreamError;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;

use super::resolve::Resolved;
use super::{Failure, Refusal, Transport, Turn};
use crate::pool::Lease;
use crate::upstream::{Accept, SendError, headers};

/// An error reply is passed on whole up to this size; a larger one is no error reply of the API.
const MAX_REFUSAL_BYTES: usize = 1024 * 1024;

/// An upstream that has accepted the turn.
pub struct Reply {
    pub lease: Lease,
    /// Those of the upstream's headers that a client may see.
    pub headers: HeaderMap,
    pub content_type: Option<String>,
    /// Gone once it has been read.
    pub body: Option<Incoming>,
}

impl Turn {
    /// Sends the turn upstream and waits for the reply's head.
    pub(super) async fn attempt(&mut self, resolved: &Resolved) -> Result<Reply, Failure> {
        let lease = self.choose(resolved).await?;
        let account = lease.account();
        self.ledger.account = Some(account.name.clone());
        // A turn that may be continued here has to bring its reasoning in a form that can be replayed.
        let wanted = self.create.store && !self.create.includes_encrypted_reasoning();
        let mut include = wanted && !account.refuses_encrypted_reasoning(&self.create.model);
        loop {
            let input = resolved.upstream_input(account.replay_ids);
            let body = self.create.upstream_body(&input, include);
            let reply = self.send(&lease, body.parts).await?;
            let status = reply.status();
            if status.is_success() {
                return Ok(accepted(lease, reply));
            }
            let refusal = self.read_refusal(reply).await?;
            if include && refuses_include(&refusal) {
                account.remember_encrypted_reasoning_refused(&self.create.model);
                include = false;
                continue;
            }
            return Err(self.refused(refusal));
        }
    }

    async fn choose(&self, resolved: &Resolved) -> Result<Lease, Failure> {
        let pool = &self.turns.pool;
        let model = &self.create.model;
        let preferred = resolved.parent.as_ref().map(|parent| parent.account.as_str());
        if let Some(lease) = pool.choose(model, preferred) {
            return Ok(lease);
        }
        pool.refresh_catalogs(&self.turns.upstream, self.turns.clock.now()).await;
        pool.choose(model, preferred).ok_or_else(|| Failure::ModelNotFound(model.clone()))
    }

    async fn send(&mut self, lease: &Lease, body: Vec<Bytes>) -> Result<http::Response<Incoming>, Failure> {
        let account = lease.account();
        let accept = match self.ledger.transport {
            Transport::Http => Accept::Json,
            Transport::Sse => Accept::Events,
        };
        self.ledger.attempts += 1;
        let operation = self.create.operation;
        let sending = self.turns.upstream.post(account, operation, &self.headers, accept, body);
        let limit = self.deadline.min(Instant::now() + self.turns.rules.first_byte);
        let sent = tokio::time::timeout_at(limit.into(), self.presence.or_given_up(sending)).await;
        let failure = match sent {
            Ok(Ok(Ok(reply))) => return Ok(reply),
            Ok(Err(_given_up)) => return Err(Failure::ClientGone),
            Err(_elapsed) => Failure::UpstreamTimeout("it sent no answer in time"),
            Ok(Ok(Err(SendError::ConnectTimeout))) => Failure::UpstreamTimeout("no connection in time"),
            Ok(Ok(Err(SendError::Connect(why)))) => {
                tracing::warn!(account.id = %account.name, error = %why, "can't connect to the upstream");
                Failure::UpstreamUnreachable("no connection".into())
            }
            Ok(Ok(Err(SendError::Broken(why)))) => {
                tracing::warn!(account.id = %account.name, error = %why, "the upstream broke the connection");
                Failure::UpstreamUnreachable("it closed the connection before it answered".into())
            }
        };
        Err(failure)
    }

    async fn read_refusal(&self, reply: http::Response<Incoming>) -> Result<Refusal, Failure> {
        let (head, body) = reply.into_parts();
        let reading = Limited::new(body, MAX_REFUSAL_BYTES).collect();
        let limit = self.deadline.min(Instant::now() + self.turns.rules.idle);
        let read = tokio::time::timeout_at(limit.into(), self.presence.or_given_up(reading)).await;
        let body = match read {
            Ok(Ok(Ok(body))) => body.to_bytes(),
            Ok(Err(_given_up)) => return Err(Failure::ClientGone),
            Ok(Ok(Err(_))) | Err(_) => Bytes::new(),
        };
        let mut headers = headers::for_client(&head.headers);
        if let Some(content_type) = head.headers.get(http::header::CONTENT_TYPE) {
            headers.insert(http::header::CONTENT_TYPE, content_type.clone());
        }
        Ok(Refusal { status: head.status, headers, body })
    }

    /// Which of an upstream's refusals are the client's to see.
    fn refused(&self, refusal: Refusal) -> Failure {
        let account = self.ledger.account.as_deref().unwrap_or_default();
        match refusal.status {
            // The account's credential is wrong, not the client's, and the message may quote a part of it.
            StatusCode::UNAUTHORIZED => {
                tracing::error!(account.id = account, "the upstream refuses the account's credential");
                Failure::NoAccount
            }
            status if status.is_client_error() => Failure::Refused(Box::new(refusal)),
            status if status.is_server_error() && is_envelope(&refusal.body) => {
                Failure::Refused(Box::new(refusal))
            }
            status => {
                tracing::warn!(
                    account.id = account,
                    http.status = status.as_u16(),
                    "the upstream answered no API error"
                );
                match status {
                    StatusCode::GATEWAY_TIMEOUT => Failure::UpstreamTimeout("it answered 504"),
                    _ => Failure::UpstreamUnreachable(format!("it answered {}", status.as_u16()).into()),
                }
            }
        }
    }
}

fn accepted(lease: Lease, reply: http::Response<Incoming>) -> Reply {
    let (head, body) = reply.into_parts();
    let content_type = head.headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    Reply {
        lease,
        headers: headers::for_client(&head.headers),
        content_type: content_type.map(str::to_owned),
        body: Some(body),
    }
}

/// Whether this is a 400 against the `include` that was added to the client's request.
fn refuses_include(refusal: &Refusal) -> bool {
    if refusal.status != StatusCode::BAD_REQUEST {
        return false;
    }
    let error = UpstreamError::parse(&refusal.body);
    let message = error.message.unwrap_or_default().to_ascii_lowercase();
    error.param.is_some_and(|param| param == "include" || param.starts_with("include["))
        || message.contains("encrypted content")
        || message.contains("reasoning.encrypted_content")
}

/// Whether the body is an error of the API, that a client understands.
fn is_envelope(body: &[u8]) -> bool {
    antiphon_protocol::json::validate(body).is_ok()
        && antiphon_protocol::json::member(body, "error").is_some()
}
