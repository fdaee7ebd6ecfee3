//! One open WebSocket: a single task reads frames, runs the turns and writes their events.
//!
//! Turns yield events only while the client reads them, in round-robin order. A client that does not read slows its
//! upstreams, and at most [`WRITE_BUFFER_BYTES`] and one event are buffered for it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use antiphon_protocol::error::ApiError;
use antiphon_protocol::request::Wanted;
use antiphon_protocol::socket::{ClientFrame, StreamId};
use antiphon_runtime::offload::is_short;
use bytes::Bytes;
use futures_util::{FutureExt, Sink, Stream};
use http::HeaderMap;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::close::{CloseReason, close_gracefully, text_message};
use super::lanes::{Lanes, MAX_NAMED_LANES, QueuedFrame};
use super::metered::Metered;
use super::metrics::SocketMetrics;
use super::timers::{SocketTimers, Tick};
use super::turn::SocketTurn;
use crate::body_memory::{Reservation, Share};
use crate::http::app_state::AppState;
use crate::http::error::RequestError;
use crate::http::error_reply::ErrorReply;
use crate::http::parsing;
use crate::http::stall::ClientStream;
use crate::turn::{Lane, LaneMemory};
use antiphon_access::keys::Caller;

/// The size of the read buffer, which an idle socket keeps.
const READ_BUFFER_BYTES: usize = 4 * 1024;
/// Events are written together up to this size. At most this and one event wait for a client that does not read.
const WRITE_BUFFER_BYTES: usize = 16 * 1024;
/// How many pongs may wait in the buffer; then reading stops until the client has read them.
const MAX_PONGS: u32 = 16;
/// After a message larger than this, an idle socket shrinks its buffers.
const SHRINK_THRESHOLD_BYTES: usize = 4 * 1024;

pub type Socket = WebSocketStream<Metered<ClientStream>>;
type Parsed = Result<(Result<ClientFrame, ApiError>, Reservation), RequestError>;

pub struct Connection {
    socket: Socket,
    state: AppState,
    headers: HeaderMap,
    caller: Caller,
    memory: Arc<LaneMemory>,
    lanes: Lanes,
    running: Vec<SocketTurn>,
    /// The index of the turn that may send the next event.
    next_turn: usize,
    /// Messages that belong to no running turn.
    outbox: VecDeque<Message>,
    parsing: Option<Pin<Box<dyn Future<Output = Parsed> + Send>>>,
    /// Whether the write buffer may contain unsent bytes.
    is_unflushed: bool,
    /// How many pongs are in the write buffer.
    pending_pongs: u32,
    /// For an input that is returned, until the client has read it. Nothing more is read before.
    returned_input: Option<Reservation>,
    /// Whether buffers may be larger than an idle socket should keep.
    has_large_buffers: bool,
    /// Set when the connection is to be closed: nothing more is read, and running turns finish.
    close_reason: Option<CloseReason>,
    timers: SocketTimers,
    metrics_guard: SocketMetricsGuard,
}

/// Counts an open socket, and on drop the closed one, however it ended.
struct SocketMetricsGuard {
    metrics: Arc<SocketMetrics>,
    turns: u64,
    code: u16,
}

enum Step {
    /// No turn is running: the buffers can shrink.
    ShrinkBuffers,
    Close(CloseReason),
}

impl Connection {
    pub fn open(
        stream: ClientStream,
        early: Bytes,
        state: AppState,
        headers: HeaderMap,
        caller: Caller,
        share: &Arc<Share>,
    ) -> Box<Self> {
        let metrics = &state.socket_metrics;
        let metered = Metered::new(stream, early, Arc::clone(&state.body_limits), share);
        Box::new(Self {
            socket: websocket(metered, state.body_limits.max_bytes),
            memory: LaneMemory::new(Arc::clone(&state.sockets.memory)),
            lanes: Lanes::new(Arc::clone(metrics)),
            running: Vec::new(),
            next_turn: 0,
            outbox: VecDeque::new(),
            parsing: None,
            is_unflushed: false,
            pending_pongs: 0,
            returned_input: None,
            has_large_buffers: false,
            close_reason: None,
            timers: SocketTimers::new(&state),
            metrics_guard: SocketMetricsGuard::begin(Arc::clone(metrics)),
            state,
            headers,
            caller,
        })
    }

