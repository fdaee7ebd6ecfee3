//! An open socket: messages in, events out, and the end.

use super::frame::{self, ClientMessage, Lane};
use super::handshake::Accepted;
use super::lane::{self, AT_ONCE, Out, Socket, Turn};
use super::record::SocketEnd;
use crate::upstream::exchange::Shared;
use crate::upstream::refusal::Refusal;
use crate::upstream::script::{Close, Stop};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{SinkExt, StreamExt};
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto::upgrade::{Parts, downcast};
use std::collections::HashMap;
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc::{Receiver, UnboundedSender, channel, unbounded_channel};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

/// The maximum number of named lanes of a socket.
const LANES: usize = 32;
/// The largest message, in any number of frames.
const LONGEST_MESSAGE: usize = 64 << 20;
/// Small, as there may be many sockets, and most are idle.
const READ_BUFFER: usize = 8 << 10;
/// How long a client may take to disconnect after a close frame.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

struct Connection {
    wire: WebSocketStream<TcpStream>,
    socket: Arc<Socket>,
    lanes: HashMap<Lane, UnboundedSender<Turn>>,
    playing: FuturesUnordered<BoxFuture<'static, ()>>,
    outs: Receiver<Out>,
    closing: watch::Receiver<Option<Close>>,
    /// Running turns.
    running: usize,
    /// When and how an idle socket is closed.
    idle: Option<(Instant, Close)>,
    /// The code of the client's close frame, once received.
    told: Option<Option<u16>>,
}

impl Accepted {
    /// Serves the socket until it ends. Called in the connection's task after the upgrade.
    pub(in crate::upstream) async fn run(self, shared: Arc<Shared>) {
        let Ok(upgraded) = self.upgrade.await else { return };
        let Ok(Parts { io, read_buf, .. }) = downcast::<TokioIo<TcpStream>>(upgraded) else { return };
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .max_message_size(Some(LONGEST_MESSAGE))
            .max_frame_size(Some(LONGEST_MESSAGE));
        let wire = WebSocketStream::from_partially_read(
            io.into_inner(),
            read_buf.into(),
            Role::Server,
            Some(config),
        )
        .await;
        // One message is queued while another is written, so that a client that does not read slows the turns down.
        let (out, outs) = channel(1);
        let socket = Arc::new(Socket {
            shared,
            open: self.open,
            handshake: self.handshake,
            recent: Mutex::default(),
            permits: Semaphore::new(AT_ONCE),
            out,
        });
        let delivery = self.script.delivery;
        let connection = Connection {
            wire,
            socket,
            lanes: HashMap::new(),
            playing: FuturesUnordered::new(),
            outs,
            closing: self.closing,
            running: 0,
            idle: delivery.afterwards.map(|(time, close)| (Instant::now() + time, close)),
            told: None,
        };
        match delivery.stop {
            Some(Stop::Close { events: 0, close }) => connection.end(SocketEnd::Here(close)).await,
            _ => connection.serve().await,
        }
    }
}

impl Connection {
    async fn serve(mut self) {
        let end = loop {
            let ended = tokio::select! {
                message = self.wire.next() => match message {
                    Some(Ok(message)) => self.receive(message).await,
                    Some(Err(_)) | None => Some(self.told.map_or(SocketEnd::Gone, SocketEnd::Closed)),
                },
                Some(out) = self.outs.recv() => self.write(out).await,
                Ok(()) = self.closing.changed() => self.closing.borrow().map(SocketEnd::Here),
                close = elapsed(self.idle) => Some(SocketEnd::Here(close)),
                Some(()) = self.playing.next() => None,
            };
            if let Some(end) = ended {
                break end;
            }
        };
        self.end(end).await;
    }

    async fn receive(&mut self, message: Message) -> Option<SocketEnd> {
        match message {
            Message::Text(text) => return self.read(text.into()).await,
            Message::Binary(bytes) => {
                let refusal = Refusal::invalid(String::from("Only text messages are supported."));
                return self.refuse(bytes, &refusal, &None).await;
            }
            Message::Ping(_) => self.socket.open.change(|socket| socket.pings += 1),
            Message::Close(frame) => self.told = Some(frame.map(|frame| frame.code.into())),
            Message::Pong(_) | Message::Frame(_) => (),
        }
        None
    }

