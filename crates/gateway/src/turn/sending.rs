//! Sends a turn to one account, over HTTP or a WebSocket, and repeats it in a form that the account accepts.

use std::sync::Arc;
use std::time::Instant;

use antiphon_protocol::images;
use antiphon_protocol::request::{Changes, Operation, UpstreamInput};
use antiphon_runtime::offload::{is_short, offload, offload_if_long};
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use super::attempt::FailedAttempt;
use super::resolve::{AccountInput, Reasoning, Resolved};
use super::retry::{Refused, RequestForm};
use super::variant::{RequestVariant, SOCKET_STALE};
use super::{Facts, Failure, Turn};
use crate::body_memory::Reservation;
use antiphon_upstream::account::{Account, Credential};
use antiphon_upstream::client::SendError;
use antiphon_upstream::credential::NoToken;
use antiphon_upstream::dialect::{Dialect, Encoded, ReplyFormat, TurnFacts};
use antiphon_upstream::pool::Verdict;
use antiphon_upstream::settings::UpstreamTransport;
use antiphon_upstream::transport::socket::{NotOpened, Socket};
use antiphon_upstream::transport::{Accept, Post, ReplyBody, Secrets};

const EVENT_STREAM: &str = "text/event-stream";

/// The reply of an upstream that has accepted a turn.
pub struct Accepted {
    pub reply: Response<ReplyBody>,
    pub reasoning: Reasoning,
    pub format: ReplyFormat,
    /// Names what was left out of the request.
    pub omitted: Option<HeaderValue>,
    /// What the request was sent with.
    pub authorization: Option<HeaderValue>,
}

/// The upstream's reply, or why the turn left its socket and has to be sent again.
type SendOutcome = Result<Response<ReplyBody>, &'static str>;

impl Turn {
    /// Sends the turn until the account's upstream accepts it or rejects it for good.
    pub(super) async fn send_with_retries(
        &mut self,
        account: &Account,
        resolved: &Resolved,
    ) -> Result<Accepted, FailedAttempt> {
        // Boxed, as it is rare and large: otherwise every turn's future would reserve space for it.
        let mut socket = match self.uses_socket(account) {
            true => Box::pin(self.socket_of_parent(account, resolved)).await,
            false => None,
        };
        let dialect = self.dialect_of(account).await?;
        let variant = self.initial_variant(account, dialect, resolved, socket.is_some());
        let mut form = RequestForm { dialect, variant, has_refreshed_token: false };
        let model = account.upstream_name(&self.facts.create.model);
        loop {
            self.trace_attempt();
            let RequestForm { dialect, variant, .. } = &mut form;
            let authorization = self.authorization(account).await?;
            let AccountInput { mut input, reasoning } =
                self.input_for(account, *dialect, resolved, variant)?;
            if variant.images_as_messages {
                input = Box::pin(self.with_images_as_messages(input)).await?;
            }
            let changes = self.body_changes(account, variant, model.as_deref());
            let Encoded { parts: body, format, omitted, has_reasoning } =
                self.encode(dialect.in_form(variant.chat_form), input, changes).await?;
            let mut reply = if variant.over_socket {
                let sending = self.send_over_socket(account, authorization.as_ref(), socket.take(), body);
                match Box::pin(sending).await? {
                    Ok(reply) => reply,
                    Err(reason) => {
                        self.record_attempt(reason);
                        self.turns.upstream.metrics().fell_back(&account.name, reason);
                        variant.leave_socket(reason, resolved.native_parent(account));
                        continue;
                    }
                }
            } else {
                self.send(account, *dialect, authorization.as_ref(), body).await?
            };
            self.trace_status(reply.status());
            let secrets = Secrets::new(account, authorization.as_ref());
            secrets.remove_from(reply.headers_mut());
            account.quota.note(reply.headers(), self.turns.env.clock.now());
            if reply.status().is_success() {
                self.remember_readable(account, resolved, variant);
                let reply = self.accept(account, variant, &format, secrets, reply).await?;
                let omitted = omitted_header(account, &omitted);
                return Ok(Accepted { reply, reasoning, format, omitted, authorization });
            }
            let authorization = authorization.as_ref();
            let refused = Refused { reply, format: &format, has_reasoning, authorization };
            let change = Box::pin(self.change_for_retry(account, resolved, &mut form, refused)).await?;
            self.record_attempt(change);
        }
    }

