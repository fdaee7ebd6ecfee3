//! A background turn that this process owns, from its creation or its takeover to its end.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use antiphon_store::{
    BackgroundTurn, EventChunk, Maker, NewBackgroundTurn, Store, StoreError, Timestamp, TurnLease,
};
use antiphon_upstream::account::Account;
use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::live::LiveEvents;
use super::log::UnwrittenEvents;
use crate::turn::Turns;
use crate::turn::record::Finished;
use crate::turn::relay::Relay;

/// How long to wait before a write is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// How much of a log stays in memory for readers that follow it.
const LIVE_BYTES: usize = 256 * 1024;

/// A background turn that this process owns.
#[derive(Debug)]
pub struct Run {
    pub lease: TurnLease,
    pub is_streamed: bool,
    /// Whether the log has encrypted reasoning that its readers do not get.
    pub hides_reasoning: bool,
    pub deadline: Timestamp,
    /// The response as it was queued, once the turn is begun.
    pub queued_response: OnceLock<Bytes>,
    /// The input items as they were when it was queued, if references among them were replaced.
    pub queued_input: OnceLock<Bytes>,
    /// The account whose items the log has, if an earlier owner has begun the turn.
    pub begun_by: OnceLock<Maker>,
    pub live: Arc<LiveEvents>,
    /// Cancelled when the turn is to end without a result.
    pub stop: CancellationToken,
    unwritten: Mutex<UnwrittenEvents>,
    /// Where the upstream itself runs the turn, with its own id.
    upstream: Mutex<Option<(Arc<Account>, String)>>,
    /// After which event the upstream's stream was read on last, and how often.
    streams: Mutex<(Option<u64>, u32)>,
    /// Events of a reply that is not streamed.
    received_events: AtomicU64,
    /// Of the latest of these replies that broke off with finished items.
    unfinished: Mutex<Option<Box<Unfinished>>>,
}

/// What is left of a reply that was to be collected.
pub struct Unfinished {
    pub relay: Relay,
    /// The response that failed, unless the reply was cut off.
    pub finished: Option<Finished>,
    pub account: Arc<Account>,
}

/// The turn is no longer this process's to write.
#[derive(Debug, Clone, Copy)]
pub struct LeaseLost;

/// Takes the run off the list of runs on drop. A turn that has not ended is left to whoever claims it.
pub struct RunGuard {
    pub turns: Arc<Turns>,
    pub run: Arc<Run>,
}

// === impl Run ===

impl Run {
    /// A turn that is about to be queued. Its first event, if there is one, is written along with it.
    pub fn queued(turn: &NewBackgroundTurn) -> Self {
        let unwritten = UnwrittenEvents::after(turn.event.as_ref().map(|event| event.last), false);
        Self::new(turn.lease.clone(), (turn.is_streamed, turn.hides_reasoning), turn.deadline, unwritten)
    }

    /// A turn that was taken over.
    pub fn taken_over(row: &BackgroundTurn, has_content: bool) -> Self {
        let unwritten = UnwrittenEvents::after(row.last_sequence, has_content);
        Self::new(row.lease.clone(), (row.is_streamed, row.hides_reasoning), row.deadline, unwritten)
    }

    fn new(
        lease: TurnLease,
        (is_streamed, hides_reasoning): (bool, bool),
        deadline: Timestamp,
        unwritten: UnwrittenEvents,
    ) -> Self {
        Self {
            lease,
            is_streamed,
            hides_reasoning,
            deadline,
            queued_response: OnceLock::new(),
            queued_input: OnceLock::new(),
            begun_by: OnceLock::new(),
            live: Arc::new(LiveEvents::new(LIVE_BYTES)),
            stop: CancellationToken::new(),
            unwritten: Mutex::new(unwritten),
            upstream: Mutex::default(),
            streams: Mutex::default(),
            received_events: AtomicU64::new(0),
            unfinished: Mutex::default(),
        }
    }

