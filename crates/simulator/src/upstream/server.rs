//! The accept loop. Connections end with it.

use super::body::{Cut, ReplyBody};
use super::exchange::Shared;
use super::received::lock;
use super::socket::{self, Accepted};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// An accept that fails (too many open files) is not tried again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Serves until cancelled, then aborts whatever is still running.
pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, Arc::clone(&shared)));
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
            Some(_) = connections.join_next() => (),
        }
    }
    drop(listener);
    connections.shutdown().await;
}

async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    // A peer without it waits for the delayed acknowledgement, 40 ms a stream. A socket keeps it.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let connection = Arc::new(Connection { shared, accepted: Mutex::default() });
    let service = {
        let connection = Arc::clone(&connection);
        service_fn(move |request| {
            let connection = Arc::clone(&connection);
            async move { connection.answer(request).await }
        })
    };
    let builder = Builder::new(TokioExecutor::new());
    // It fails when the client goes away or a script cuts it; both are counted where they happen.
    drop(builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await);
    let accepted = lock(&connection.accepted).take();
    if let Some(accepted) = accepted {
        accepted.run(Arc::clone(&connection.shared)).await;
    }
}

struct Connection {
    shared: Arc<Shared>,
    /// The socket that the connection becomes once HTTP is over.
    accepted: Mutex<Option<Accepted>>,
}

impl Connection {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<ReplyBody>, Cut> {
        if !socket::asks(&request) {
            return self.shared.answer(request).await;
        }
        let (response, accepted) = socket::open(&self.shared, request).await?;
        *lock(&self.accepted) = accepted;
        Ok(response)
    }
}
