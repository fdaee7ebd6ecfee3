//! Runs background turns: in the order of their creation, so many at once, each from what the store has of it.

use std::collections::HashSet;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use antiphon_access::keys::Caller;
use antiphon_protocol::json::{Object, string_member};
use antiphon_protocol::request::{CreateRequest, Operation};
use antiphon_runtime::GaugeGuard;
use antiphon_runtime::offload::offload_if_long;
use antiphon_store::{
    BackgroundRequest, BackgroundStatus, BackgroundTurn, Claimable, Maker, StoreError, Timestamp, TurnLease,
    UpstreamTurn,
};
use bytes::Bytes;
use serde_json::json;

use super::BackgroundTurns;
use super::create::decode_headers;
use super::log::{frames, is_content};
use super::run::{Run, RunGuard};
use super::waiting::{NeededAccount, Needs};
use crate::body_memory::Reservation;
use crate::turn::detach::Cancellation;
use crate::turn::resolve::Resolved;
use crate::turn::stream::{ActiveStream, EventStream, OpeningStream};
use crate::turn::{Admission, Door, Failure, Incoming, Turn, Turns};

/// How many turns are claimed at once.
const MAX_CLAIMED: u32 = 100;
/// How many turns of this process are read at once.
const MAX_LISTED: u32 = 1_000;

/// Turns that this process has only according to the store, or only according to itself.
#[derive(Default)]
pub struct Unmatched {
    /// They do not run here.
    missing: HashSet<TurnLease>,
    /// They run here, but have ended in the store or belong to another process.
    lost: HashSet<TurnLease>,
}

/// What is to be done with a turn.
enum Plan {
    Run,
    /// The upstream of this account runs it, under this id.
    Attach(String, String),
    /// It ends without a result.
    End(Failure),
}

impl Turns {
    pub async fn renew_leases(&self) -> Result<(), StoreError> {
        let BackgroundTurns { owner, settings, .. } = &self.background;
        self.chains.store().renew_leases(*owner, self.env.clock.now().plus(settings.lease)).await
    }

    /// Releases the turns of this process that it does not run, since the store failed when it claimed or released them. Stops
    /// those that it runs without a lease: others have taken them over while it could not renew it. Both only if it was so the last
    /// time, too: another may be about to begin or to end.
    pub async fn match_leases(&self, unmatched: &mut Unmatched) -> Result<(), StoreError> {
        let store = self.chains.store();
        let before = std::mem::take(unmatched);
        unmatched.lost = self.background.running_leases();
        let mut after = None;
        loop {
            let owned = store.list_owned(self.background.owner, after, MAX_LISTED).await?;
            after = owned.last().map(|lease| lease.id);
            let is_last = owned.len() < MAX_LISTED as usize;
            let runs_here =
                |lease: &TurnLease| self.background.find(lease.id).is_some_and(|run| run.lease == *lease);
            for lease in owned {
                unmatched.lost.remove(&lease);
                if !runs_here(&lease) {
                    unmatched.missing.insert(lease);
                }
            }
            if is_last {
                break;
            }
        }
        for lease in unmatched.lost.intersection(&before.lost) {
            if let Some(run) = self.background.find_running(lease.id).filter(|run| run.lease == *lease) {
                tracing::warn!(response.id = %lease.id, "background turn was ended or taken over elsewhere; it stops here");
                run.leave();
            }
        }
        for lease in unmatched.missing.intersection(&before.missing) {
            tracing::warn!(response.id = %lease.id, "background turn does not run here any more; it is left to the next owner");
            store.release_lease(lease).await?;
        }
        Ok(())
    }