    /// Serves the socket until it is closed. Boxed, as there are thousands of sockets, and a future may hold its arguments twice.
    pub async fn run(mut self: Box<Self>) {
        let close_reason = loop {
            match poll_fn(|cx| self.poll_step(cx)).await {
                Step::Close(close_reason) => break close_reason,
                Step::ShrinkBuffers => {
                    self.has_large_buffers = false;
                    self.socket = websocket(self.socket.into_inner(), self.state.body_limits.max_bytes);
                }
            }
        };
        if let CloseReason::MessageRejected(error) = &close_reason {
            self.state.reject("frame", error);
        }
        self.metrics_guard.code = close_reason.code();
        tracing::debug!(
            close.code = self.metrics_guard.code,
            turns = self.metrics_guard.turns,
            "WebSocket closed"
        );
        // Turns that still run have lost their client.
        self.running.clear();
        close_gracefully(&mut self.socket, &close_reason).await;
    }

    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        while let Poll::Ready(tick) = self.timers.poll_tick(cx) {
            self.tick(tick);
        }
        loop {
            match self.advance(cx) {
                Ok(true) => {}
                Ok(false) => break,
                Err(close_reason) => return Poll::Ready(Step::Close(close_reason)),
            }
        }
        if self.is_unflushed {
            match Pin::new(&mut self.socket).poll_flush(cx) {
                Poll::Ready(Ok(())) => {
                    self.is_unflushed = false;
                    let had_returned = self.outbox.is_empty() && self.returned_input.take().is_some();
                    if std::mem::take(&mut self.pending_pongs) == MAX_PONGS || had_returned {
                        cx.waker().wake_by_ref();
                    }
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Step::Close(CloseReason::ConnectionLost)),
                Poll::Pending => return Poll::Pending,
            }
        }
        if !self.lanes.is_idle() || self.parsing.is_some() {
            return Poll::Pending;
        }
        match self.close_reason.take() {
            Some(close_reason) => Poll::Ready(Step::Close(close_reason)),
            None if self.has_large_buffers && self.socket.get_ref().is_between_messages() => {
                Poll::Ready(Step::ShrinkBuffers)
            }
            None => Poll::Pending,
        }
    }

    fn tick(&mut self, tick: Tick) {
        match tick {
            // No second ping for a client that does not read.
            Tick::Ping if self.outbox.is_empty() => self.outbox.push_back(Message::Ping(Bytes::new())),
            Tick::Ping => {}
            Tick::MaxAge if self.close_reason.is_some() => {}
            Tick::MaxAge => self.close_reason = Some(CloseReason::MaxAge(self.state.sockets.max_age)),
            Tick::Shutdown => {
                self.close_reason = Some(CloseReason::Shutdown);
                self.lanes.clear_queue();
            }
        }
    }

    /// Writes, reads and starts turns as far as possible; `false` if nothing was possible.
    fn advance(&mut self, cx: &mut Context<'_>) -> Result<bool, CloseReason> {
        let has_written = self.write(cx)?;
        let has_read = self.read(cx)?;
        let has_begun = self.start_turns();
        Ok(has_written || has_read || has_begun)
    }

    fn write(&mut self, cx: &mut Context<'_>) -> Result<bool, CloseReason> {
        let mut has_written = false;
        while let Poll::Ready(ready) = Pin::new(&mut self.socket).poll_ready(cx) {
            ready.map_err(|_| CloseReason::ConnectionLost)?;
            let Some(message) = self.next_message(cx) else { break };
            self.has_large_buffers |= message.len() > SHRINK_THRESHOLD_BYTES;
            Pin::new(&mut self.socket).start_send(message).map_err(|_| CloseReason::ConnectionLost)?;
            self.is_unflushed = true;
            has_written = true;
        }
        Ok(has_written)
    }

    /// The next message to send, from the turns in round-robin order.
    fn next_message(&mut self, cx: &mut Context<'_>) -> Option<Message> {
        if let Some(message) = self.outbox.pop_front() {
            return Some(message);
        }
        let mut waiting = 0;
        while waiting < self.running.len() {
            let index = self.next_turn % self.running.len();
            match self.running[index].poll_frame(cx) {
                Poll::Ready(Some(frame)) => {
                    self.next_turn = index + 1;
                    return Some(text_message(&frame));
                }
                Poll::Ready(None) => {
                    let finished = self.running.swap_remove(index);
                    self.lanes.release(&finished.lane.stream_id);
                }
                Poll::Pending => {
                    self.next_turn = index + 1;
                    waiting += 1;
                }
            }
        }
        None
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Result<bool, CloseReason> {
        if let Some(parsing) = &mut self.parsing {
            let Poll::Ready(parsed) = parsing.as_mut().poll(cx) else { return Ok(false) };
            self.parsing = None;
            match parsed {
                Ok((parsed, memory)) => self.handle_frame(parsed.map_err(RequestError::from), memory),
                Err(error) => self.send_error(&error, None),
            }
            return Ok(true);
        }
        let is_full = !self.lanes.has_queue_room()
            || !self.outbox.is_empty()
            || self.returned_input.is_some()
            || self.pending_pongs == MAX_PONGS;
        if is_full || self.close_reason.is_some() {
            return Ok(false);
        }
        match Pin::new(&mut self.socket).poll_next(cx) {
            Poll::Pending => Ok(false),
            Poll::Ready(None) => Err(CloseReason::ConnectionLost),
            Poll::Ready(Some(Err(error))) => {
                Err(CloseReason::from_error(error, self.state.body_limits.max_bytes))
            }
            Poll::Ready(Some(Ok(message))) => self.receive(message).map(|()| true),
        }
    }

    fn receive(&mut self, message: Message) -> Result<(), CloseReason> {
        self.has_large_buffers |= message.len() > SHRINK_THRESHOLD_BYTES;
        match message {
            Message::Text(text) => {
                let (text, memory) = (Bytes::from(text), self.socket.get_mut().take_memory());
                if is_short(text.len()) {
                    let parsed = ClientFrame::parse(text, &|| true);
                    self.handle_frame(parsed.map_err(RequestError::from), memory);
                } else {
                    let size_bytes = text.len();
                    let read = move |wanted: Wanted<'_>| ClientFrame::parse(text, wanted);
                    self.parsing = Some(Box::pin(parsing::parse(size_bytes, memory, read)));
                }
            }
            Message::Binary(_) => {
                drop(self.socket.get_mut().take_memory());
                self.send_error(&RequestError::BinaryMessage, None);
            }
            // The pong is in the write buffer already.
            Message::Ping(_) => {
                self.is_unflushed = true;
                self.pending_pongs += 1;
            }
            Message::Close(frame) => return Err(CloseReason::Closed(frame.map(|frame| frame.code.into()))),
            Message::Pong(_) | Message::Frame(_) => {}
        }
        Ok(())
    }

    fn handle_frame(&mut self, parsed: Result<ClientFrame, RequestError>, memory: Reservation) {
        match parsed {
            Err(error) => self.send_error(&error, None),
            Ok(ClientFrame::Steer(failed)) => {
                self.outbox.push_back(text_message(&failed.into()));
                self.returned_input = Some(memory);
            }
            Ok(ClientFrame::Other(kind)) => {
                tracing::debug!(frame.type = kind, "ignored a frame of unknown type");
            }
            Ok(ClientFrame::Create(_)) if matches!(self.close_reason, Some(CloseReason::Shutdown)) => {}
            Ok(ClientFrame::Create(frame)) => {
                if let Err(queued) = self.lanes.enqueue(QueuedFrame { frame, memory }) {
                    let error = RequestError::TooManyLanes { max_lanes: MAX_NAMED_LANES };
                    self.send_error(&error, queued.frame.stream_id.as_ref());
                }
            }
        }
    }

    fn send_error(&mut self, error: &RequestError, stream_id: Option<&StreamId>) {
        let error = ErrorReply::from(self.state.reject("frame", error));
        self.outbox.push_back(text_message(&error.frame(stream_id)));
    }

    fn start_turns(&mut self) -> bool {
        let mut has_begun = false;
        while let Some(queued) = self.lanes.start_next() {
            let stream_id = queued.frame.stream_id.clone();
            // A socket may outlive the key that opened it.
            match self.state.keys.reauthenticate(&self.caller) {
                Ok(caller) => self.caller = caller,
                Err(denied) => {
                    self.send_error(&denied.into(), stream_id.as_ref());
                    self.lanes.release(&stream_id);
                    has_begun = true;
                    continue;
                }
            }
            let lane = Lane { stream_id, memory: Arc::clone(&self.memory) };
            self.running.push(SocketTurn::begin(&self.state, &self.headers, &self.caller, lane, queued));
            self.metrics_guard.turns += 1;
            has_begun = true;
        }
        has_begun
    }
}

/// The WebSocket over a connection on which no frame is partly read or written.
fn websocket(metered: Metered<ClientStream>, max_bytes: usize) -> Socket {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_message_size(Some(max_bytes))
        .max_frame_size(Some(max_bytes));
    let handshake = WebSocketStream::from_raw_socket(metered, Role::Server, Some(config));
    handshake.now_or_never().expect("no handshake takes place")
}

// === impl SocketMetricsGuard ===

impl SocketMetricsGuard {
    fn begin(metrics: Arc<SocketMetrics>) -> Self {
        metrics.open.inc();
        Self { metrics, turns: 0, code: super::close::CLOSE_ABNORMAL }
    }
}

impl Drop for SocketMetricsGuard {
    fn drop(&mut self) {
        self.metrics.closed(self.code, self.turns);
        self.metrics.open.dec();
    }
}
