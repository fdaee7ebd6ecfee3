//! HTTP/2 connections. Many requests share one, and a task drives each.

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::rt::Executor;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::connect::Stream;
use super::http1::NoReply;
use super::parts::PartsBody;

/// The connection ends when its clones are dropped and all replies have ended.
#[derive(Clone)]
pub struct Http2(SendRequest<PartsBody>);

// === impl Http2 ===

impl Http2 {
    pub async fn open(stream: Stream) -> Result<Self, hyper::Error> {
        let executor = TokioExecutor::new();
        let handshake = Builder::new(executor.clone()).timer(TokioTimer::new()).handshake(stream);
        let (mut sender, connection) = handshake.await?;
        executor.execute(async {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "an HTTP/2 connection ended");
            }
        });
        sender.ready().await?;
        Ok(Self(sender))
    }

    pub fn is_alive(&self) -> bool {
        !self.0.is_closed()
    }

    pub async fn send(&mut self, request: Request<PartsBody>) -> Result<Response<Incoming>, NoReply> {
        let reply = self.0.try_send_request(request).await;
        reply.map_err(|error| NoReply { is_unsent: error.message().is_some(), error: error.into_error() })
    }
}
