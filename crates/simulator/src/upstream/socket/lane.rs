//! A lane, which runs its turns one after another.

use super::frame::{self, Lane};
use super::recent::Recent;
use crate::upstream::delivery;
use crate::upstream::event::Framing;
use crate::upstream::exchange::{Admitted, Shared};
use crate::upstream::prepared::Prepared;
use crate::upstream::received::{InFlight, OpenSocket, Received, lock};
use crate::upstream::request::{Items, TurnRequest};
use crate::upstream::script::{Close, Delivery, Ending, GateAt, Instead, Script, Stop};
use crate::upstream::stamp;
use bytes::Bytes;
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{Sender, UnboundedReceiver};

/// The maximum number of concurrent turns of a socket; further ones wait.
pub(super) const AT_ONCE: usize = 16;
/// How a socket closes where a stream would end without a terminal event.
const NORMAL: Close = Close::Code(1000);

/// The state that all lanes of a socket share.
pub(super) struct Socket {
    pub(super) shared: Arc<Shared>,
    pub(super) open: OpenSocket,
    pub(super) handshake: Option<Received>,
    pub(super) recent: Mutex<Recent>,
    pub(super) permits: Semaphore,
    pub(super) out: Sender<Out>,
}

/// What a lane sends.
pub(super) enum Out {
    /// Messages that go out in one write.
    Messages(Vec<Bytes>),
    /// The first half of a message.
    Half(Bytes),
    Over(InFlight, Option<(Duration, Close)>),
    Close(InFlight, Close),
}

pub(super) struct Turn {
    pub(super) lane: Lane,
    pub(super) request: TurnRequest,
    pub(super) in_flight: InFlight,
}

/// Plays turns as long as the socket is open.
pub(super) async fn run(socket: Arc<Socket>, mut turns: UnboundedReceiver<Turn>) {
    while let Some(turn) = turns.recv().await {
        let Ok(_permit) = socket.permits.acquire().await else { return };
        socket.play(turn).await;
    }
}

impl Socket {
    /// Counts and records a requested turn.
    pub(super) fn enter(&self, message: Bytes) -> InFlight {
        self.open.change(|socket| socket.turns += 1);
        let number = self.open.number;
        let received = self.handshake.clone();
        self.shared.ledger.enter(received.map(|handshake| Received {
            body: message,
            socket: Some(number),
            ..handshake
        }))
    }

    async fn play(&self, turn: Turn) {
        let Turn { lane, request, in_flight } = turn;
        if let Some(prepared) = &self.shared.prepared
            && lane.is_none()
            && !request.is_warm_up()
        {
            self.send_prepared(prepared).await;
            return self.send(Out::Over(in_flight, None)).await;
        }
        let parent: Option<String> = request.get("previous_response_id");
        let recent = parent.as_deref().and_then(|id| lock(&self.recent).find(id));
        let (refused, script) = match self.shared.admit(request, recent.as_deref()) {
            Err(refusal) => (Some(frame::refused(&refusal, &lane)), Script::new()),
            Ok(admitted) => {
                if let Some(close) = self.answer(&admitted, &lane).await {
                    return self.send(Out::Close(in_flight, close)).await;
                }
                (instead(&admitted.script, &lane), admitted.script)
            }
        };
        if let Some(refused) = refused {
            if let Some(id) = parent {
                lock(&self.recent).evict(&lane, &id);
            }
            self.message(refused).await;
        }
        self.send(Out::Over(in_flight, script.delivery.afterwards)).await;
    }

    async fn send_prepared(&self, prepared: &Prepared) {
        for (number, messages) in prepared.messages(self.shared.mint.draw()).into_iter().enumerate() {
            pause(if number > 0 { self.shared.options.between_events } else { Duration::ZERO }).await;
            self.send(Out::Messages(messages.iter().map(stamp::stamped).collect())).await;
        }
    }