    /// Claims turns that nobody runs, and runs them. A turn that can't be claimed keeps no other waiting.
    pub async fn take_over(self: &Arc<Self>) -> Result<(), StoreError> {
        let store = self.chains.store();
        // Without other processes over the store, an owner that is not this process is dead.
        let which = if store.is_shared() { Claimable::Expired } else { Claimable::NotOwn };
        let owner = self.background.owner;
        let mut result = Ok(());
        loop {
            let listed = store.list_claimable(owner, which, self.env.clock.now(), MAX_CLAIMED).await?;
            let mut is_any_claimed = false;
            for from in &listed {
                // Its lease may have expired while the store was unavailable, but it still runs.
                if self.background.find_running(from.id).is_some_and(|run| run.lease == *from) {
                    continue;
                }
                match self.claim(from, which).await {
                    Ok(is_claimed) => is_any_claimed |= is_claimed,
                    Err(error) => {
                        tracing::warn!(response.id = %from.id, %error, "background turn cannot be taken over now; retrying");
                        result = Err(error);
                    }
                }
            }
            // After an outage of the store, leases of owners that live may be among the next ones.
            if result.is_err() || listed.len() < MAX_CLAIMED as usize || !is_any_claimed {
                return result;
            }
        }
    }

    /// Takes a turn from its owner and runs or ends it. `false` if it is not claimable any more.
    pub(super) async fn claim(
        self: &Arc<Self>,
        from: &TurnLease,
        which: Claimable,
    ) -> Result<bool, StoreError> {
        let (store, background, now) = (self.chains.store(), &self.background, self.env.clock.now());
        let term = (now, now.plus(background.settings.lease));
        let Some(lease) = store.claim_background(from, background.owner, which, term).await? else {
            return Ok(false);
        };
        let Some(row) = store.load_background(&lease.project, lease.id).await? else { return Ok(false) };
        let run = Arc::new(Run::taken_over(&row, self.has_content(&row).await?));
        background.insert(&run);
        background.metrics.taken_over.inc();
        tracing::info!(response.id = %lease.id, previous.owner = %from.owner, "background turn taken over");
        self.spawn_run(RunGuard { turns: Arc::clone(self), run });
        Ok(true)
    }

    /// Whether the log has more than the start of the response. A damaged one may have.
    async fn has_content(&self, row: &BackgroundTurn) -> Result<bool, StoreError> {
        let TurnLease { project, id, .. } = &row.lease;
        let mut after = None;
        loop {
            let chunks = match self.chains.store().list_events(project, *id, after).await {
                Err(StoreError::Corrupt(_)) => return Ok(true),
                listed => listed?,
            };
            let Some(last) = chunks.last() else { return Ok(false) };
            after = Some(last.last);
            if chunks.iter().any(|chunk| frames(&chunk.bytes).any(|frame| is_content(&frame))) {
                return Ok(true);
            }
        }
    }

    pub(super) fn spawn_run(self: &Arc<Self>, guard: RunGuard) {
        let turns = Arc::clone(self);
        self.env.tasks.spawn(async move {
            let run = Arc::clone(&guard.run);
            if let Err(error) = turns.drive(&run).await {
                tracing::warn!(response.id = %run.lease.id, %error, "background turn cannot run now; it is left to the next owner");
            }
            drop(guard);
        });
    }

    /// Runs a turn to its end, or leaves it. Fails if the store does not yield it.
    async fn drive(self: &Arc<Self>, run: &Arc<Run>) -> Result<(), StoreError> {
        let store = self.chains.store();
        let TurnLease { project, id, .. } = &run.lease;
        let Some(row) = store.load_background(project, *id).await? else { return Ok(()) };
        let plan = self.plan(run, &row);
        let needs = Needs {
            room: !matches!(plan, Plan::End(_)),
            account: matches!(plan, Plan::Run).then(|| NeededAccount::of(&row)),
            size_bytes: usize::try_from(row.size_bytes).unwrap_or(usize::MAX),
        };
        // While it waits it is in the store only.
        drop(row);
        let Some((_permit, memory)) = self.wait_in_queue(run, &needs).await else { return Ok(()) };
        let _running = GaugeGuard::new(&self.background.metrics.running);
        let Some(row) = store.load_background(project, *id).await? else { return Ok(()) };
        let now = self.env.clock.now();
        let mut plan = self.plan(run, &row);
        let Some((create, headers)) = self.stored_request(run, &row, now, &mut plan).await? else {
            return Ok(());
        };
        if let Some(response) = row.response().ok().filter(|response| Object::scan(response).is_ok()) {
            run.queued_response.get_or_init(|| response.clone());
        }
        if let Some(UpstreamTurn { account: name, id }) = &row.upstream {
            let account = self.pool.accounts().into_iter().find(|known| known.name == *name);
            // An account that is not configured any more: its boundary was its name, unless another one was configured.
            let unknown = || Maker { account: name.clone(), boundary: name.clone() };
            run.begun_by.get_or_init(|| account.as_ref().map_or_else(unknown, |account| account.maker()));
            if let (Some(account), Some(id)) = (account, id) {
                run.set_upstream(account, id);
            }
        }
        let cancellation = Cancellation::default();
        // Only now: one that is dropped before it was left counts as lost.
        let turn = self.revive(run, &row, create, &headers, memory);
        let mut work = pin!(turn.run_in_background(plan, cancellation.clone()));
        tokio::select! {
            () = &mut work => return Ok(()),
            () = run.stop.cancelled() => {}
            () = run.left() => {}
        }
        cancellation.cancel();
        work.await;
        Ok(())
    }