    /// Whether the account's upstream can have the turn, without asking it.
    pub(super) async fn try_encode(
        &self,
        account: &Account,
        dialect: Dialect,
        resolved: &Resolved,
    ) -> Result<(), FailedAttempt> {
        let variant = self.initial_variant(account, dialect, resolved, false);
        let AccountInput { input, .. } = self.input_for(account, dialect, resolved, &variant)?;
        self.encode(dialect, input, self.body_changes(account, &variant, None)).await.map(drop)
    }

    /// Translating a long turn to another API is done on another thread.
    async fn encode(
        &self,
        dialect: Dialect,
        input: UpstreamInput,
        changes: Changes<'_>,
    ) -> Result<Encoded, FailedAttempt> {
        let Facts { id, started_at, create, .. } = &self.facts;
        let facts = TurnFacts { id: *id, started_at: *started_at, clock: &self.turns.env.clock };
        let size_bytes = || create.body().len() + input.history.iter().map(Bytes::len).sum::<usize>();
        if !dialect.translates(create.operation) || is_short(size_bytes()) {
            return dialect.encode(create, &input, changes, &facts).map_err(FailedAttempt::unsupported);
        }
        let (create, model, previous) =
            (create.clone(), changes.model.map(str::to_owned), changes.previous.map(str::to_owned));
        let (id, started_at, clock) = (*id, *started_at, Arc::clone(&self.turns.env.clock));
        let unnamed = changes.unnamed();
        let encode = move || {
            let changes = Changes { model: model.as_deref(), previous: previous.as_deref(), ..unnamed };
            let facts = TurnFacts { id, started_at, clock: &clock };
            dialect.encode(&create, &input, changes, &facts)
        };
        let encoded = Box::pin(offload(encode)).await.map_err(|_| Failure::Internal)?;
        encoded.map_err(FailedAttempt::unsupported)
    }

    /// Learns from an account that has refused encrypted items which of the client's own it reads.
    fn remember_readable(&self, account: &Account, resolved: &Resolved, variant: &RequestVariant<'_>) {
        let has_left_out =
            variant.encrypted_refusals > 0 || !variant.unreadable.is_empty() || !variant.doubtful.is_empty();
        if !has_left_out || variant.upstream_parent.is_some() {
            return;
        }
        let reading_of = |position| variant.reading_of(position);
        let (project, boundary) = (&self.facts.project, account.boundary());
        self.turns.sealed_items.remember(project, boundary, &resolved.own, reading_of);
    }