    async fn read(&mut self, text: Bytes) -> Option<SocketEnd> {
        self.idle = None;
        self.socket.open.change(|socket| socket.keep(text.clone()));
        match frame::read(&text) {
            Ok(ClientMessage::Processed) => None,
            Ok(ClientMessage::Create { lane, request }) => match self.lane(&lane) {
                Some(turns) => {
                    let in_flight = self.socket.enter(text);
                    // The lane receives as long as the socket is open.
                    drop(turns.send(Turn { lane, request, in_flight }));
                    self.running += 1;
                    None
                }
                None => self.refuse(text, &too_many_lanes(), &lane).await,
            },
            Err(refusal) => self.refuse(text, &refusal, &None).await,
        }
    }

    /// The queue of this lane; `None` if there would be too many lanes.
    fn lane(&mut self, lane: &Lane) -> Option<UnboundedSender<Turn>> {
        if let Some(turns) = self.lanes.get(lane) {
            return Some(turns.clone());
        }
        let named = self.lanes.keys().flatten().count();
        if lane.is_some() && named == LANES {
            return None;
        }
        let (turns, queue) = unbounded_channel();
        self.playing.push(Box::pin(lane::run(Arc::clone(&self.socket), queue)));
        self.lanes.insert(lane.clone(), turns.clone());
        Some(turns)
    }

    async fn refuse(&mut self, message: Bytes, refusal: &Refusal, lane: &Lane) -> Option<SocketEnd> {
        let mut in_flight = self.socket.enter(message);
        let sent = self.wire.send(text(frame::refused(refusal, lane))).await;
        in_flight.finish();
        self.ended(sent)
    }

    async fn write(&mut self, out: Out) -> Option<SocketEnd> {
        match out {
            Out::Messages(messages) => {
                for message in messages {
                    if let Err(error) = self.wire.feed(text(message)).await {
                        return self.ended(Err(error));
                    }
                }
                let sent = self.wire.flush().await;
                self.ended(sent)
            }
            Out::Half(message) => {
                let sent = self.wire.get_mut().write_all(&half(message)).await;
                self.ended(sent.map_err(Error::from))
            }
            Out::Over(mut in_flight, afterwards) => {
                in_flight.finish();
                self.running -= 1;
                let afterwards = afterwards.filter(|_| self.running == 0);
                self.idle = afterwards.map(|(time, close)| (Instant::now() + time, close));
                None
            }
            Out::Close(mut in_flight, close) => {
                in_flight.finish();
                Some(SocketEnd::Here(close))
            }
        }
    }

    /// A failed write means that the client has gone.
    fn ended(&self, sent: Result<(), Error>) -> Option<SocketEnd> {
        sent.err().map(|_| self.told.map_or(SocketEnd::Gone, SocketEnd::Closed))
    }

    async fn end(mut self, end: SocketEnd) {
        self.playing.clear();
        self.socket.open.change(|socket| socket.end = Some(end));
        let SocketEnd::Here(close) = end else { return };
        // Failures do not matter here: the connection ends with this function.
        match close {
            Close::Reset => drop(self.wire.get_ref().set_zero_linger()),
            Close::Fin => {
                drop(self.wire.get_mut().shutdown().await);
                self.drain().await;
            }
            Close::Code(code) => {
                let frame = CloseFrame { code: code.into(), reason: "".into() };
                drop(self.wire.close(Some(frame)).await);
                self.drain().await;
            }
        }
    }

    /// Reads until the client closes too: closing with unread bytes would reset TCP.
    async fn drain(&mut self) {
        let drained = async { while let Some(Ok(_)) = self.wire.next().await {} };
        drop(tokio::time::timeout(CLOSE_PATIENCE, drained).await);
    }
}

async fn elapsed(idle: Option<(Instant, Close)>) -> Close {
    match idle {
        Some((at, close)) => {
            tokio::time::sleep_until(at).await;
            close
        }
        None => pending().await,
    }
}

/// Not checked for UTF-8, as a script may send invalid text.
fn text(message: Bytes) -> Message {
    Message::Frame(Frame::message(message, OpCode::Data(Data::Text), true))
}

/// A frame that lacks the second half of its message.
fn half(message: Bytes) -> Vec<u8> {
    let missing = message.len().div_ceil(2);
    let mut frame = Vec::new();
    // Writing to memory does not fail.
    drop(Frame::message(message, OpCode::Data(Data::Text), true).format(&mut frame));
    frame.truncate(frame.len() - missing);
    frame
}

fn too_many_lanes() -> Refusal {
    let message = "This WebSocket connection has reached its maximum number of distinct stream IDs (32). Reuse an \
                   existing stream_id or open a new WebSocket connection.";
    Refusal::invalid(message.to_owned()).param("stream_id").code("websocket_stream_limit_reached")
}
