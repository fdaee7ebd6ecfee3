//! What a socket has to do at its time: pings, growing too old, and stopping with the process.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::http::doors::Doors;

/// It is time for this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tick {
    Ping,
    TooOld,
    Restart,
}

pub struct Clock {
    next_ping: Instant,
    ping_interval: Duration,
    /// Gone once it has been told.
    too_old: Option<Instant>,
    timer: Pin<Box<Sleep>>,
    /// Gone once it has been told.
    stopping: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl Clock {
    pub fn new(doors: &Doors) -> Self {
        let rules = &doors.sockets;
        let now = Instant::now();
        let (next_ping, too_old) = (now + rules.ping_interval, now + rules.max_age);
        let stopping = doors.turns.env.tasks.stopping().cancelled_owned();
        Self {
            next_ping,
            ping_interval: rules.ping_interval,
            too_old: Some(too_old),
            timer: Box::pin(tokio::time::sleep_until(next_ping.min(too_old))),
            stopping: Some(Box::pin(stopping)),
        }
    }

    /// What it is time for now. To be asked until nothing is left.
    pub fn poll_tick(&mut self, cx: &mut Context<'_>) -> Poll<Tick> {
        if self.stopping.as_mut().is_some_and(|stopping| stopping.as_mut().poll(cx).is_ready()) {
            self.stopping = None;
            return Poll::Ready(Tick::Restart);
        }
        std::task::ready!(self.timer.as_mut().poll(cx));
        let now = Instant::now();
        let tick = match self.too_old {
            Some(too_old) if too_old <= now => {
                self.too_old = None;
                Tick::TooOld
            }
            _ => {
                self.next_ping = now + self.ping_interval;
                Tick::Ping
            }
        };
        let next = self.too_old.map_or(self.next_ping, |too_old| too_old.min(self.next_ping));
        self.timer.as_mut().reset(next);
        Poll::Ready(tick)
    }
}
