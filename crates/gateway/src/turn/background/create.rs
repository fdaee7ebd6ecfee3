//! Creating a background turn: everything that can be refused is refused first, then the turn is queued in the store.

use std::sync::Arc;

use antiphon_protocol::event::write_sse;
use antiphon_protocol::include::HiddenParts;
use antiphon_protocol::json::{Malformed, Set, set_members};
use antiphon_protocol::request::CreateRequest;
use antiphon_store::{BackgroundRequest, EventChunk, NewBackgroundTurn, TurnLease};
use antiphon_upstream::pool::Shortage;
use antiphon_upstream::transport::headers::{for_upstream, remove_named_by_connection};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::reader::EventLog;
use super::run::{Run, RunGuard};
use crate::turn::attempt::SESSION_HEADERS;
use crate::turn::conversation::Joined;
use crate::turn::detach::Cancellation;
use crate::turn::resolve::Resolved;
use crate::turn::{DetachOnDrop, Failure, Incoming, Turn, TurnError, Turns};

/// A background turn that has been queued.
pub struct Queued {
    pub headers: HeaderMap,
    /// The response as it is now.
    pub response: Bytes,
    /// The turn's events, if the client asked for a stream.
    pub events: Option<EventLog>,
}

impl Turns {
    /// Queues a turn, which then runs without its client.
    pub fn queue(self: &Arc<Self>, incoming: Incoming) -> DetachOnDrop<Result<Queued, TurnError>> {
        let detach = self.detach_policy(&incoming);
        DetachOnDrop::new(Arc::clone(self).create_background(incoming, detach.cancellation.clone()), detach)
    }

    async fn create_background(
        self: Arc<Self>,
        incoming: Incoming,
        cancellation: Cancellation,
    ) -> Result<Queued, TurnError> {
        let admission = self.admission(self.background.settings.max_duration);
        let mut turn = self.admit_as(incoming, admission, cancellation);
        match turn.queue().await {
            Ok(queued) => {
                turn.leave();
                Ok(queued)
            }
            Err(failure) => {
                turn.progress.fail(&failure);
                turn.settle();
                Err(turn.turn_error(failure))
            }
        }
    }
}

impl Turn {
    async fn queue(&mut self) -> Result<Queued, Failure> {
        let resolved = self.resolve().await?;
        self.check_accounts(&resolved).await?;
        self.check_dialects(&resolved).await?;
        self.reserve(&resolved).await?;
        let response = Bytes::from(self.queued_response(&resolved).map_err(|_| Failure::Internal)?);
        let turns = Arc::clone(&self.turns);
        let background = &turns.background;
        let (project, id) = (self.facts.project.clone(), self.facts.id);
        let lease = TurnLease { project, id, owner: background.owner, epoch: 1 };
        let hidden = self.hidden_parts();
        let event = self.facts.create.stream.then(|| created_event(&response));
        let new = NewBackgroundTurn {
            lease: lease.clone(),
            lease_until: turns.env.clock.now().plus(background.settings.lease),
            is_streamed: event.is_some(),
            hides_reasoning: event.is_some() && hidden != HiddenParts::NOTHING,
            is_stored: self.facts.create.store,
            key: self.facts.key.as_ref().map(|key| key.id.to_string()),
            created_at: self.facts.started_at,
            deadline: self.facts.started_at.plus(background.settings.max_duration),
            request: self.background_request(&resolved),
            response: response.clone(),
            event: event.clone(),
            lock: resolved.joined.as_ref().and_then(Joined::lock).cloned(),
        };
        let run = Arc::new(Run::queued(&new));
        let guard = RunGuard { turns: Arc::clone(&turns), run: Arc::clone(&run) };
        background.insert(&run);
        match turns.chains.store().queue_background(new, background.settings.queue).await {
            Ok(true) => resolved.joined.iter().for_each(Joined::end),
            Ok(false) => {
                run.end(None);
                return Err(Failure::QueueFull);
            }
            Err(error) => {
                // It may have been queued nevertheless.
                run.stop.cancel();
                return Err(error.into());
            }
        }
        turns.spawn_run(guard);
        let events = run.is_streamed.then(|| EventLog::new(Arc::clone(&turns), &run.lease, hidden, None));
        let mut headers = HeaderMap::new();
        self.apply_rate_limit_headers(&mut headers);
        Ok(Queued { headers, response, events })
    }

    /// Whether there is an account for the turn. One that is busy or cooling down will be back.
    async fn check_accounts(&self, resolved: &Resolved) -> Result<(), Failure> {
        let pool = &self.turns.pool;
        let wanted = self.wanted(resolved, None, &[]);
        let mut shortage = pool.shortage(wanted);
        if shortage == Some(Shortage::NotOffered) {
            pool.refresh_catalogs(&self.turns.upstream, self.turns.env.clock.now()).await;
            shortage = pool.shortage(wanted);
        }
        match shortage {
            None | Some(Shortage::Busy | Shortage::Cooling { .. }) => Ok(()),
            Some(shortage) => Err(self.no_account_failure(shortage)),
        }
    }

    /// Refuses what no account that may have the model can express. An upstream with the Responses API may accept anything.
    async fn check_dialects(&self, resolved: &Resolved) -> Result<(), Failure> {
        let CreateRequest { operation, model, .. } = &self.facts.create;
        let accounts = self.turns.pool.accounts();
        let mut refused = Ok(());
        for account in accounts.iter().filter(|account| account.may_serve(model)) {
            let dialect = account.api.dialect();
            if !account.api.is_known() || !dialect.translates(*operation) {
                return Ok(());
            }
            match self.try_encode(account, dialect, resolved).await {
                Ok(()) => return Ok(()),
                Err(failed) => refused = refused.and(Err(failed.failure)),
            }
        }
        refused
    }

    fn queued_response(&self, resolved: &Resolved) -> Result<Vec<u8>, Malformed> {
        let started = self.started_response(resolved)?;
        let set = [Set { name: "status", value: b"\"queued\"", add: true }];
        let mut out = Vec::with_capacity(started.len());
        set_members(&started, &set, &mut out)?;
        Ok(out)
    }

    fn background_request(&self, resolved: &Resolved) -> BackgroundRequest {
        BackgroundRequest {
            body: self.facts.create.body().clone(),
            headers: encode_headers(&self.headers),
            input: resolved.own.has_replaced_items().then(|| resolved.own.array()),
        }
    }
}

fn created_event(response: &[u8]) -> EventChunk {
    let mut data = br#"{"type":"response.created","sequence_number":0,"response":"#.to_vec();
    data.extend_from_slice(response);
    data.push(b'}');
    let mut bytes = Vec::with_capacity(data.len() + 64);
    write_sse(&mut bytes, b"response.created", &data);
    EventChunk { first: 0, last: 0, bytes: bytes.into() }
}

/// The headers that an upstream gets or an account is chosen by, as a JSON array of pairs.
fn encode_headers(client: &HeaderMap) -> String {
    let mut headers = for_upstream(client);
    for name in SESSION_HEADERS {
        if let Some(value) = client.get(name) {
            headers.insert(HeaderName::from_static(name), value.clone());
        }
    }
    remove_named_by_connection(&mut headers, client);
    let pairs: Vec<(&str, &str)> =
        headers.iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?))).collect();
    serde_json::to_string(&pairs).unwrap_or_default()
}

pub(super) fn decode_headers(pairs: &str) -> HeaderMap {
    let pairs: Vec<(String, String)> = serde_json::from_str(pairs).unwrap_or_default();
    let parse = |(name, value): (String, String)| {
        Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?))
    };
    pairs.into_iter().filter_map(parse).collect()
}
