//! Sending a turn to one account: over HTTP or a socket, and again where the account itself can be helped.

use std::time::Instant;

use antiphon_protocol::error::UpstreamError;
use antiphon_protocol::request::{Changes, Operation};
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};

use super::adapt::{Approach, STALE};
use super::attempt::Failed;
use super::resolve::{Context, Reasoning, Resolved};
use super::{Failure, Turn};
use antiphon_upstream::account::{Account, Credential};
use antiphon_upstream::client::SendError;
use antiphon_upstream::credential::NoToken;
use antiphon_upstream::pool::Verdict;
use antiphon_upstream::settings::UpstreamTransport;
use antiphon_upstream::transport::socket::{NotOpened, Socket};
use antiphon_upstream::transport::{Accept, Post, ReplyBody, Secrets};

/// The upstream's reply, or why the turn did not stay on its socket: it is to be sent in another way.
type Sent = Result<Response<ReplyBody>, &'static str>;

impl Turn {
    /// Until the account's upstream accepts the turn, or refuses it for good.
    pub(super) async fn send_adapting(
        &mut self,
        account: &Account,
        resolved: &Resolved,
    ) -> Result<(Response<ReplyBody>, Reasoning), Failed> {
        // Boxed, like other things that are rare and large: every turn would carry their place.
        let mut socket = match self.takes_sockets(account) {
            true => Box::pin(self.socket_of_parent(account, resolved)).await,
            false => None,
        };
        let mut approach = self.approach(account, resolved, socket.is_some());
        let mut has_renewed = false;
        loop {
            let authorization = self.authorization(account).await?;
            let Context { input, reasoning } = self.context(account, resolved, &approach)?;
            let changes = self.changes(account, &approach);
            let body = account.settings.dialect.encode(&self.facts.create, &input, changes);
            let mut reply = if approach.over_socket {
                let sending = self.send_over_socket(account, authorization.as_ref(), socket.take(), body);
                match Box::pin(sending).await? {
                    Ok(reply) => reply,
                    Err(why) => {
                        self.note_attempt(why);
                        self.turns.upstream.metrics().fell_back(&account.name, why);
                        approach.fall_back(why, resolved.native_parent(account));
                        continue;
                    }
                }
            } else {
                self.send(account, authorization.as_ref(), body).await?
            };
            let secrets = Secrets::new(account, authorization.as_ref());
            secrets.remove_from(reply.headers_mut());
            if reply.status().is_success() {
                return Ok((reply, reasoning));
            }
            let mut refusal = self.read_refusal(reply).await?;
            refusal.body = secrets.redact(refusal.body);
            let error = UpstreamError::parse(&refusal.body);
            let asked_to_include = approach.include;
            if let Some(adapted) = approach.adapt(refusal.status, &error) {
                if asked_to_include && !approach.include {
                    account.remember_encrypted_reasoning_refused(&self.facts.create.model);
                }
                self.note_attempt(adapted);
                continue;
            }
            let failed = self.refused(account, refusal, &error);
            let is_credential = failed.verdict == Verdict::CredentialRefused;
            if has_renewed
                || !is_credential
                || !self.turns.upstream.invalidate_credential(account, authorization.as_ref())
            {
                return Err(failed);
            }
            self.note_attempt("token_refused");
            has_renewed = true;
        }
    }

    fn takes_sockets(&self, account: &Account) -> bool {
        self.facts.create.operation == Operation::Create && account.uses_sockets(self.turns.env.clock.now())
    }

    /// The socket on which the upstream remembers what the turn continues.
    async fn socket_of_parent(&self, account: &Account, resolved: &Resolved) -> Option<Socket> {
        let parent = resolved.upstream_parent(account)?;
        self.turns.upstream.take_idle_socket(account, parent).await
    }