    /// The request and its headers. A turn whose request or response is damaged is planned to end, with what is known of it.
    async fn stored_request(
        &self,
        run: &Run,
        row: &BackgroundTurn,
        now: Timestamp,
        plan: &mut Plan,
    ) -> Result<Option<(CreateRequest, String)>, StoreError> {
        let TurnLease { project, id, .. } = &row.lease;
        let loaded = match self.chains.store().load_background_request(project, *id, now).await {
            Err(StoreError::Corrupt(damage)) => Err(damage),
            loaded => match loaded? {
                Some(BackgroundRequest { body, headers, input }) => {
                    input.into_iter().for_each(|input| drop(run.queued_input.set(input)));
                    parse(body).await.map(|create| (create, headers))
                }
                None => return Ok(None),
            },
        };
        let intact = loaded.and_then(|request| match row.response() {
            Ok(_) => Ok(request),
            Err(damage) => Err(damage.to_string()),
        });
        Ok(match intact {
            Ok(request) => Some(request),
            Err(error) => {
                tracing::error!(response.id = %id, error, "a background turn is damaged in the store; it fails");
                *plan = Plan::End(Failure::StoreDamaged);
                let create = CreateRequest::parse(Operation::Create, request_without_input(row)).ok();
                create.map(|create| (create, String::new()))
            }
        })
    }

    fn plan(&self, run: &Run, row: &BackgroundTurn) -> Plan {
        if row.is_cancel_requested || run.stop.is_cancelled() {
            return Plan::End(Failure::ClientGone);
        }
        if self.env.clock.now() >= row.deadline {
            return Plan::End(Failure::turn_too_long());
        }
        let has_begun = row.status == BackgroundStatus::InProgress;
        if let Some(UpstreamTurn { account, id: Some(id) }) = row.upstream.clone().filter(|_| has_begun) {
            return Plan::Attach(account, id);
        }
        let may_run = row.attempts <= self.background.settings.retries && !run.unwritten().has_content();
        if has_begun && !may_run { Plan::End(Failure::Stopped) } else { Plan::Run }
    }

    /// The turn, from what the store has of it.
    fn revive(
        self: &Arc<Self>,
        run: &Arc<Run>,
        row: &BackgroundTurn,
        create: CreateRequest,
        headers: &str,
        memory: Reservation,
    ) -> Turn {
        let key = row.key.as_deref().and_then(|key| self.background.settings.keys.find(key.parse().ok()?));
        let incoming = Incoming {
            create,
            headers: decode_headers(headers),
            caller: Caller::of_turn(run.lease.project.clone(), key),
            door: Door::Background(Arc::clone(run)),
            memory,
        };
        let now = self.env.clock.now();
        let admission = Admission {
            id: run.lease.id,
            started_at: row.created_at,
            started: Instant::now().checked_sub(now.since(row.created_at)).unwrap_or_else(Instant::now),
            deadline: Instant::now() + row.deadline.since(now),
        };
        self.admit_as(incoming, admission, Cancellation::default())
    }
}

/// Parses a stored request: one that is long, on another thread.
async fn parse(body: Bytes) -> Result<CreateRequest, String> {
    let size_bytes = body.len();
    let parse = move || CreateRequest::parse(Operation::Create, body).map_err(|error| error.message);
    offload_if_long(size_bytes, parse).await.unwrap_or_else(|_| Err("parsing it failed".to_owned()))
}

