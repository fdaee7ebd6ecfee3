//! Turns that an upstream itself runs in the background. It goes on with them when the connection breaks or the gateway dies, and
//! their events are read on from where they stopped: nothing is paid twice.

use std::sync::Arc;
use std::time::{Duration, Instant};

use antiphon_protocol::event::write_sse;
use antiphon_protocol::json::{string_member, validate};
use antiphon_store::UpstreamTurn;
use antiphon_upstream::account::Account;
use antiphon_upstream::dialect::ReplyFormat;
use antiphon_upstream::transport::{About, ReplyBody};
use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};

use super::run::Run;
use crate::turn::attempt::Reply;
use crate::turn::detach::Cancellation;
use crate::turn::reading::Silence;
use crate::turn::resolve::{Reasoning, Resolved};
use crate::turn::stream::{ActiveStream, OpeningStream};
use crate::turn::{Failure, Turn};

/// How often reading on is tried without any new event.
const MAX_TRIES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// How often a response is polled whose events cannot be read.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
const CANCEL_TIMEOUT: Duration = Duration::from_secs(10);

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

    /// Notes where the upstream runs the turn, before anything more of it is read.
    pub(in crate::turn) async fn note_upstream_turn(&self, account: &Arc<Account>, id: Option<&str>) {
        let (Some(run), Some(id)) = (self.facts.door.run(), id) else { return };
        if !account.runs_background() || run.upstream().is_some() {
            return;
        }
        run.set_upstream(Arc::clone(account), id);
        let upstream = UpstreamTurn { account: account.name.clone(), id: id.to_owned() };
        if let Err(error) = self.turns.chains.store().set_upstream_turn(&run.lease, upstream).await {
            tracing::warn!(response.id = %self.facts.id, %error, "the upstream's id of a background turn could not be stored");
        }
    }

    /// The rest of the turn's events after this number, from the upstream that runs it. `None` if it does not, or has lost the turn.
    pub(in crate::turn) async fn reattach(&self, after: Option<u64>) -> Option<ReplyBody> {
        let run = self.facts.door.run()?;
        let (account, id) = run.upstream()?;
        let mut pause = FIRST_PAUSE;
        while run.may_reattach(after, MAX_TRIES) {
            tokio::time::sleep(pause).await;
            pause *= 2;
            tracing::info!(response.id = %self.facts.id, account.id = %account.name, "reading a background turn on at its upstream");
            match self.rest(&account, &id, after).await? {
                Rest::Body(body) => return Some(body),
                Rest::NotStreamed => return self.poll_upstream(&account, &id, after).await,
                Rest::Later => {}
            }
        }
        None
    }

    async fn rest(&self, account: &Account, id: &str, after: Option<u64>) -> Option<Rest> {
        let Some(reply) = self.ask(account, id, About::Events { after }).await? else {
            return Some(Rest::Later);
        };
        match reply.status() {
            StatusCode::OK => Some(Rest::Body(reply.into_body())),
            StatusCode::BAD_REQUEST => Some(Rest::NotStreamed),
            StatusCode::NOT_FOUND => None,
            _ => Some(Rest::Later),
        }
    }

    /// The outer `None` says that there is no such address, the inner one that there was no reply.
    async fn ask(&self, account: &Account, id: &str, about: About) -> Option<Option<Response<ReplyBody>>> {
        let upstream = &self.turns.upstream;
        let Ok(authorization) = upstream.authorization(account).await else { return Some(None) };
        match upstream.ask_about(account, authorization.as_ref(), id, about).await {
            Ok(Some(reply)) => Some(Some(reply)),
            Ok(None) => None,
            Err(_) => Some(None),
        }
    }

    /// Waits for the end of a turn whose events cannot be read. Yields its last event.
    async fn poll_upstream(&self, account: &Account, id: &str, after: Option<u64>) -> Option<ReplyBody> {
        while Instant::now() < self.deadline {
            if let Some(reply) = self.ask(account, id, About::Response).await? {
                if reply.status() == StatusCode::NOT_FOUND {
                    return None;
                }
                let body = reply.into_body().collect(self.turns.settings.max_reply_bytes).await.ok();
                if let Some(event) = body.and_then(|response| terminal_event(&response, after)) {
                    return Some(ReplyBody::Whole(event));
                }
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        None
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
        upstream: UpstreamTurn,
        resolved: Resolved,
        cancellation: Cancellation,
    ) {
        let turns = Arc::clone(&self.turns);
        let Some(run) = self.facts.door.run().cloned() else { return };
        let Some(lease) = turns.pool.lease_of(&upstream.account) else {
            return self.end_taken_over(&Failure::Stopped, &resolved).await;
        };
        run.set_upstream(Arc::clone(lease.account()), &upstream.id);
        self.progress.account = Some(Arc::clone(lease.account()));
        let after = run.unwritten().last().filter(|_| run.is_streamed);
        let body = match self.cancellation.or_cancelled(self.reattach(after)).await {
            Ok(Some(body)) => body,
            Ok(None) => return self.end_taken_over(&Failure::Stopped, &resolved).await,
            Err(_cancelled) => return self.end_taken_over(&Failure::ClientGone, &resolved).await,
        };
        let mut reply = Reply {
            lease,
            headers: HeaderMap::new(),
            content_type: Some("text/event-stream".to_owned()),
            body: Some(body),
            reasoning: Reasoning::Full,
            format: ReplyFormat::Responses,
        };
        if !run.is_streamed {
            if let Err(failure) = self.collect_rest(&resolved, reply).await {
                self.end_without_reply(failure, &resolved).await;
            }
            return self.settle();
        }
        let Ok(relay) = self.relay_log(&resolved).await else { return self.leave() };
        let silence = Silence::begin(turns.settings.first_byte_timeout);
        let opening = OpeningStream::continued(reply.events(turns.settings.max_reply_bytes), relay, silence);
        let mut events = ActiveStream::new(self, resolved, reply, opening).into_events();
        turns.log_events(&mut events, &run, &cancellation).await;
    }
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
    }
}
