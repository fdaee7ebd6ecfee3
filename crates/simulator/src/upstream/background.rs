//! Responses that run in the background: they go on without their client, who polls them, reads their events from any number on,
//! or cancels them.

use super::body::{Cut, ReplyBody};
use super::exchange::Shared;
use super::received::{InFlight, lock};
use super::refusal::Refusal;
use super::script::{Delivery, GateAt, Stop};
use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::unfold;
use http::{Method, Response, StatusCode};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

/// The responses that were created in the background.
#[derive(Debug, Default)]
pub(super) struct Background {
    runs: Mutex<HashMap<String, Arc<Run>>>,
    refuses_streams: AtomicBool,
}

/// One response.
#[derive(Debug)]
pub(super) struct Run {
    is_streamed: bool,
    state: watch::Sender<State>,
}

#[derive(Debug, Default)]
struct State {
    events: Vec<Bytes>,
    /// The response object as it is now.
    response: String,
    /// `None` while it runs.
    ended: Option<&'static str>,
}

/// What a run will yield.
pub(super) struct Outcome {
    pub(super) is_streamed: bool,
    pub(super) delivery: Delivery,
    /// Between two events, unless the script says otherwise.
    pub(super) pause: Duration,
    pub(super) events: Vec<Bytes>,
    /// The response while it runs.
    pub(super) running: String,
    /// The response at its end.
    pub(super) over: String,
    pub(super) status: &'static str,
}

impl Background {
    /// Starts a response; it ends by itself.
    pub(super) fn start(&self, id: &str, outcome: Outcome, turn: InFlight) -> Arc<Run> {
        let is_streamed = outcome.is_streamed;
        let response = with_status(&outcome.running, "queued");
        let state = State { response, ..State::default() };
        let run = Arc::new(Run { is_streamed, state: watch::Sender::new(state) });
        lock(&self.runs).insert(id.to_owned(), Arc::clone(&run));
        tokio::spawn(Arc::clone(&run).play(outcome, turn));
        run
    }

    /// Forgets all responses.
    pub(super) fn forget(&self) {
        lock(&self.runs).clear();
    }

    /// From now on responses can only be polled.
    pub(super) fn refuse_streams(&self) {
        self.refuses_streams.store(true, Ordering::Relaxed);
    }

    fn find(&self, id: &str) -> Result<Arc<Run>, Refusal> {
        let found = lock(&self.runs).get(id).cloned();
        found.ok_or_else(|| Refusal::invalid(format!("Response with id '{id}' not found.")).status(404))
    }
}

impl Run {
    async fn play(self: Arc<Self>, outcome: Outcome, mut turn: InFlight) {
        let mut states = self.state.subscribe();
        let cancelled = states.wait_for(|state| state.ended.is_some());
        let played = async {
            self.state.send_modify(|state| state.response = outcome.running.clone());
            let delivery = outcome.delivery;
            let pause = delivery.between_events.unwrap_or(outcome.pause);
            for (number, event) in outcome.events.into_iter().enumerate() {
                if let Some((GateAt::Event(at), gate)) = &delivery.gate
                    && *at == number
                {
                    gate.clone().pass().await;
                }
                if matches!(delivery.stop, Some(Stop::Hang { events }) if events == number) {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(pause).await;
                self.state.send_modify(|state| state.events.push(event));
            }
            self.state.send_modify(|state| {
                state.response.clone_from(&outcome.over);
                state.ended = Some(outcome.status);
            });
        };
        tokio::select! {
            biased;
            _ = cancelled => {}
            () = played => turn.finish(),
        }
    }

    /// The events from this number on, and those that follow. Cut after so many events, if the script says so.
    pub(super) fn follow(
        self: &Arc<Self>,
        from: usize,
        cut_after: Option<usize>,
    ) -> impl Stream<Item = Result<Bytes, Cut>> + Send + 'static {
        let states = self.state.subscribe();
        unfold((Arc::clone(self), states, from), move |(run, mut states, at)| async move {
            if cut_after == Some(at) {
                // The events before it are flushed first.
                tokio::task::yield_now().await;
                return Some((Err(Cut), (run, states, at + 1)));
            }
            let event = {
                let state =
                    states.wait_for(|state| state.events.len() > at || state.ended.is_some()).await.ok()?;
                state.events.get(at).cloned()
            }?;
            Some((Ok(event), (run, states, at + 1)))
        })
    }

    pub(super) fn response(&self) -> String {
        self.state.borrow().response.clone()
    }

    fn cancel(&self) -> Result<String, Refusal> {
        self.state.send_if_modified(|state| {
            let runs = state.ended.is_none();
            if runs {
                state.ended = Some("cancelled");
                state.response = with_status(&state.response, "cancelled");
            }
            runs
        });
        match self.state.borrow().ended {
            Some("cancelled") => Ok(self.response()),
            Some(status) => Err(Refusal::invalid(format!("Cannot cancel a {status} response."))),
            None => Ok(self.response()),
        }
    }
}

impl Shared {
    /// The reply to a request about a response; `None` if the path is not one of a response.
    pub(super) fn answer_about_response(
        &self,
        method: &Method,
        path: &str,
        query: Option<&str>,
    ) -> Option<Response<ReplyBody>> {
        let (_, rest) = path.rsplit_once("/responses/")?;
        let answer = match (method, rest.strip_suffix("/cancel")) {
            (&Method::POST, Some(id)) => self.background.find(id).and_then(|run| run.cancel()),
            (&Method::GET, None) if has(query, "stream", "true") => {
                let is_refused = self.background.refuses_streams.load(Ordering::Relaxed);
                let found = self.background.find(rest);
                return Some(match found.and_then(|run| run.resumed(query, is_refused)) {
                    Ok(body) => self.respond(StatusCode::OK, "text/event-stream; charset=utf-8", body),
                    Err(refusal) => self.refuse(&refusal, None),
                });
            }
            (&Method::GET, None) => self.background.find(rest).map(|run| run.response()),
            _ => return None,
        };
        Some(match answer {
            Ok(response) => {
                self.respond(StatusCode::OK, "application/json", ReplyBody::whole(response.into(), None))
            }
            Err(refusal) => self.refuse(&refusal, None),
        })
    }
}

impl Run {
    fn resumed(self: &Arc<Self>, query: Option<&str>, is_refused: bool) -> Result<ReplyBody, Refusal> {
        if is_refused || !self.is_streamed {
            let message = "This response cannot be streamed because it was not created with stream=true.";
            return Err(Refusal::invalid(String::from(message)).param("stream"));
        }
        let after = value(query, "starting_after").map(|after| {
            let wrong =
                || Refusal::invalid(String::from("Invalid 'starting_after'.")).param("starting_after");
            after.parse::<usize>().map_err(|_| wrong())
        });
        let from = after.transpose()?.map_or(0, |after| after + 1);
        Ok(ReplyBody::following(self.follow(from, None)))
    }
}

fn value<'q>(query: Option<&'q str>, name: &str) -> Option<&'q str> {
    let mut pairs = query?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}

fn has(query: Option<&str>, name: &str, expected: &str) -> bool {
    value(query, name) == Some(expected)
}

fn with_status(response: &str, status: &str) -> String {
    let running = ["in_progress", "queued"].map(|status| format!("\"status\":\"{status}\""));
    let changed = format!("\"status\":\"{status}\"");
    running.iter().fold(response.to_owned(), |text, running| text.replacen(running, &changed, 1))
}
