//! The accept loop, which also ends all connections.

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

/// The pause after an accept that failed, for example because of too many open files.
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
    // Without it, a stream waits 40 ms for the peer's delayed acknowledgement. An upgraded socket inherits it.
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
    // It fails when the client disconnects or a script cuts it; both are counted elsewhere.
    drop(builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await);
    let accepted = lock(&connection.accepted).take();
    if let Some(accepted) = accepted {
        accepted.run(Arc::clone(&connection.shared)).await;
    }
}

struct Connection {
    shared: Arc<Shared>,
    /// The socket that the connection becomes after its upgrade.
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
