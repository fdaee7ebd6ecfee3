//! An HTTP/1.1 connection, driven by the task that waits for its reply.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, Connection, SendRequest};

use super::connect::{Stream, wire_log};
use super::driver::Driver;
use super::parts::PartsBody;
use super::wire::WireLog;

/// Limits reading ahead, a single write, and the head of a reply.
const MAX_BUFFER_BYTES: usize = 64 * 1024;

/// Dropping it closes the connection.
pub struct Http1 {
    sender: SendRequest<PartsBody>,
    /// `None` once it has ended.
    connection: Option<Connection<Stream, PartsBody>>,
    log: Arc<WireLog>,
    driver: Driver,
}

/// Why there is no reply.
pub struct NoReply {
    pub error: hyper::Error,
    /// Nothing of the request was written, so the upstream can't have carried it out.
    pub is_unsent: bool,
}

// === impl Http1 ===

impl Http1 {
    pub async fn open(stream: Stream) -> Result<Self, hyper::Error> {
        let log = Arc::clone(wire_log(&stream));
        let (sender, connection) =
            Builder::new().max_buf_size(MAX_BUFFER_BYTES).handshake::<_, PartsBody>(stream).await?;
        Ok(Self { sender, connection: Some(connection), log, driver: Driver::new() })
    }

    /// Sends a request and waits for the head of its reply.
    pub async fn send(&mut self, request: Request<PartsBody>) -> Result<Response<Incoming>, NoReply> {
        self.log.begin_request();
        let mut reply = pin!(self.sender.try_send_request(request));
        let reply = poll_fn(|cx| self.drive(cx, |cx| reply.as_mut().poll(cx))).await;
        reply.map_err(|error| NoReply { error: error.into_error(), is_unsent: !self.log.has_written() })
    }

    pub fn poll_frame(
        &mut self,
        body: &mut Incoming,
        cx: &Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.drive(cx, |cx| Pin::new(&mut *body).poll_frame(cx))
    }

    /// Drives the connection until there is an outcome.
    fn drive<T>(
        &mut self,
        cx: &Context<'_>,
        mut outcome: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let Self { connection, driver, .. } = self;
        driver.drive(cx, |cx| {
            if let Poll::Ready(outcome) = outcome(cx) {
                return Poll::Ready(outcome);
            }
            if let Some(running) = connection
                && Pin::new(running).poll(cx).is_ready()
            {
                // Polling the outcome again yields the reason.
                *connection = None;
            }
            outcome(cx)
        })
    }

    /// Whether the last exchange has ended and another one can begin.
    pub fn is_idle(&self) -> bool {
        self.connection.is_some() && self.sender.is_ready()
    }

    /// Detaches the connection from the task that drove it. `false` if it can't be used any more.
    pub fn detach(&mut self) -> bool {
        let Some(connection) = &mut self.connection else { return false };
        self.driver.drive_detached(|cx| Pin::new(connection).poll(cx)).is_pending() && self.is_idle()
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
