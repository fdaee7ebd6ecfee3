//! An HTTP/1.1 connection, driven by the task that waits for its reply.
//!
//! Requests go out one after the other, with a known length. A connection keeps no buffer: what a read yields is decoded at once
//! and handed on.

mod framing;
mod head;
mod request;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::{Request, Response};
use hyper::rt::{Read, ReadBuf};

use self::framing::{BadChunk, Framing};
use self::head::{BadHead, ReplyHead};
use self::request::Unwritten;
use super::connect::{Stream, wire_log};
use super::parts::PartsBody;
use super::wire::WireLog;

/// At most this much is handed on together.
const READ_BYTES: usize = 64 * 1024;
const MAX_HEAD_BYTES: usize = 64 * 1024;

thread_local! {
    /// What a read yields, until it is decoded.
    static READ_BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// Dropping it closes the connection.
pub struct Http1 {
    stream: Stream,
    log: Arc<WireLog>,
    /// `None` once the request has been written.
    unwritten: Option<Unwritten>,
    /// The beginning of the reply's head.
    head: BytesMut,
    framing: Framing,
    /// Data that arrived with the head.
    data: Bytes,
    keeps_alive: bool,
    /// The upstream did not take the whole request.
    is_cut: bool,
}

/// Why there is no reply.
pub struct NoReply {
    pub error: Broken,
    /// Nothing of the request was written, so the upstream can't have carried it out.
    pub is_unsent: bool,
}

/// Why a connection can't be used any more.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the upstream closed it before the end of the reply")]
    Closed,
    #[error(transparent)]
    Head(#[from] BadHead),
    #[error("the reply's head is too large")]
    HeadTooLarge,
    #[error(transparent)]
    Chunk(#[from] BadChunk),
}

// === impl Http1 ===

impl Http1 {
    pub fn new(stream: Stream) -> Self {
        let log = Arc::clone(wire_log(&stream));
        Self {
            stream,
            log,
            unwritten: None,
            head: BytesMut::new(),
            framing: Framing::Length(0),
            data: Bytes::new(),
            keeps_alive: true,
            is_cut: false,
        }
    }

    /// Sends a request and waits for the head of its reply.
    pub async fn send(&mut self, request: Request<PartsBody>) -> Result<Response<()>, NoReply> {
        self.log.begin_request();
        self.unwritten = Some(Unwritten::new(request));
        let reply = poll_fn(|cx| self.poll_reply(cx)).await;
        reply.map_err(|error| NoReply { error, is_unsent: !self.log.has_written() })
    }

    fn poll_reply(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<()>, Broken>> {
        // Before writing, because the upstream may have closed the connection, or have replied before the whole request.
        if let Poll::Ready(reply) = self.poll_head(cx) {
            return Poll::Ready(reply);
        }
        if let Poll::Ready(Err(error)) = self.poll_write(cx) {
            tracing::debug!(%error, "the upstream takes no more of the request");
            // What was written may have been refused. The reply that says so has arrived, or arrives before the end.
            (self.unwritten, self.is_cut) = (None, true);
            return self.poll_head(cx);
        }
        Poll::Pending
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(unwritten) = &mut self.unwritten {
            ready!(unwritten.poll_write(&mut self.stream, cx))?;
            self.unwritten = None;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<()>, Broken>> {
        READ_BUFFER.with_borrow_mut(|buffer| {
            loop {
                let arrived = ready!(poll_read(&mut self.stream, cx, buffer))?;
                if arrived.is_empty() {
                    return Poll::Ready(Err(Broken::Closed));
                }
                // A head that arrives in small parts is parsed once, not with every part.
                let seen = self.head.len().saturating_sub(2);
                self.head.extend_from_slice(arrived);
                if head::has_empty_line(&self.head[seen..])
                    && let Some(reply) = self.parse_head()?
                {
                    return Poll::Ready(Ok(reply));
                }
                if self.head.len() > MAX_HEAD_BYTES {
                    return Poll::Ready(Err(Broken::HeadTooLarge));
                }
            }
        })
    }

    fn parse_head(&mut self) -> Result<Option<Response<()>>, Broken> {
        while let Some(ReplyHead { reply, len, framing, keeps_alive }) = head::parse(&self.head)? {
            self.head.advance(len);
            if reply.status().is_informational() {
                continue;
            }
            (self.framing, self.keeps_alive) = (framing, keeps_alive);
            let rest = std::mem::take(&mut self.head);
            self.data = self.decode(&rest)?;
            return Ok(Some(reply));
        }
        Ok(None)
    }

    /// The data in what has arrived. Nothing may follow the end of the body.
    fn decode(&mut self, arrived: &[u8]) -> Result<Bytes, BadChunk> {
        let mut data = BytesMut::with_capacity(arrived.len());
        let taken = self.framing.decode(arrived, &mut data)?;
        if taken < arrived.len() {
            self.keeps_alive = false;
        }
        Ok(data.freeze())
    }

    /// Waits for more of the reply's body, and yields all that has arrived.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        if self.unwritten.is_some()
            && let Poll::Ready(Err(_)) = self.poll_write(cx)
        {
            // The upstream has replied without the rest of the request.
            (self.unwritten, self.is_cut) = (None, true);
        }
        if !self.data.is_empty() {
            return Poll::Ready(Some(Ok(std::mem::take(&mut self.data))));
        }
        READ_BUFFER.with_borrow_mut(|buffer| {
            while !self.framing.is_at_end() {
                let arrived = ready!(poll_read(&mut self.stream, cx, buffer));
                let data = match arrived {
                    Ok([]) if self.framing == Framing::UntilClose => break,
                    Ok([]) => Err(Broken::Closed),
                    Ok(arrived) => self.decode(arrived).map_err(Broken::from),
                    Err(error) => Err(error.into()),
                };
                if data.as_ref().map_or(true, |data| !data.is_empty()) {
                    return Poll::Ready(Some(data));
                }
            }
            Poll::Ready(None)
        })
    }

    /// Whether the body has ended, and all of it was handed on.
    pub fn is_at_end(&self) -> bool {
        self.data.is_empty() && self.framing.is_at_end()
    }

    /// Detaches the connection from the task that drove it. `false` if it can't be used any more.
    pub fn detach(&mut self) -> bool {
        let is_idle = self.is_at_end() && self.unwritten.is_none() && self.keeps_alive && !self.is_cut;
        // Nothing is to arrive while there is no request.
        let mut no_task = Context::from_waker(Waker::noop());
        is_idle && poll_read(&mut self.stream, &mut no_task, &mut [0; 1]).is_pending()
    }

    /// Looks at the socket. `false` if the peer has closed it, or has sent something without a request.
    pub fn is_alive(&mut self) -> bool {
        self.probe();
        self.detach()
    }

    pub fn probe(&self) {
        self.log.probe();
    }
}

/// What has arrived; nothing at the end of the stream.
fn poll_read<'a>(
    stream: &mut Stream,
    cx: &mut Context<'_>,
    buffer: &'a mut [u8],
) -> Poll<io::Result<&'a [u8]>> {
    let mut read = ReadBuf::new(buffer);
    ready!(Pin::new(stream).poll_read(cx, read.unfilled()))?;
    let count = read.filled().len();
    Poll::Ready(Ok(&buffer[..count]))
}