    /// Plays an admitted turn, except for a scripted error event, which the caller sends. Returns how to close the socket, if
    /// the script closes it.
    async fn answer(&self, admitted: &Admitted, lane: &Lane) -> Option<Close> {
        let script = &admitted.script;
        if delivery::before_headers(&script.delivery).await.is_err() {
            return Some(Close::Reset);
        }
        match &script.instead {
            Some(Instead::Body { .. }) => None,
            Some(Instead::Stream { bytes }) => self.stream(frame::data_of(bytes), script, || ()).await,
            None => {
                let reply = self.shared.reply(&admitted.request, script);
                let framing = Framing::Text { lane: lane.as_deref() };
                let events = self.shared.events(&reply, script, framing);
                let remember = || {
                    if reply.can_be_continued() {
                        self.remember(admitted, lane, reply.id.clone(), reply.output_items().collect());
                    }
                };
                self.stream(events, script, remember).await
            }
        }
    }

    fn remember(&self, admitted: &Admitted, lane: &Lane, id: String, output: Items) {
        let items = admitted.items.iter().chain(&output).cloned().collect();
        if self.shared.options.stateful && admitted.request.wants_storing() {
            // The whole context, as the parent may be a response that only the socket knows.
            self.shared.memory.keep(id.clone(), None, admitted.items.clone(), output);
        }
        lock(&self.recent).remember(lane, id, items);
    }

    /// Plays the events; `finished` is called before the last one.
    async fn stream(&self, events: Vec<Bytes>, script: &Script, finished: impl FnOnce()) -> Option<Close> {
        let delivery = &script.delivery;
        let between = delivery.between_events.unwrap_or(self.shared.options.between_events);
        let count = events.len();
        let mut finished = Some(finished);
        pause(delivery.before_first_event).await;
        for (number, event) in events.into_iter().enumerate() {
            pause(if number > 0 { between } else { Duration::ZERO }).await;
            if let Some(close) = self.stop(delivery, number, &event).await {
                return Some(close);
            }
            self.inject(script, |at| at == number).await;
            if number + 1 == count
                && let Some(finished) = finished.take()
            {
                finished();
            }
            self.message(event).await;
        }
        if let Some(close) = self.stop(delivery, count, &Bytes::new()).await {
            return Some(close);
        }
        self.inject(script, |at| at >= count).await;
        (script.ending == Ending::Silent && script.error_event.is_none()).then_some(NORMAL)
    }

    /// Waits at the gate after this number of events, and returns the scripted end after it, if any.
    async fn stop(&self, delivery: &Delivery, number: usize, next: &Bytes) -> Option<Close> {
        if let Some((GateAt::Event(at), gate)) = &delivery.gate
            && *at == number
        {
            gate.clone().pass().await;
        }
        match delivery.stop {
            Some(Stop::Cut { events, inside }) if events == number => {
                if inside {
                    self.send(Out::Half(next.clone())).await;
                }
                Some(Close::Reset)
            }
            Some(Stop::Close { events, close }) if events == number => Some(close),
            Some(Stop::End { events }) if events == number => Some(NORMAL),
            Some(Stop::Hang { events }) if events == number => pending().await,
            _ => None,
        }
    }

    /// Sends injected bytes as messages of their own.
    async fn inject(&self, script: &Script, is_due: impl Fn(usize) -> bool) {
        for (_, bytes) in script.injected.iter().filter(|(at, _)| is_due(*at)) {
            self.message(bytes.clone()).await;
        }
    }

    async fn message(&self, message: Bytes) {
        self.send(Out::Messages(vec![message])).await;
    }

    async fn send(&self, out: Out) {
        // Fails only when the socket has ended, and its lanes with it.
        drop(self.out.send(out).await);
    }
}

/// The error event of a scripted HTTP reply.
fn instead(script: &Script, lane: &Lane) -> Option<Bytes> {
    match &script.instead {
        Some(Instead::Body { status, bytes, .. }) => {
            Some(frame::scripted(*status, bytes, &script.headers, lane))
        }
        Some(Instead::Stream { .. }) | None => None,
    }
}

/// Does not sleep at all for a zero time: that would still wait for the timer's next tick.
async fn pause(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}