/// What is known of a request that is damaged.
fn request_without_input(row: &BackgroundTurn) -> Bytes {
    let response = row.response().map_or(&[][..], |response| response);
    let model = string_member(response, "model").unwrap_or_default();
    let request = json!({
        "model": model, "input": [], "background": true, "stream": row.is_streamed, "store": row.is_stored
    });
    request.to_string().into()
}

impl Turn {
    async fn run_in_background(mut self, plan: Plan, cancellation: Cancellation) {
        let (resolved, plan) = match (self.resolve().await, plan) {
            (Ok(resolved), plan) => (resolved, plan),
            (Err(Failure::StoreUnavailable | Failure::Overloaded(_)), _) => return self.leave(),
            // Something that it refers to is lost: it is stored without that.
            (Err(failure), plan) => match self.resolve_alone().await {
                Ok(resolved) if !matches!(plan, Plan::End(_)) => (resolved, Plan::End(failure)),
                Ok(resolved) => (resolved, plan),
                Err(_) => return self.leave(),
            },
        };
        // Only now: a cancelled turn is stored with its parent, too.
        self.cancellation = cancellation.clone();
        self.adopt_reservation(&resolved);
        match plan {
            Plan::End(failure) => self.end_taken_over(&failure, &resolved).await,
            Plan::Attach(account, id) => self.attach((account, id), resolved, cancellation).await,
            Plan::Run if self.is_logged() => self.run_streamed(resolved, cancellation).await,
            Plan::Run => {
                if let Err(failure) = self.collect_resolved(&resolved).await {
                    self.end_without_reply(failure, &resolved).await;
                }
                self.settle();
            }
        }
    }

    /// Counts the attempt to run the turn, before anything of it is sent upstream. A turn that waits for an account is still queued:
    /// however often its gateway stops meanwhile, it runs.
    pub(in crate::turn) async fn begin_in_background(&self, run: &Run) -> Result<(), Failure> {
        // The account may be free because the shutdown has ended another turn.
        if self.turns.env.tasks.stopping().is_given() {
            return Err(Failure::Stopped);
        }
        match self.turns.chains.store().begin_background(&run.lease).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Failure::Stopped),
            Err(error) => {
                tracing::warn!(response.id = %run.lease.id, %error, "background turn cannot begin now; it is left to the next owner");
                Err(Failure::Stopped)
            }
        }
    }

    fn is_logged(&self) -> bool {
        self.facts.door.run().is_some_and(|run| run.is_streamed)
    }

    async fn run_streamed(mut self, resolved: Resolved, cancellation: Cancellation) {
        let turns = Arc::clone(&self.turns);
        let Some(run) = self.facts.door.run().cloned() else { return };
        match self.attempt::<OpeningStream>(&resolved).await {
            Ok((reply, opening)) => {
                let mut events = ActiveStream::new(self, resolved, reply, opening).into_events();
                turns.log_events(&mut events, &run, &cancellation).await;
            }
            Err(failure) => {
                self.end_without_reply(failure, &resolved).await;
                self.settle();
            }
        }
    }
}

impl Turns {
    /// Reads a turn's events into its log.
    pub(super) async fn log_events(&self, events: &mut EventStream, run: &Run, cancellation: &Cancellation) {
        let patience: Duration = self.background.settings.lease;
        loop {
            let due_at = run.unwritten().due_at();
            let next = poll_fn(|cx| events.poll_chunk(cx));
            let chunk = match due_at {
                None => Some(next.await),
                Some(due_at) => tokio::time::timeout_at(due_at.into(), next).await.ok(),
            };
            match &chunk {
                Some(Some(bytes)) => run.log(bytes),
                Some(None) => return,
                None => {}
            }
            let is_due = chunk.is_none() || run.unwritten().is_full();
            if is_due && !run.is_left() && run.flush(&**self.chains.store(), patience).await.is_err() {
                self.background.metrics.log_failures.inc();
                run.leave();
                cancellation.cancel();
            }
        }
    }
}
