//! Reading the log of a background turn, from any event on, while it grows.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use antiphon_protocol::event::{sequence_number, write_sse};
use antiphon_protocol::id::{ProjectId, ResponseId};
use antiphon_protocol::include::HiddenParts;
use antiphon_runtime::offload::{Aborted, is_short, offload_if_long};
use antiphon_store::{EventChunk, StoreError, TurnLease};
use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::unfold;
use http_body::Frame;
use memchr::memmem;
use tokio::time::Instant;

use super::live::LiveEvents;
use super::log::{frames, hide_in_events};
use crate::body_memory::{Reservation, Tenant};
use crate::turn::Turns;
use crate::turn::stream::keep_alive;

/// Events are handed on together up to this size. One that is longer comes alone.
const MAX_JOINED_BYTES: usize = 64 * 1024;

/// The events of a background turn after some number, then those that follow, until its end. The turn does not depend on it.
pub struct EventLog {
    chunks: Pin<Box<dyn Stream<Item = Result<Bytes, Left>> + Send>>,
}

/// The process stops, and the turn goes on elsewhere: so does its reader, once the connection is cut.
#[derive(Debug, thiserror::Error)]
#[error("the gateway stops")]
pub struct Left;

struct Reading {
    turns: Arc<Turns>,
    project: ProjectId,
    id: ResponseId,
    /// What the reader does not get of items.
    hidden: HiddenParts,
    /// The number of the last event that was read.
    after: Option<u64>,
    live: Option<Arc<LiveEvents>>,
    /// Of the project's share, for events that are long.
    memory: Reservation,
    last_sent_at: Instant,
    /// Whether events that were read have `id` lines.
    has_ids: bool,
    is_over: bool,
}

/// What there is to read.
enum Progress {
    /// With the number of the last one.
    Events(Bytes, u64),
    NothingYet,
    End,
}

// === impl EventLog ===

impl EventLog {
    /// The events have all but what is `hidden` from the reader.
    pub fn new(turns: Arc<Turns>, lease: &TurnLease, hidden: HiddenParts, after: Option<u64>) -> Self {
        let (project, id) = (lease.project.clone(), lease.id);
        let share = turns.background.settings.request_memory.share(Tenant::Project(project.clone()));
        let reading = Reading {
            turns,
            project,
            id,
            hidden,
            after,
            live: None,
            memory: Reservation::empty(&share),
            last_sent_at: Instant::now(),
            has_ids: false,
            is_over: false,
        };
        let chunks = unfold(reading, |mut reading| async move {
            let chunk = reading.next().await?;
            reading.last_sent_at = Instant::now();
            Some((chunk, reading))
        });
        Self { chunks: Box::pin(chunks) }
    }
}

impl http_body::Body for EventLog {
    type Data = Bytes;
    type Error = Left;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Left>>> {
        self.chunks.as_mut().poll_next(cx).map(|chunk| chunk.map(|chunk| chunk.map(Frame::data)))
    }
}

// === impl Reading ===

impl Reading {
    /// The next events, or a comment if there are none for long. `None` at the end.
    async fn next(&mut self) -> Option<Result<Bytes, Left>> {
        if self.is_over {
            return None;
        }
        let keep_alive_at = self.last_sent_at + self.turns.settings.keep_alive_interval;
        let stopping = self.turns.env.tasks.stopping().clone();
        loop {
            if self.live.as_ref().is_none_or(|live| live.is_left()) {
                self.live = self.turns.background.find_running(self.id).map(|run| Arc::clone(&run.live));
            }
            // Before the read, or what comes between would be missed.
            let published = self.live.as_ref().map(|live| live.subscribe());
            match self.read().await {
                Ok(Progress::Events(events, last)) => {
                    if let Some((events, memory)) = self.within_memory(events, keep_alive_at).await {
                        let Ok(events) = self.shown(events).await else {
                            self.is_over = true;
                            return Some(Err(Left));
                        };
                        let events = memory.hold(events);
                        self.after = Some(last);
                        self.has_ids = self.has_ids || has_ids(&events);
                        return Some(Ok(events));
                    }
                    if Instant::now() < keep_alive_at {
                        continue;
                    }
                }
                Ok(Progress::End) => return None,
                Ok(Progress::NothingYet) => {}
                Err(StoreError::Corrupt(damage)) => {
                    tracing::error!(damage, "events cannot be read");
                    self.is_over = true;
                    return Some(Ok(damage_event(self.after)));
                }
                Err(error) => {
                    tracing::debug!(response.id = %self.id, %error, "the event log cannot be read; retrying");
                }
            }
            if Instant::now() >= keep_alive_at {
                return Some(Ok(keep_alive(self.has_ids)));
            }
            if let Some(mut published) = published {
                let _ = tokio::time::timeout_at(keep_alive_at, published.changed()).await;
            } else if stopping.is_given() {
                self.is_over = true;
                return Some(Err(Left));
            } else {
                self.live = Some(self.turns.follow(&self.project, self.id, self.after));
            }
        }
    }

