//! An HTTP/1.1 connection that is driven by whoever waits for what comes over it.

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

/// Bounds what is read ahead, what is written at once, and the head of a reply.
const MAX_BUFFER_BYTES: usize = 64 * 1024;

/// Dropping it closes the connection.
pub struct Http1 {
    sender: SendRequest<PartsBody>,
    /// `None` once it is over.
    connection: Option<Connection<Stream, PartsBody>>,
    log: Arc<WireLog>,
    driver: Driver,
}

/// Why there is no reply.
pub struct Unanswered {
    pub error: hyper::Error,
    /// Nothing of the request was written: it can't have been carried out.
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
    pub async fn send(&mut self, request: Request<PartsBody>) -> Result<Response<Incoming>, Unanswered> {
        self.log.begin_request();
        let mut reply = pin!(self.sender.try_send_request(request));
        let reply = poll_fn(|cx| self.drive(cx, |cx| reply.as_mut().poll(cx))).await;
        reply.map_err(|error| Unanswered { error: error.into_error(), is_unsent: !self.log.has_written() })
    }

    pub fn poll_frame(
        &mut self,
        body: &mut Incoming,
        cx: &Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.drive(cx, |cx| Pin::new(&mut *body).poll_frame(cx))
    }

    /// Moves the connection on until there is an outcome.
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
                // Whoever waits for something of it learns the reason now.
                *connection = None;
            }
            outcome(cx)
        })
    }

    /// Whether the last exchange is over and another one may begin.
    pub fn is_idle(&self) -> bool {
        self.connection.is_some() && self.sender.is_ready()
    }

    /// Lets go of the task that drove it. `false` if the connection can't be used any more.
    pub fn rest(&mut self) -> bool {
        let Some(connection) = &mut self.connection else { return false };
        self.driver.drive_alone(|cx| Pin::new(connection).poll(cx)).is_pending() && self.is_idle()
    }

    /// Looks at the socket: `false` if the peer has closed it or sent what nobody asked for.
    pub fn is_alive(&mut self) -> bool {
        self.probe();
        self.rest()
    }

    pub fn probe(&self) {
        self.log.probe();
    }
}
