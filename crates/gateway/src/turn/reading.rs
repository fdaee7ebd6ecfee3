//! Reading the events of an upstream, until it is silent for too long.

use std::pin::pin;
use std::time::{Duration, Instant};

use antiphon_runtime::Deadline;
use antiphon_upstream::transport::EventReader;
use futures_util::FutureExt;

use super::Turn;
use super::detach::Cancelled;

/// How long an upstream may take to end its reply after its terminal event.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// How long it may take to report what a reply cost, after it has said why the model ended.
const USAGE_TIMEOUT: Duration = Duration::from_secs(3);

/// The silence of an upstream, and the only timer of its stream.
pub struct Silence {
    pub since: Instant,
    deadline: Deadline,
}

/// What reading from the upstream's stream yielded.
pub enum ReadOutcome {
    /// New events can be decoded.
    Events,
    End,
    Broken(String),
    Silent,
    TurnTooLong,
    Cancelled,
}

impl Silence {
    /// Begins now. `limit` is how long it may last at first.
    pub fn begin(limit: Duration) -> Self {
        let since = Instant::now();
        Self { since, deadline: Deadline::new((since + limit).into()) }
    }
}

/// Waits for the upstream until `silent_at`, or the end of the turn's time. A reply that has its whole answer ends however its
/// connection does, and soon.
pub async fn read_events(
    turn: &Turn,
    events: &mut EventReader,
    silence: &mut Silence,
    silent_at: Instant,
) -> ReadOutcome {
    let has_answer = events.decoder().has_answer();
    let patience = USAGE_TIMEOUT.min(turn.turns.settings.idle_timeout);
    let over_at = has_answer.then(|| silence.since + patience);
    let limit = turn.deadline.min(silent_at).min(over_at.unwrap_or(silent_at));
    let reading = pin!(turn.cancellation.or_cancelled(events.read()));
    match silence.deadline.before(limit.into(), reading).await {
        None if over_at.is_some_and(|over_at| over_at <= limit) => ReadOutcome::End,
        None if limit == turn.deadline => ReadOutcome::TurnTooLong,
        None => ReadOutcome::Silent,
        Some(Err(Cancelled)) => ReadOutcome::Cancelled,
        Some(Ok(Ok(false))) => ReadOutcome::End,
        Some(Ok(Err(_))) if has_answer => ReadOutcome::End,
        Some(Ok(Err(error))) => ReadOutcome::Broken(error),
        Some(Ok(Ok(true))) => {
            // What comes after the answer does not prolong the wait.
            if !has_answer {
                silence.since = Instant::now();
            }
            ReadOutcome::Events
        }
    }
}

impl Turn {
    /// Reads the upstream's reply to its end, or its connection could not be reused.
    pub fn drain(&self, events: EventReader) {
        let Some(rest) = events.into_rest() else { return };
        let mut rest = Box::pin(rest);
        if rest.as_mut().now_or_never().is_none() {
            self.turns.env.tasks.spawn(async move {
                tokio::time::timeout(DRAIN_TIMEOUT, rest).await.ok();
            });
        }
    }
}