    async fn read(&mut self) -> Result<Progress, StoreError> {
        if let Some(live) = &self.live {
            let has_ended = live.has_ended();
            match live.after(self.after) {
                Some(chunks) if !chunks.is_empty() => return Ok(self.pass(chunks)),
                Some(_) if has_ended => return Ok(Progress::End),
                Some(_) => return Ok(Progress::NothingYet),
                None => {}
            }
        }
        let store = Arc::clone(self.turns.chains.store());
        // In this order: a turn that has ended logs nothing more.
        let progress = store.load_progress(&self.project, self.id).await?;
        let chunks = store.list_events(&self.project, self.id, self.after).await?;
        if !chunks.is_empty() {
            return Ok(self.pass(chunks));
        }
        let has_ended = progress.is_none_or(|progress| progress.has_ended);
        Ok(if has_ended { Progress::End } else { Progress::NothingYet })
    }

    /// The events as the reader gets them.
    async fn shown(&self, events: Bytes) -> Result<Bytes, Aborted> {
        let hidden = self.hidden;
        if !hidden.may_be_in(&events) {
            return Ok(events);
        }
        offload_if_long(events.len(), move || hide_in_events(&events, hidden)).await
    }

    /// The events, and a reservation of their memory if they are long. `None` if there is no memory for them yet: they are let
    /// go, and read again.
    async fn within_memory(&mut self, events: Bytes, until: Instant) -> Option<(Bytes, Reservation)> {
        let size_bytes = if is_short(events.len()) { 0 } else { events.len().min(self.memory.max_bytes()) };
        let missing = size_bytes.saturating_sub(self.memory.bytes());
        if self.memory.try_grow(missing) {
            return Some((events, self.memory.take()));
        }
        drop(events);
        let mut patience = until.saturating_duration_since(Instant::now());
        if self.memory.grow(missing, &mut patience).await.is_err() {
            tokio::time::sleep_until(until).await;
        }
        None
    }

    /// The first events of these chunks that were not read yet.
    fn pass(&self, chunks: Vec<EventChunk>) -> Progress {
        let mut events = Bytes::new();
        let mut last = self.after.unwrap_or_default();
        for chunk in chunks {
            if !events.is_empty() && events.len() + chunk.bytes.len() > MAX_JOINED_BYTES {
                break;
            }
            let unread = match self.after {
                Some(after) if chunk.first <= after => unread(&chunk.bytes, after),
                _ => chunk.bytes,
            };
            events = if events.is_empty() { unread } else { [events, unread].concat().into() };
            last = chunk.last;
        }
        Progress::Events(events, last)
    }
}

fn has_ids(events: &[u8]) -> bool {
    events.starts_with(b"id:") || memmem::find(events, b"\nid:").is_some()
}

/// Those after this number.
fn unread(events: &Bytes, after: u64) -> Bytes {
    let number = |data: &[u8]| sequence_number(data).unwrap_or_default();
    let unread = frames(events).filter(|frame| frame.data().is_some_and(|data| number(&data) > after));
    unread.flat_map(|frame| frame.raw).collect()
}

/// The last event that a client gets of a log whose next one is damaged.
fn damage_event(after: Option<u64>) -> Bytes {
    let number = after.map_or(0, |after| after + 1);
    let data = format!(
        r#"{{"type":"error","code":"server_error","message":"The events of this response are damaged.","param":null,"sequence_number":{number}}}"#
    );
    let mut event = Vec::with_capacity(data.len() + 32);
    write_sse(&mut event, b"error", data.as_bytes());
    event.into()
}