    pub fn unwritten(&self) -> MutexGuard<'_, UnwrittenEvents> {
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds events to the log, which is written soon. Does nothing for a turn without a log.
    pub fn log(&self, events: &Bytes) {
        if self.is_streamed && !self.has_ended() {
            self.unwritten().push(events);
        }
    }

    pub(super) fn lock_upstream(&self) -> MutexGuard<'_, Option<(Arc<Account>, String)>> {
        self.upstream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether to read another stream of the events after this one.
    pub fn may_read_stream(&self, after: Option<u64>, max_empty: u32) -> bool {
        let (last_after, streams) = *self.lock_streams();
        last_after != after || streams < max_empty
    }

    /// Notes that a stream of the events after this one has begun.
    pub fn note_stream(&self, after: Option<u64>) {
        let mut streams = self.lock_streams();
        *streams = if streams.0 == after { (after, streams.1 + 1) } else { (after, 1) };
    }

    fn lock_streams(&self) -> MutexGuard<'_, (Option<u64>, u32)> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn note_received(&self, events: u64) {
        self.received_events.store(events, Ordering::Relaxed);
    }

    pub fn received_events(&self) -> u64 {
        self.received_events.load(Ordering::Relaxed)
    }

    pub fn keep_unfinished(&self, unfinished: Unfinished) {
        *self.unfinished.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(unfinished));
    }

    pub fn take_unfinished(&self) -> Option<Box<Unfinished>> {
        self.unfinished.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Writes the events that wait, and shows them to readers. While the store is unavailable they wait, and the upstream with
    /// them, for as long as the lease holds.
    pub async fn flush(&self, store: &dyn Store, patience: Duration) -> Result<(), LeaseLost> {
        let Some(chunk) = self.unwritten().take() else { return Ok(()) };
        let give_up_at = Instant::now() + patience;
        loop {
            match store.append_events(&self.lease, chunk.clone()).await {
                Ok(true) => {
                    self.live.publish(chunk);
                    return Ok(());
                }
                Ok(false) => return Err(LeaseLost),
                Err(error) if is_transient(&error) && Instant::now() < give_up_at => {
                    tracing::debug!(response.id = %self.lease.id, %error, "events could not be logged; retrying");
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                Err(error) => {
                    tracing::warn!(response.id = %self.lease.id, %error, "events could not be logged; the turn stops");
                    return Err(LeaseLost);
                }
            }
        }
    }

    /// Notes that the turn has ended; its last events are in the log.
    pub fn end(&self, events: Option<EventChunk>) {
        // First: a reader that finds it ended looks for no more events.
        if let Some(events) = events {
            self.live.publish(events);
        }
        self.live.end();
    }

    pub fn has_ended(&self) -> bool {
        self.live.has_ended()
    }

    /// Leaves the turn to whoever claims it: nothing more of it is written here.
    pub fn leave(&self) {
        self.live.leave();
    }

    pub fn is_left(&self) -> bool {
        self.live.is_left()
    }

    /// Waits until the turn is left.
    pub async fn left(&self) {
        self.live.left().await;
    }
}

/// Whether a write may succeed later.
pub fn is_transient(error: &StoreError) -> bool {
    matches!(error, StoreError::Unavailable(_) | StoreError::Deadline(_) | StoreError::Unusable(_))
}

// === impl Unfinished ===

impl fmt::Debug for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unfinished").finish_non_exhaustive()
    }
}

// === impl RunGuard ===

impl Drop for RunGuard {
    fn drop(&mut self) {
        let Self { turns, run } = self;
        turns.background.remove(run);
        if run.has_ended() {
            return;
        }
        run.leave();
        let (store, run) = (Arc::clone(turns.chains.store()), Arc::clone(run));
        turns.env.tasks.spawn(async move {
            let TurnLease { project, id, .. } = &run.lease;
            // Its client has heard of no response, or was told that it would be cancelled.
            while run.stop.is_cancelled()
                && store.request_cancel(project, *id).await.is_err_and(|error| is_transient(&error))
            {
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            while store.release_lease(&run.lease).await.is_err_and(|error| is_transient(&error)) {
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        });
    }
}
