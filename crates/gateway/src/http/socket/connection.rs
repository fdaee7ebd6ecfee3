//! One open socket: a single task that reads frames, runs the turns, and writes their events.
//!
//! Events are taken from the turns only while the client takes them, one from each lane in turn. So a client that does not
//! read slows its upstreams, and what is held for it stays within [`WRITE_BUFFER_BYTES`] and one event.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use antiphon_protocol::error::ApiError;
use antiphon_protocol::request::Wanted;
use antiphon_protocol::socket::{ClientFrame, StreamId};
use bytes::Bytes;
use futures_util::{FutureExt, Sink, Stream};
use http::HeaderMap;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::clock::{Clock, Tick};
use super::ending::{Ending, say_goodbye, text};
use super::lanes::{Asked, Lanes, MAX_NAMED};
use super::metered::Metered;
use super::metrics::SocketMetrics;
use super::refusal;
use super::running::{Running, refused_unread};
use crate::http::doors::Doors;
use crate::http::parsing;
use crate::http::stall::StallGuard;
use crate::turn::{Failure, Lane, Memory};
use antiphon_access::keys::Caller;

/// What is read at a time; it is held also while the socket is idle.
const READ_BUFFER_BYTES: usize = 4 * 1024;
/// Events are put together up to this size before they are written; a client that does not read has so much waiting, and
/// one event.
const WRITE_BUFFER_BYTES: usize = 16 * 1024;
/// Pings that are answered before the client has taken the answers.
const MAX_PONGS: u32 = 16;
/// What is larger than this on its way in or out leaves buffers behind that an idle socket should not keep.
const SMALL_BYTES: usize = 4 * 1024;

pub type Socket = WebSocketStream<Metered<StallGuard<TcpStream>>>;
type Parsed = Result<(Result<ClientFrame, ApiError>, OwnedSemaphorePermit), Failure>;

pub struct Connection {
    socket: Socket,
    doors: Doors,
    headers: HeaderMap,
    caller: Caller,
    memory: Arc<Memory>,
    lanes: Lanes,
    running: Vec<Running>,
    /// Whose turn it is to send an event.
    next: usize,
    /// Messages that belong to no turn that runs.
    outbox: VecDeque<Message>,
    parsing: Option<Pin<Box<dyn Future<Output = Parsed> + Send>>>,
    /// Whether something has been written that may still be in the buffer.
    is_unflushed: bool,
    /// Answers to pings among it.
    pongs: u32,
    /// Whether buffers may have grown beyond what an idle socket should hold.
    is_bloated: bool,
    /// Why nothing is read any more.
    ending: Option<Ending>,
    clock: Clock,
    tally: Tally,
}

/// What is counted of a socket when it is gone, however it went.
struct Tally {
    metrics: Arc<SocketMetrics>,
    turns: u64,
    code: u16,
}

enum Step {
    /// Nothing is under way, and the buffers can be made small again.
    Shrink,
    Over(Ending),
}

impl Connection {
    pub fn open(
        stream: StallGuard<TcpStream>,
        early: Bytes,
        doors: Doors,
        headers: HeaderMap,
        caller: Caller,
    ) -> Box<Self> {
        let metrics = &doors.socket_metrics;
        let metered = Metered::new(stream, early, Arc::clone(&doors.body_limits));
        Box::new(Self {
            socket: speak(metered, doors.body_limits.max_bytes),
            memory: Memory::new(Arc::clone(&doors.sockets.memory)),
            lanes: Lanes::new(Arc::clone(metrics)),
            running: Vec::new(),
            next: 0,
            outbox: VecDeque::new(),
            parsing: None,
            is_unflushed: false,
            pongs: 0,
            is_bloated: false,
            ending: None,
            clock: Clock::new(&doors),
            tally: Tally::begin(Arc::clone(metrics)),
            doors,
            headers,
            caller,
        })
    }

