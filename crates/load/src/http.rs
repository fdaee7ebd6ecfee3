//! Turns over one keep-alive HTTP/1.1 connection.

use crate::outcome::{Failure, Success};
use crate::stamp::Stamps;
use crate::target::Target;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use memchr::memmem;
use std::time::Instant;
use tokio::net::TcpStream;

pub(crate) struct HttpConnection {
    sender: SendRequest<Full<Bytes>>,
}

impl HttpConnection {
    pub(crate) async fn open(stream: TcpStream) -> Result<Self, Failure> {
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|_| Failure::Connect)?;
        // It ends with its sender, which also reports its errors.
        tokio::spawn(connection);
        Ok(Self { sender })
    }

    /// `false` if the other side has closed it.
    pub(crate) async fn is_usable(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    /// Runs one turn and reads its reply to the end.
    pub(crate) async fn run(
        &mut self,
        target: &Target,
        body: Bytes,
        is_stream: bool,
    ) -> Result<Success, Failure> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = target.uri.clone();
        *request.headers_mut() = target.headers.clone();
        let started = Instant::now();
        let response = self.sender.send_request(request).await.map_err(|_| Failure::Cut)?;
        let status = response.status();
        let mut body = response.into_body();
        if status != StatusCode::OK {
            drain(&mut body).await?;
            return Err(Failure::Status(status.as_u16()));
        }
        if is_stream {
            read_stream(&mut body, target, started).await
        } else if target.turns > 1 {
            read_collected(&mut body, target).await
        } else {
            drain(&mut body).await.map(|bytes| Success { bytes, ..Success::default() })
        }
    }
}

async fn next_data(body: &mut Incoming) -> Result<Option<Bytes>, Failure> {
    loop {
        match body.frame().await {
            None => return Ok(None),
            Some(Err(_)) => return Err(Failure::Cut),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

async fn drain(body: &mut Incoming) -> Result<u64, Failure> {
    let mut bytes = 0;
    while let Some(data) = next_data(body).await? {
        bytes += data.len() as u64;
    }
    Ok(bytes)
}

async fn read_stream(body: &mut Incoming, target: &Target, started: Instant) -> Result<Success, Failure> {
    let mut first_event = None;
    // With a line end before the first line, every event line is preceded by one.
    let mut stream = vec![b'\n'];
    let mut stamps = Stamps::new(target.delays);
    while let Some(data) = next_data(body).await? {
        first_event.get_or_insert_with(|| started.elapsed());
        stream.extend_from_slice(&data);
        stamps.read(&stream);
    }
    // Text of the model cannot be mistaken for an event, as its line ends are escaped.
    let find = |line: &str| memmem::rfind(&stream, line.as_bytes());
    if let Some(at) = find("\nevent: response.completed") {
        let parent = target.parent(&stream[at..])?;
        return Ok(Success { bytes: stream.len() as u64 - 1, first_event, delays: stamps.delays, parent });
    }
    let ends = ["\nevent: response.failed", "\nevent: response.incomplete", "\nevent: error"];
    Err(if ends.into_iter().any(|line| find(line).is_some()) {
        Failure::NotCompleted
    } else {
        Failure::NoTerminal
    })
}

async fn read_collected(body: &mut Incoming, target: &Target) -> Result<Success, Failure> {
    let mut collected = next_data(body).await?.unwrap_or_default();
    while let Some(data) = next_data(body).await? {
        collected = [collected, data].concat().into();
    }
    let parent = target.parent(&collected)?;
    Ok(Success { bytes: collected.len() as u64, parent, ..Success::default() })
}