    fn approach<'a>(&self, account: &Account, resolved: &'a Resolved, has_socket: bool) -> Approach<'a> {
        // A turn that may be continued here has to bring its reasoning in a form that can be replayed.
        let may_be_continued = self.facts.create.store || self.facts.door.lane().is_some();
        let wants_reasoning = may_be_continued && !self.facts.create.includes_encrypted_reasoning();
        let previous = match self.facts.create.operation {
            Operation::Create if has_socket => resolved.upstream_parent(account),
            Operation::Create => resolved.native_parent(account),
            Operation::Compact | Operation::CountInput => None,
        };
        Approach {
            previous,
            can_read: true,
            include: wants_reasoning && !account.refuses_encrypted_reasoning(&self.facts.create.model),
            over_socket: self.takes_sockets(account),
        }
    }

    fn changes<'a>(&self, account: &'a Account, approach: &Approach<'a>) -> Changes<'a> {
        Changes {
            store: account.is_native() && self.facts.create.store,
            previous: approach.previous,
            include_encrypted_reasoning: approach.include,
            model: account.alias(&self.facts.create.model),
            streams: account.settings.stream_only,
            is_frame: approach.over_socket,
        }
    }

    /// The input for one account; what the upstream has itself is not sent again.
    fn context(
        &self,
        account: &Account,
        resolved: &Resolved,
        approach: &Approach<'_>,
    ) -> Result<Context, Failed> {
        if approach.previous.is_some() {
            let input = resolved.own_input(account.settings.replay_ids);
            return Ok(Context { input, reasoning: Reasoning::Full });
        }
        let context = resolved.context(account, approach.can_read, self.turns.rules.max_history_bytes);
        context.map_err(|failure| Failed { failure, verdict: Verdict::Neutral })
    }

    /// Waits while the account's token is being refreshed.
    async fn authorization(&self, account: &Account) -> Result<Option<HeaderValue>, Failed> {
        // Most accounts have a credential that stays, for which no timer need be set.
        match &account.credential {
            Credential::None => Ok(None),
            Credential::Key(key) => Ok(Some(key.clone())),
            Credential::OAuth(_) => Box::pin(self.token(account)).await,
        }
    }

    async fn token(&self, account: &Account) -> Result<Option<HeaderValue>, Failed> {
        let authorization = self.presence.or_given_up(self.turns.upstream.authorization(account));
        let verdict = match tokio::time::timeout_at(self.deadline.into(), authorization).await {
            Ok(Ok(Ok(authorization))) => return Ok(authorization),
            Ok(Err(_given_up)) => return Err(Failed::client_gone()),
            Ok(Ok(Err(NoToken::Refused(_)))) => Verdict::CredentialInvalid,
            Ok(Ok(Err(NoToken::Failed(_)))) | Err(_) => Verdict::Unreachable,
        };
        Err(Failed { failure: Failure::NoAccount, verdict })
    }

    async fn send(
        &self,
        account: &Account,
        authorization: Option<&HeaderValue>,
        body: Vec<Bytes>,
    ) -> Result<Response<ReplyBody>, Failed> {
        let operation = self.facts.create.operation;
        let is_stream_only = account.settings.stream_only && operation == Operation::Create;
        let accept = if self.facts.door.streams() || is_stream_only { Accept::Events } else { Accept::Json };
        let post = Post { operation, authorization, client_headers: &self.headers, accept, body };
        Err(match self.in_time(self.turns.upstream.post(account, post)).await? {
            Ok(reply) => return Ok(reply),
            Err(SendError::ConnectTimeout) => {
                Failed::unreachable(Failure::UpstreamTimeout("no connection in time"))
            }
            Err(SendError::Connect(why)) => {
                tracing::warn!(account.id = %account.name, error = %why, "can't connect to the upstream");
                Failed::unreachable(Failure::UpstreamUnreachable("no connection".into()))
            }
            Err(SendError::Broken(why)) => {
                tracing::warn!(account.id = %account.name, error = %why, "the upstream broke the connection");
                Failure::UpstreamUnreachable("it closed the connection before it answered".into()).into()
            }
        })
    }

    /// Over the socket that has the parent, or a new one.
    async fn send_over_socket(
        &self,
        account: &Account,
        authorization: Option<&HeaderValue>,
        held: Option<Socket>,
        frame: Vec<Bytes>,
    ) -> Result<Sent, Failed> {
        let is_reused = held.is_some();
        let socket = match held {
            Some(socket) => socket,
            None => {
                let opening = self.turns.upstream.open_socket(account, authorization, &self.headers);
                match self.in_time(opening).await? {
                    Ok(socket) => socket,
                    Err(error) => return self.without_socket(account, &error),
                }
            }
        };
        self.turns
            .upstream
            .metrics()
            .turn_on_socket(&account.name, if is_reused { "reused" } else { "opened" });
        match self.in_time(self.turns.upstream.send_on_socket(account, socket, frame)).await? {
            Ok(reply) => Ok(Ok(reply)),
            // It was closed while it waited, which is nobody's failure.
            Err(_) if is_reused => Ok(Err(STALE)),
            Err(error) => {
                tracing::warn!(account.id = %account.name, %error, "a socket was lost before the first event");
                self.or_http(account, "socket_lost", "it closed the socket before the first event")
            }
        }
    }

    /// No socket could be opened. Whatever is wrong with the credential or the account shows over HTTP as well.
    fn without_socket(&self, account: &Account, error: &NotOpened) -> Result<Sent, Failed> {
        tracing::warn!(account.id = %account.name, %error, "the upstream opens no socket");
        let (why, refused) = match error {
            NotOpened::Refused(status) => ("socket_refused", Some(*status)),
            NotOpened::Timeout => ("socket_timeout", None),
            NotOpened::Failed(_) => ("socket_failed", None),
        };
        let passes = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::TOO_MANY_REQUESTS];
        let is_about_sockets = |status: &StatusCode| status.is_client_error() && !passes.contains(status);
        if matches!(error, NotOpened::Timeout) || refused.as_ref().is_some_and(is_about_sockets) {
            account.remember_sockets_refused(self.turns.env.clock.now());
        }
        match refused.filter(|status| passes.contains(status)) {
            Some(status) if account.settings.transport == UpstreamTransport::WebSocket => {
                Ok(Ok(Response::builder().status(status).body(ReplyBody::empty()).expect("a valid status")))
            }
            _ => self.or_http(account, why, "it opens no socket"),
        }
    }

    fn or_http(&self, account: &Account, why: &'static str, told: &'static str) -> Result<Sent, Failed> {
        match account.settings.transport {
            UpstreamTransport::Auto => Ok(Err(why)),
            UpstreamTransport::WebSocket | UpstreamTransport::Http => {
                Err(Failure::UpstreamUnreachable(told.into()).into())
            }
        }
    }

    /// Waits for the upstream's first sign, as long as there is somebody to tell.
    async fn in_time<T>(&self, future: impl Future<Output = T>) -> Result<T, Failed> {
        let limit = self.deadline.min(Instant::now() + self.turns.rules.first_byte);
        match tokio::time::timeout_at(limit.into(), self.presence.or_given_up(future)).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(_given_up)) => Err(Failed::client_gone()),
            Err(_elapsed) => Err(Failure::UpstreamTimeout("it sent no answer in time").into()),
        }
    }
}