    /// Serves the socket until it is closed. Boxed, as there are thousands, and a future may hold what it was given twice.
    pub async fn run(mut self: Box<Self>) {
        let ending = loop {
            match poll_fn(|cx| self.poll_step(cx)).await {
                Step::Over(ending) => break ending,
                Step::Shrink => {
                    self.is_bloated = false;
                    self.socket = speak(self.socket.into_inner(), self.doors.body_limits.max_bytes);
                }
            }
        };
        self.tally.code = ending.code();
        tracing::debug!(close.code = self.tally.code, turns = self.tally.turns, "a socket is closed");
        // Turns that are still there have lost their client.
        self.running.clear();
        say_goodbye(&mut self.socket, &ending).await;
    }

    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        while let Poll::Ready(tick) = self.clock.poll_tick(cx) {
            self.tick(tick);
        }
        loop {
            match self.advance(cx) {
                Ok(true) => {}
                Ok(false) => break,
                Err(ending) => return Poll::Ready(Step::Over(ending)),
            }
        }
        if self.is_unflushed {
            match Pin::new(&mut self.socket).poll_flush(cx) {
                Poll::Ready(Ok(())) => {
                    self.is_unflushed = false;
                    if std::mem::take(&mut self.pongs) == MAX_PONGS {
                        cx.waker().wake_by_ref();
                    }
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Step::Over(Ending::Gone)),
                Poll::Pending => return Poll::Pending,
            }
        }
        if !self.lanes.is_idle() || self.parsing.is_some() {
            return Poll::Pending;
        }
        match self.ending.take() {
            Some(ending) => Poll::Ready(Step::Over(ending)),
            None if self.is_bloated && self.socket.get_ref().is_between_messages() => {
                Poll::Ready(Step::Shrink)
            }
            None => Poll::Pending,
        }
    }

    fn tick(&mut self, tick: Tick) {
        match tick {
            // One is enough for a client that does not read.
            Tick::Ping if self.outbox.is_empty() => self.outbox.push_back(Message::Ping(Bytes::new())),
            Tick::Ping => {}
            Tick::TooOld if self.ending.is_some() => {}
            Tick::TooOld => self.ending = Some(Ending::TooOld(self.doors.sockets.max_age)),
            Tick::Restart => {
                self.ending = Some(Ending::Restart);
                self.lanes.clear_waiting();
            }
        }
    }

    /// Moves everything on by a step; `false` if nothing can move.
    fn advance(&mut self, cx: &mut Context<'_>) -> Result<bool, Ending> {
        let has_written = self.write(cx)?;
        let has_read = self.read(cx)?;
        let has_begun = self.begin_turns();
        Ok(has_written || has_read || has_begun)
    }

    fn write(&mut self, cx: &mut Context<'_>) -> Result<bool, Ending> {
        let mut has_written = false;
        while let Poll::Ready(ready) = Pin::new(&mut self.socket).poll_ready(cx) {
            ready.map_err(|_| Ending::Gone)?;
            let Some(message) = self.next_message(cx) else { break };
            self.is_bloated |= message.len() > SMALL_BYTES;
            Pin::new(&mut self.socket).start_send(message).map_err(|_| Ending::Gone)?;
            self.is_unflushed = true;
            has_written = true;
        }
        Ok(has_written)
    }

    /// What is to be sent next: the turns take turns.
    fn next_message(&mut self, cx: &mut Context<'_>) -> Option<Message> {
        if let Some(message) = self.outbox.pop_front() {
            return Some(message);
        }
        let mut waiting = 0;
        while waiting < self.running.len() {
            let place = self.next % self.running.len();
            match self.running[place].poll_frame(cx) {
                Poll::Ready(Some(frame)) => {
                    self.next = place + 1;
                    waiting = 0;
                    if let Some(message) = text(frame) {
                        return Some(message);
                    }
                }
                Poll::Ready(None) => {
                    let over = self.running.swap_remove(place);
                    self.lanes.release(&over.lane.stream_id);
                }
                Poll::Pending => {
                    self.next = place + 1;
                    waiting += 1;
                }
            }
        }
        None
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Result<bool, Ending> {
        if let Some(parsing) = &mut self.parsing {
            let Poll::Ready(parsed) = parsing.as_mut().poll(cx) else { return Ok(false) };
            self.parsing = None;
            match parsed {
                Ok((parsed, permit)) => self.take(parsed, permit),
                Err(failure) => self.refuse(&failure, None),
            }
            return Ok(true);
        }
        let is_full = !self.lanes.can_wait() || !self.outbox.is_empty() || self.pongs == MAX_PONGS;
        if is_full || self.ending.is_some() {
            return Ok(false);
        }
        match Pin::new(&mut self.socket).poll_next(cx) {
            Poll::Pending => Ok(false),
            Poll::Ready(None) => Err(Ending::Gone),
            Poll::Ready(Some(Err(error))) => Err(Ending::of(error, self.doors.body_limits.max_bytes)),
            Poll::Ready(Some(Ok(message))) => self.receive(message).map(|()| true),
        }
    }

    fn receive(&mut self, message: Message) -> Result<(), Ending> {
        self.is_bloated |= message.len() > SMALL_BYTES;
        match message {
            Message::Text(text) => {
                let (text, permit) = (Bytes::from(text), self.socket.get_mut().take_permit());
                if parsing::is_short(text.len()) {
                    self.take(ClientFrame::parse(text, &|| true), permit);
                } else {
                    let size_bytes = text.len();
                    let read = move |wanted: Wanted<'_>| ClientFrame::parse(text, wanted);
                    self.parsing = Some(Box::pin(parsing::parse(size_bytes, permit, read)));
                }
            }
            Message::Binary(_) => {
                drop(self.socket.get_mut().take_permit());
                self.refuse(&Failure::BinaryMessage, None);
            }
            // Its answer is in the buffer.
            Message::Ping(_) => {
                self.is_unflushed = true;
                self.pongs += 1;
            }
            Message::Close(frame) => return Err(Ending::Closed(frame.map(|frame| frame.code.into()))),
            Message::Pong(_) | Message::Frame(_) => {}
        }
        Ok(())
    }

    fn take(&mut self, parsed: Result<ClientFrame, ApiError>, permit: OwnedSemaphorePermit) {
        match parsed {
            Err(error) => self.refuse(&Failure::Request(error), None),
            Ok(ClientFrame::Other(kind)) => tracing::debug!(frame.type = kind, "a frame was ignored"),
            Ok(ClientFrame::Create(_)) if matches!(self.ending, Some(Ending::Restart)) => {}
            Ok(ClientFrame::Create(frame)) => {
                if let Err(asked) = self.lanes.ask(Asked { frame, permit }) {
                    let failure = Failure::TooManyLanes { max_lanes: MAX_NAMED };
                    self.refuse(&failure, asked.frame.stream_id.as_ref());
                }
            }
        }
    }

    fn refuse(&mut self, failure: &Failure, stream_id: Option<&StreamId>) {
        refused_unread(&self.doors, failure);
        self.outbox.extend(text(refusal::render(failure, stream_id)));
    }

    fn begin_turns(&mut self) -> bool {
        let mut has_begun = false;
        while let Some(asked) = self.lanes.next() {
            let stream_id = asked.frame.stream_id.clone();
            // A socket may outlive the key that has opened it.
            match self.doors.keys.renew(&self.caller) {
                Ok(caller) => self.caller = caller,
                Err(denied) => {
                    self.refuse(&denied.into(), stream_id.as_ref());
                    self.lanes.release(&stream_id);
                    has_begun = true;
                    continue;
                }
            }
            let lane = Lane { stream_id, memory: Arc::clone(&self.memory) };
            self.running.push(Running::begin(&self.doors, &self.headers, &self.caller, lane, asked));
            self.tally.turns += 1;
            has_begun = true;
        }
        has_begun
    }
}

/// The WebSocket over a connection on which nothing is half read or half written.
fn speak(metered: Metered<StallGuard<TcpStream>>, max_bytes: usize) -> Socket {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_message_size(Some(max_bytes))
        .max_frame_size(Some(max_bytes));
    let speaking = WebSocketStream::from_raw_socket(metered, Role::Server, Some(config));
    speaking.now_or_never().expect("there is no handshake to wait for")
}

// === impl Tally ===

impl Tally {
    fn begin(metrics: Arc<SocketMetrics>) -> Self {
        metrics.open.inc();
        Self { metrics, turns: 0, code: super::ending::ABNORMAL }
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.metrics.closed(self.code, self.turns);
        self.metrics.open.dec();
    }
}