    /// Learns from a reply that is no error, and makes it a stream if it has to be one.
    async fn accept(
        &self,
        account: &Account,
        variant: &RequestVariant<'_>,
        format: &ReplyFormat,
        secrets: Secrets<'_>,
        reply: Response<ReplyBody>,
    ) -> Result<Response<ReplyBody>, FailedAttempt> {
        if variant.images_as_messages {
            account.remember_images_refused(&self.facts.create.model);
        }
        if variant.chat_form != variant.known_chat_form {
            account.remember_chat_form(&self.facts.create.model, variant.chat_form.lasting());
        }
        // Not before: the request may have been refused for what its client included.
        if variant.include_refused {
            account.remember_encrypted_reasoning_refused(&self.facts.create.model);
        }
        let encoding = reply.headers().get(header::CONTENT_ENCODING);
        if encoding.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
            return Err(
                Failure::UpstreamFailed("its reply is compressed, which nobody asked for".into()).into()
            );
        }
        match format.is_stream() && !is_event_stream(&reply) {
            true => Box::pin(self.as_stream(account, format, secrets, reply)).await,
            false => Ok(reply),
        }
    }

    /// The stream of an upstream that has replied with a whole answer. Some report errors with status 200.
    async fn as_stream(
        &self,
        account: &Account,
        format: &ReplyFormat,
        secrets: Secrets<'_>,
        reply: Response<ReplyBody>,
    ) -> Result<Response<ReplyBody>, FailedAttempt> {
        let (mut head, body) = reply.into_parts();
        let mut memory = Reservation::empty(self.memory.share());
        let body = self.read_body(account, body, &mut memory).await?;
        if let Some((code, message)) = format.error_in(&body) {
            return Err(FailedAttempt::from_error_event(code.to_owned(), secrets.redact_text(message)));
        }
        let stream = format.as_stream(&body);
        let stream =
            stream.ok_or_else(|| Failure::UpstreamFailed("its reply is not an event stream".into()))?;
        head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(EVENT_STREAM));
        Ok(Response::from_parts(head, ReplyBody::Whole(stream)))
    }

    fn uses_socket(&self, account: &Account) -> bool {
        self.facts.create.operation == Operation::Create
            && !self.runs_natively(account)
            && account.uses_sockets(self.turns.env.clock.now())
    }

    /// The socket on which the upstream remembers the parent.
    async fn socket_of_parent(&self, account: &Account, resolved: &Resolved) -> Option<Socket> {
        resolved.upstream_parent(account)?;
        self.turns
            .upstream
            .take_idle_socket(account, &self.facts.project, resolved.parent.as_deref()?.id)
            .await
    }

    pub(super) fn initial_variant<'a>(
        &self,
        account: &Account,
        dialect: Dialect,
        resolved: &'a Resolved,
        has_socket: bool,
    ) -> RequestVariant<'a> {
        // A response that may be continued needs its reasoning in a form that can be replayed.
        let wants_reasoning = self.may_be_continued() && !self.facts.create.includes_encrypted_reasoning();
        let upstream_parent = match self.facts.create.operation {
            Operation::Create if has_socket => resolved.upstream_parent(account),
            Operation::Create => resolved.native_parent(account),
            Operation::Compact | Operation::CountInput | Operation::ChatCompletion | Operation::Embed => None,
        };
        let sealed = &self.turns.sealed_items;
        let (unreadable, doubtful) = match dialect.reads_encrypted_items() {
            true => sealed.unreadable_at(&self.facts.project, account.boundary(), &resolved.own),
            false => Default::default(),
        };
        let chat_form = account.chat_form(&self.facts.create.model);
        RequestVariant {
            upstream_parent,
            send_encrypted: dialect.reads_encrypted_items() || !resolved.can_rebuild_context(),
            unreadable,
            doubtful,
            encrypted_refusals: 0,
            include_encrypted: wants_reasoning
                && !account.refuses_encrypted_reasoning(&self.facts.create.model),
            include_refused: false,
            images_as_messages: dialect == Dialect::Responses
                && account.refuses_images(&self.facts.create.model),
            chat_form,
            known_chat_form: chat_form,
            over_socket: self.uses_socket(account),
        }
    }

    fn body_changes<'a>(
        &self,
        account: &Account,
        variant: &RequestVariant<'a>,
        model: Option<&'a str>,
    ) -> Changes<'a> {
        Changes {
            store: (account.is_native() && self.facts.create.store) || self.runs_natively(account),
            background: self.runs_natively(account),
            previous: variant.upstream_parent,
            include_encrypted_reasoning: variant.include_encrypted,
            model,
            streams: account.settings.stream_only || self.facts.create.background,
            is_frame: variant.over_socket,
        }
    }

    /// The input for one account. An upstream that has the parent gets only the new items.
    fn input_for(
        &self,
        account: &Account,
        dialect: Dialect,
        resolved: &Resolved,
        variant: &RequestVariant<'_>,
    ) -> Result<AccountInput, FailedAttempt> {
        let replay_ids = account.settings.replay_ids;
        let max_bytes = self.turns.settings.max_history_bytes;
        let input = match variant.upstream_parent {
            Some(_) => resolved.own_input(replay_ids),
            None => resolved.input_for(account, dialect.summaries(), variant, max_bytes),
        };
        input.map_err(FailedAttempt::neutral)
    }

    async fn with_images_as_messages(&self, input: UpstreamInput) -> Result<UpstreamInput, FailedAttempt> {
        let parts = self.facts.create.upstream_items(&input);
        if !images::may_be_in(&parts) {
            return Ok(input);
        }
        let size_bytes = parts.iter().map(Bytes::len).sum();
        let convert = move || images::as_messages(&parts.concat());
        let items = offload_if_long(size_bytes, convert).await;
        let items = items.map_err(|_| FailedAttempt::neutral(Failure::Internal))?;
        Ok(UpstreamInput { history: Vec::new(), resolved: Some(vec![items.into()]) })
    }

    /// Waits while the account's token is being refreshed.
    async fn authorization(&self, account: &Account) -> Result<Option<HeaderValue>, FailedAttempt> {
        // Most credentials never expire: they need no timer.
        match &account.credential {
            Credential::None => Ok(None),
            Credential::Key(key) => Ok(Some(key.clone())),
            Credential::OAuth(_) => Box::pin(self.token(account)).await,
        }
    }

    async fn token(&self, account: &Account) -> Result<Option<HeaderValue>, FailedAttempt> {
        let authorization = self.cancellation.or_cancelled(self.turns.upstream.authorization(account));
        let verdict = match tokio::time::timeout_at(self.deadline.into(), authorization).await {
            Ok(Ok(Ok(authorization))) => return Ok(authorization),
            Ok(Err(_cancelled)) => return Err(FailedAttempt::client_gone()),
            Ok(Ok(Err(NoToken::Refused(_)))) => {
                let verdict = Verdict::CredentialInvalid;
                return Err(FailedAttempt { failure: Failure::CredentialsRefused, verdict });
            }
            Ok(Ok(Err(NoToken::Failed(_)))) | Err(_) => Verdict::Unreachable,
        };
        Err(FailedAttempt { failure: Failure::NoAccount, verdict })
    }

    async fn send(
        &self,
        account: &Account,
        dialect: Dialect,
        authorization: Option<&HeaderValue>,
        body: Vec<Bytes>,
    ) -> Result<Response<ReplyBody>, FailedAttempt> {
        let operation = self.facts.create.operation;
        let is_stream_only = operation == Operation::Create && account.settings.stream_only;
        let accept = if self.facts.door.streams() || is_stream_only { Accept::Events } else { Accept::Json };
        let (client_headers, connect_time) = (&self.headers, Some(&self.progress.connect_time));
        let post = Post { operation, dialect, authorization, client_headers, accept, body, connect_time };
        Err(match self.within_first_byte(self.turns.upstream.post(account, post)).await? {
            Ok(reply) => return Ok(reply),
            Err(SendError::ConnectTimeout) => {
                FailedAttempt::unreachable(Failure::UpstreamTimeout("connecting took too long"))
            }
            Err(SendError::Connect(reason)) => {
                tracing::warn!(account.id = %account.name, error = %reason, "cannot connect to the upstream");
                FailedAttempt::unreachable(Failure::UpstreamUnreachable(
                    "no connection could be established".into(),
                ))
            }
            Err(SendError::NoResources(reason)) => no_connections(account, &reason),
            Err(SendError::Broken(reason)) => {
                tracing::warn!(account.id = %account.name, error = %reason, "connection to the upstream lost");
                Failure::UpstreamFailed("it closed the connection before replying".into()).into()
            }
        })
    }

    /// Sends the turn over the socket that has the parent, or over a new one.
    async fn send_over_socket(
        &self,
        account: &Account,
        authorization: Option<&HeaderValue>,
        parent_socket: Option<Socket>,
        frame: Vec<Bytes>,
    ) -> Result<SendOutcome, FailedAttempt> {
        let is_reused = parent_socket.is_some();
        let socket = match parent_socket {
            Some(socket) => socket,
            None => {
                let began = Instant::now();
                let opening = self.turns.upstream.open_socket(account, authorization, &self.headers);
                match self.within_first_byte(opening).await? {
                    Ok(socket) => {
                        self.progress.connect_time.note(began.elapsed());
                        socket
                    }
                    Err(error) => return self.handle_open_error(account, error),
                }
            }
        };
        self.turns
            .upstream
            .metrics()
            .turn_on_socket(&account.name, if is_reused { "reused" } else { "opened" });
        let sending =
            self.turns.upstream.send_on_socket(account, &self.facts.project, self.facts.id, socket, frame);
        match self.within_first_byte(sending).await? {
            Ok(reply) => Ok(Ok(reply)),
            // It was closed while it was idle, which is not a failure of the account.
            Err(_) if is_reused => Ok(Err(SOCKET_STALE)),
            Err(error) => {
                tracing::warn!(account.id = %account.name, %error, "WebSocket to the upstream lost before the first event");
                self.fall_back_or_fail(
                    account,
                    "socket_lost",
                    "it closed the WebSocket before the first event",
                )
            }
        }
    }

    /// Falls back to HTTP, which shows a problem with the account or its credential as well.
    fn handle_open_error(&self, account: &Account, error: NotOpened) -> Result<SendOutcome, FailedAttempt> {
        tracing::warn!(account.id = %account.name, %error, "could not open a WebSocket to the upstream");
        let (reason, refusal) = match error {
            NotOpened::Refused(reply) => ("socket_refused", Some(reply)),
            NotOpened::Timeout => ("socket_timeout", None),
            NotOpened::NoResources(reason) => return Err(no_connections(account, &reason)),
            NotOpened::Failed(_) => ("socket_failed", None),
        };
        let account_statuses =
            [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::TOO_MANY_REQUESTS];
        let is_about_account =
            refusal.as_ref().is_some_and(|reply| account_statuses.contains(&reply.status()));
        let is_client_error = refusal.as_ref().is_some_and(|reply| reply.status().is_client_error());
        if reason == "socket_timeout" || (is_client_error && !is_about_account) {
            account.remember_sockets_refused(self.turns.env.clock.now());
        }
        match refusal.filter(|_| is_about_account) {
            Some(reply) if account.settings.transport == UpstreamTransport::WebSocket => {
                Ok(Ok(reply.map(ReplyBody::Whole)))
            }
            _ => self.fall_back_or_fail(account, reason, "it did not accept a WebSocket"),
        }
    }

    fn fall_back_or_fail(
        &self,
        account: &Account,
        reason: &'static str,
        message: &'static str,
    ) -> Result<SendOutcome, FailedAttempt> {
        match account.settings.transport {
            UpstreamTransport::Auto => Ok(Err(reason)),
            UpstreamTransport::WebSocket | UpstreamTransport::Http => {
                Err(Failure::UpstreamFailed(message.into()).into())
            }
        }
    }

    /// Waits for the first sign of the upstream, within its time limit and unless the turn is cancelled.
    pub(super) async fn within_first_byte<T>(
        &self,
        future: impl Future<Output = T>,
    ) -> Result<T, FailedAttempt> {
        let limit = self.deadline.min(Instant::now() + self.turns.settings.first_byte_timeout);
        match tokio::time::timeout_at(limit.into(), self.cancellation.or_cancelled(future)).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(_cancelled)) => Err(FailedAttempt::client_gone()),
            Err(_elapsed) => Err(Failure::UpstreamTimeout("no reply in time").into()),
        }
    }
}

fn no_connections(account: &Account, reason: &str) -> FailedAttempt {
    tracing::error!(account.id = %account.name, error = %reason, "no more connections can be opened");
    FailedAttempt::neutral(Failure::NoConnections)
}

pub(super) fn is_event_stream(reply: &Response<ReplyBody>) -> bool {
    let content_type = reply.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    content_type.is_some_and(|kind| kind.starts_with(EVENT_STREAM))
}

/// Logs what was left out of a request, and names it for the client.
fn omitted_header(account: &Account, omitted: &[String]) -> Option<HeaderValue> {
    if omitted.is_empty() {
        return None;
    }
    let omitted = omitted.join(",");
    tracing::warn!(account.id = %account.name, omitted, "the upstream cannot have all of the request");
    HeaderValue::try_from(omitted).ok()
}
