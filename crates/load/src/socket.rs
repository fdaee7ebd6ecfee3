//! Turns over one WebSocket.

use crate::outcome::{Failure, Success};
use crate::reply::LastEvent;
use crate::stamp::Stamps;
use crate::target::Target;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::header::AUTHORIZATION;
use std::time::Instant;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

/// Small, as the library fills it with zeros before every read.
const READ_BUFFER_BYTES: usize = 16 << 10;

pub(crate) struct Socket {
    wire: WebSocketStream<TcpStream>,
}

impl Socket {
    /// A refused handshake fails with its status.
    pub(crate) async fn open(stream: TcpStream, target: &Target) -> Result<Self, Failure> {
        let url = format!("ws://{}{}", target.authority, target.uri);
        let mut request = url.into_client_request().map_err(|_| Failure::Connect)?;
        if let Some(bearer) = target.headers.get(AUTHORIZATION) {
            request.headers_mut().insert(AUTHORIZATION, bearer.clone());
        }
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .max_message_size(None)
            .max_frame_size(None);
        match client_async_with_config(request, stream, Some(config)).await {
            Ok((wire, _)) => Ok(Self { wire }),
            Err(Error::Http(refused)) => Err(Failure::Status(refused.status().as_u16())),
            Err(_) => Err(Failure::Connect),
        }
    }

    /// Runs one turn and reads its events to the last one.
    pub(crate) async fn run(&mut self, target: &Target, message: Bytes) -> Result<Success, Failure> {
        let started = Instant::now();
        let frame = Frame::message(message, OpCode::Data(Data::Text), true);
        self.wire.send(Message::Frame(frame)).await.map_err(|_| Failure::Cut)?;
        let mut first_event = None;
        let mut bytes = 0;
        let mut delays = Vec::new();
        loop {
            let event = self.event().await?;
            first_event.get_or_insert_with(|| started.elapsed());
            bytes += event.len() as u64;
            if target.delays {
                let mut stamps = Stamps::new(true);
                stamps.read(&event);
                delays.append(&mut stamps.delays);
            }
            match LastEvent::parse(&event) {
                None => {}
                Some(LastEvent::Completed) => {
                    return Ok(Success { bytes, first_event, delays, parent: target.parent(&event)? });
                }
                Some(LastEvent::NotCompleted) => return Err(Failure::NotCompleted),
                Some(LastEvent::Refused { status }) => return Err(Failure::Status(status)),
            }
        }
    }

    async fn event(&mut self) -> Result<Bytes, Failure> {
        loop {
            match self.wire.next().await {
                Some(Ok(Message::Text(event))) => return Ok(event.into()),
                // The library replies to pings.
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                _ => return Err(Failure::Cut),
            }
        }
    }
}
