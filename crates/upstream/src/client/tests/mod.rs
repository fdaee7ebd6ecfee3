//! Clients against upstreams that are plain sockets.

mod exchanging;
mod pooling;

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::{Clients, PartsBody, ReplyBody, SendError};
use crate::route::Route;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

struct Upstream {
    listener: TcpListener,
    clients: Clients,
}

type Sending = JoinHandle<Result<Response<ReplyBody>, SendError>>;

impl Upstream {
    async fn start() -> Self {
        Self::with_clients(Clients::new(PATIENCE, 1, || 0)).await
    }

    async fn with_clients(clients: Clients) -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap(), clients }
    }

    fn url(&self) -> String {
        format!("http://{}/v1", self.listener.local_addr().unwrap())
    }

    fn request(&self, body: impl Into<Bytes>) -> Request<PartsBody> {
        let mut request = Request::new(PartsBody::new(vec![body.into()]));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.url().parse().unwrap();
        request
    }

    /// Sends a request. The test replies at the other end of the connection.
    fn send(&self, body: &'static str) -> Sending {
        let (clients, request) = (self.clients.clone(), self.request(body));
        tokio::spawn(async move { clients.send(request, &Route::default()).await })
    }

    async fn accept(&self) -> Peer {
        let accepted = tokio::time::timeout(PATIENCE, self.listener.accept()).await;
        Peer(accepted.expect("no connection").unwrap().0)
    }

    /// A whole exchange over a new connection, which stays open at both ends.
    async fn exchange(&self) -> Peer {
        let sending = self.send("first");
        let mut peer = self.accept().await;
        peer.reply("first", OK).await;
        assert_eq!(read(sending).await, "ok");
        peer
    }
}

/// The upstream's end of a connection.
struct Peer(TcpStream);

impl Peer {
    /// Reads a request that ends in these bytes.
    async fn receive(&mut self, end: &str) -> String {
        let mut request = Vec::new();
        while !request.ends_with(end.as_bytes()) {
            let read = tokio::time::timeout(PATIENCE, self.0.read_buf(&mut request)).await;
            assert!(read.expect("no request").unwrap() > 0, "the connection was closed");
        }
        String::from_utf8(request).unwrap()
    }

    async fn write(&mut self, bytes: &str) {
        self.0.write_all(bytes.as_bytes()).await.unwrap();
    }

    async fn reply(&mut self, end: &str, reply: &str) {
        self.receive(end).await;
        self.write(reply).await;
    }

    /// Waits until the client closes the connection.
    async fn closed(&mut self) {
        let rest = tokio::time::timeout(PATIENCE, self.0.read_to_end(&mut Vec::new())).await;
        rest.expect("the connection stays open").ok();
    }

    async fn is_open(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(50), self.0.read_u8()).await.is_err()
    }
}

async fn read(sending: Sending) -> Bytes {
    sending.await.unwrap().unwrap().into_body().collect().await.unwrap().to_bytes()
}
