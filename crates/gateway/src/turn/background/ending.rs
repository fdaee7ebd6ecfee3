//! The end of a background turn: its result and the last events of its log are one transaction, if its lease still holds.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use antiphon_protocol::error::{ApiError, UpstreamError};
use antiphon_protocol::response::with_output;
use antiphon_store::{
    Appended, BackgroundEnd, BackgroundResult, BackgroundStatus, Maker, Status, StoreError,
};
use antiphon_upstream::dialect::{Piece, ReplyFormat};
use bytes::Bytes;
use tokio::time::Instant;

use super::run::{Run, Unfinished, is_transient};
use crate::turn::framing::Framing;
use crate::turn::record::Finished;
use crate::turn::relay::{Relay, Terminal};
use crate::turn::resolve::Resolved;
use crate::turn::{Facts, Failure, Turn};

/// How long a response that is not to be stored is kept.
const UNSTORED_RETENTION: Duration = Duration::from_mins(10);
/// How long the end of a turn waits for an unavailable store.
const RECORD_PATIENCE: Duration = Duration::from_mins(10);
const RETRY_PAUSE: Duration = Duration::from_millis(500);

impl Turn {
    /// Whether another owner would go on with the turn: its client has seen nothing of it, or its upstream runs it.
    pub(in crate::turn) fn may_run_again(&self) -> bool {
        self.facts.door.run().is_some_and(|run| run.upstream().is_some() || !run.unwritten().has_content())
    }

    /// Adds the events that end a background turn to its log. They are written with its record.
    pub(in crate::turn) fn log_terminal(&self, terminal: &Terminal) {
        let Some(run) = self.facts.door.run() else { return };
        terminal.error.iter().chain([&terminal.frame]).for_each(|event| run.log(event));
    }

    /// Ends a turn whose upstream has not begun a reply, or has not finished a collected one.
    pub(super) async fn end_without_reply(&mut self, failure: Failure, resolved: &Resolved) {
        if matches!(failure, Failure::Stopped) && self.may_run_again() {
            return self.leave();
        }
        let has_run_out = Instant::now() >= self.deadline.into();
        let failure = match failure {
            Failure::UpstreamTimeout(_) | Failure::AllBusy if has_run_out => Failure::turn_too_long(),
            failure => failure,
        };
        let unfinished = self.facts.door.run().and_then(|run| run.take_unfinished()).map(|kept| *kept);
        match unfinished {
            Some(Unfinished { finished: Some(finished), account, .. })
                if matches!(failure, Failure::UpstreamError(_)) =>
            {
                self.end(&finished, 0);
                self.record(finished, resolved, Some(account.maker())).await.ok();
                self.settle();
            }
            Some(Unfinished { relay, account, .. }) => {
                self.end_with(&relay, &failure, resolved, Some(account.maker())).await;
            }
            None => {
                let relay = Relay::new(self.owned(resolved), Framing::Sse, None);
                self.end_with(&relay, &failure, resolved, None).await;
            }
        }
    }

    /// Ends a turn that another owner has begun, with what its log has of it.
    pub(super) async fn end_taken_over(&mut self, failure: &Failure, resolved: &Resolved) {
        match self.relay_log(resolved).await {
            Ok(relay) => {
                let begun_by = self.facts.door.run().and_then(|run| run.begun_by.get().cloned());
                let served_by = begun_by.filter(|_| relay.has_items());
                self.end_with(&relay, failure, resolved, served_by).await;
            }
            Err(error) => {
                tracing::warn!(response.id = %self.facts.id, %error, "the log of a background turn cannot be read");
                self.leave();
            }
        }
    }

    /// `served_by` is the account whose items the relay has.
    async fn end_with(
        &mut self,
        relay: &Relay,
        failure: &Failure,
        resolved: &Resolved,
        served_by: Option<Maker>,
    ) {
        let Some(run) = self.facts.door.run().cloned() else { return };
        let Facts { create, started_at, .. } = &self.facts;
        let skeleton = || match run.queued_response.get() {
            Some(response) => response.to_vec(),
            None => self.owned(resolved).skeleton(&create.model, started_at.unix_seconds()),
        };
        self.cancel_upstream();
        let terminal = match failure {
            Failure::ClientGone => relay.cancel(skeleton),
            failure => relay.fail(&error_of(failure), skeleton),
        };
        if matches!(failure, Failure::ClientGone) {
            self.progress.relayed_events = relay.events().max(run.received_events());
        }
        self.progress.interrupt(failure);
        self.log_terminal(&terminal);
        // A turn that could not be recorded is left to its next owner.
        self.record(terminal.finished, resolved, served_by).await.ok();
        self.settle();
    }

    /// What a relay knows that has seen the events in the log, as far as they can be read.
    pub(super) async fn relay_log(&self, resolved: &Resolved) -> Result<Relay, StoreError> {
        let max_bytes = self.turns.settings.max_reply_bytes;
        let relay = Relay::new(self.owned(resolved), Framing::Sse, Some(max_bytes));
        let mut relay = relay.hiding(self.hidden_parts());
        let mut decoder = ReplyFormat::Responses.decoder(max_bytes);
        let (mut after, mut passed) = (None, VecDeque::new());
        let store = self.turns.chains.store();
        loop {
            let chunks = match store.list_events(&self.facts.project, self.facts.id, after).await {
                Err(StoreError::Corrupt(damage)) => {
                    tracing::error!(damage, "a background turn lacks events of its log");
                    return Ok(relay);
                }
                listed => listed?,
            };
            let Some(last) = chunks.last() else { return Ok(relay) };
            after = Some(last.last);
            for chunk in chunks {
                decoder.push(Piece::Bytes(chunk.bytes));
                if relay.push(&mut decoder, &mut passed).is_err() {
                    return Ok(relay);
                }
                passed.clear();
            }
        }
    }

