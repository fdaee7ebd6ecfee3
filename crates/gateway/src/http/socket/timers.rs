//! The timers of a connection: pings, its maximum age, and the shutdown of the process.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use antiphon_runtime::Listener;
use tokio::time::{Instant, Sleep};

use crate::http::app_state::AppState;

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tick {
    Ping,
    MaxAge,
    Shutdown,
}

pub struct SocketTimers {
    next_ping: Instant,
    ping_interval: Duration,
    /// `None` once it has been reported.
    max_age_at: Option<Instant>,
    timer: Pin<Box<Sleep>>,
    /// `None` once it has been reported.
    stopping: Option<Listener>,
}

impl SocketTimers {
    pub fn new(state: &AppState) -> Self {
        let settings = &state.sockets;
        let now = Instant::now();
        let (next_ping, max_age_at) = (now + settings.ping_interval, now + settings.max_age);
        let stopping = state.turns.env.tasks.stopping().listen();
        Self {
            next_ping,
            ping_interval: settings.ping_interval,
            max_age_at: Some(max_age_at),
            timer: Box::pin(tokio::time::sleep_until(next_ping.min(max_age_at))),
            stopping: Some(stopping),
        }
    }

    /// The next timer that is due. Call it until it is pending.
    pub fn poll_tick(&mut self, cx: &mut Context<'_>) -> Poll<Tick> {
        if self.stopping.as_mut().is_some_and(|stopping| Pin::new(stopping).poll(cx).is_ready()) {
            self.stopping = None;
            return Poll::Ready(Tick::Shutdown);
        }
        std::task::ready!(self.timer.as_mut().poll(cx));
        let now = Instant::now();
        let tick = match self.max_age_at {
            Some(max_age_at) if max_age_at <= now => {
                self.max_age_at = None;
                Tick::MaxAge
            }
            _ => {
                self.next_ping = now + self.ping_interval;
                Tick::Ping
            }
        };
        let next = self.max_age_at.map_or(self.next_ping, |max_age_at| max_age_at.min(self.next_ping));
        self.timer.as_mut().reset(next);
        Poll::Ready(tick)
    }
}