    /// Ends the turn in the store. While that is unavailable it is tried again, as nobody else has the result.
    pub(in crate::turn) async fn record_background(
        &mut self,
        run: &Arc<Run>,
        finished: Finished,
        resolved: &Resolved,
        served_by: Option<Maker>,
    ) -> Result<(), Failure> {
        if run.is_left() {
            return Err(Failure::Stopped);
        }
        let end = self.background_end(run, finished, resolved, served_by).await?;
        let events = end.events.clone();
        let turns = Arc::clone(&self.turns);
        let ending = pin!(turns.end_background(end, resolved));
        match turns.env.tasks.interruption().or(ending).await {
            Some(Ok(Some(Appended::Done | Appended::Deleted))) => {
                run.end(events);
                self.progress.is_recorded = true;
                self.running = None;
                Ok(())
            }
            // It has lost the lock, and may be run again after what has come between.
            Some(Ok(Some(Appended::Conflict))) => {
                tracing::warn!(response.id = %self.facts.id, "the conversation of a background turn has changed meanwhile");
                run.leave();
                Err(Failure::ConversationLocked)
            }
            // It is run again by itself, and then fails for the parent.
            Some(Ok(Some(Appended::NoParent))) => {
                run.leave();
                Err(self.parent_is_gone())
            }
            Some(Ok(None)) => {
                tracing::info!(response.id = %self.facts.id, "background turn was ended or taken over elsewhere");
                run.leave();
                Err(Failure::Stopped)
            }
            Some(Err(error)) => {
                run.leave();
                Err(error.into())
            }
            None => {
                run.leave();
                Err(Failure::Stopped)
            }
        }
    }

    async fn background_end(
        &self,
        run: &Run,
        mut finished: Finished,
        resolved: &Resolved,
        served_by: Option<Maker>,
    ) -> Result<BackgroundEnd, Failure> {
        let settings = &self.turns.background.settings;
        let status = finished.status;
        let is_stored = self.facts.create.store;
        let retention = if is_stored { settings.log_retention } else { UNSTORED_RETENTION };
        let result = if is_stored {
            let record = self.to_record(&finished, resolved, served_by).await?;
            BackgroundResult::Stored(Box::new(record))
        } else {
            let output = match status {
                Status::Cancelled => Bytes::from_static(b"[]"),
                _ => std::mem::take(&mut finished.output),
            };
            let response = with_output(&finished.response, &output).map_err(|_| Failure::Internal)?;
            BackgroundResult::Kept {
                response: response.into(),
                log: Box::new(self.row()),
                settlement: self.settlement(),
            }
        };
        let appends = matches!(&result, BackgroundResult::Stored(record) if record.append.is_some());
        let unlocks = self.queued_lock().filter(|_| !appends);
        let (at, events) = (self.turns.env.clock.now(), run.unwritten().take());
        let lease = run.lease.clone();
        Ok(BackgroundEnd { lease, at, status, kept_until: at.plus(retention), events, result, unlocks })
    }
}

impl crate::turn::Turns {
    async fn end_background(
        &self,
        end: BackgroundEnd,
        resolved: &Resolved,
    ) -> Result<Option<Appended>, StoreError> {
        let give_up_at = Instant::now() + RECORD_PATIENCE;
        let mut may_be_ended = false;
        loop {
            let ended = match self.chains.end_background(end.clone(), resolved.parent.clone()).await {
                Ok(None) if may_be_ended => {
                    let has_ended = self.has_ended(&end).await;
                    has_ended.map(|has_ended| has_ended.then_some(Appended::Done))
                }
                ended => ended,
            };
            match ended {
                Err(error) if is_transient(&error) && Instant::now() < give_up_at => {
                    if !may_be_ended {
                        tracing::warn!(response.id = %end.lease.id, %error, "background turn cannot be recorded; retrying");
                    }
                    // The write may have been made, and only the reply to it lost.
                    may_be_ended = true;
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                ended => {
                    if may_be_ended && ended.is_ok() {
                        tracing::info!(response.id = %end.lease.id, "background turn could be recorded after all");
                    }
                    return ended;
                }
            }
        }
    }

    /// Whether this end is the one in the store.
    async fn has_ended(&self, end: &BackgroundEnd) -> Result<bool, StoreError> {
        let stored = self.chains.store().load_background(&end.lease.project, end.lease.id).await?;
        Ok(stored.is_some_and(|turn| {
            turn.lease == end.lease
                && turn.status == BackgroundStatus::Ended(end.status)
                && turn.ended_at == Some(end.at)
        }))
    }
}

/// The error of the response. An upstream's own error tells most. Without one, the code is that of a stream that breaks off.
fn error_of(failure: &Failure) -> ApiError {
    let mut error = failure.api_error();
    match failure {
        Failure::UpstreamError(reply) => {
            let upstream = UpstreamError::parse(&reply.body);
            if let Some(message) = upstream.message {
                error.message = message;
            }
            if let Some(code) = upstream.code {
                error.code = Some(code.into());
            }
        }
        Failure::UpstreamFailed(_) | Failure::UpstreamTimeout(_) | Failure::UpstreamUnreachable(_) => {
            error.code = Some("server_error".into());
        }
        _ => {}
    }
    error
}
