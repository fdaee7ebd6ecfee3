//! Sockets that wait for the turn which continues their latest response.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::sync::oneshot;
use tokio_tungstenite::tungstenite::Message;

use super::Socket;
use antiphon_runtime::Tasks;

/// What an upstream caches of a chain is gone by then.
const MAX_IDLE: Duration = Duration::from_mins(10);
/// What stands between would take a silent connection for dead.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// Over all accounts; the one that has waited longest makes room.
const MAX_SOCKETS: usize = 1000;

/// Every idle socket, by the response that can be continued on it.
pub struct Idle {
    inner: Mutex<Inner>,
    tasks: Tasks,
}

#[derive(Default)]
struct Inner {
    sockets: HashMap<Key, Waiting>,
    /// Tells sockets apart that have waited for the same.
    count: u64,
}

/// An account, with its upstream and credential, and the upstream's id of a response.
type Key = (String, String);

struct Waiting {
    number: u64,
    take: oneshot::Sender<oneshot::Sender<Socket>>,
}

// === impl Idle ===

impl Idle {
    pub fn new(tasks: Tasks) -> Self {
        Self { inner: Mutex::default(), tasks }
    }

    /// The socket on which this response was the latest, if it still lives.
    pub async fn take(&self, account: &str, response: &str) -> Option<Socket> {
        let waiting = self.lock().sockets.remove(&(account.to_owned(), response.to_owned()))?;
        let (give, given) = oneshot::channel();
        waiting.take.send(give).ok()?;
        given.await.ok()
    }

    /// Has the socket wait. One that is old is closed instead.
    pub fn put(self: &Arc<Self>, socket: Socket, account: String, response: String) {
        if socket.is_old() {
            self.tasks.spawn_background(close(socket));
            return;
        }
        let key = (account, response);
        let (take, taken) = oneshot::channel();
        let mut inner = self.lock();
        inner.count += 1;
        let number = inner.count;
        if inner.sockets.len() >= MAX_SOCKETS
            && let Some(oldest) =
                inner.sockets.iter().min_by_key(|(_, waiting)| waiting.number).map(|(key, _)| key.clone())
        {
            // Its keeper sees that nobody can take it any more.
            inner.sockets.remove(&oldest);
        }
        inner.sockets.insert(key.clone(), Waiting { number, take });
        drop(inner);
        let this = Arc::clone(self);
        self.tasks.spawn_background(async move {
            let Some(socket) = keep(socket, taken).await else { return };
            this.forget(&key, number);
            close(socket).await;
        });
    }

    fn forget(&self, key: &Key, number: u64) {
        let mut inner = self.lock();
        if inner.sockets.get(key).is_some_and(|waiting| waiting.number == number) {
            inner.sockets.remove(key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Idle").field("sockets", &self.lock().sockets.len()).finish_non_exhaustive()
    }
}

/// Keeps the socket alive until somebody takes the socket. Returns it if it is to be closed: what ends while it is idle is nobody's
/// failure.
async fn keep(mut socket: Socket, mut taken: oneshot::Receiver<oneshot::Sender<Socket>>) -> Option<Socket> {
    let limit = tokio::time::sleep(MAX_IDLE);
    tokio::pin!(limit);
    let mut pings = tokio::time::interval_at(tokio::time::Instant::now() + PING_INTERVAL, PING_INTERVAL);
    loop {
        tokio::select! {
            biased;
            give = &mut taken => {
                let Ok(give) = give else { return Some(socket) };
                // Whoever wanted it may have left.
                return give.send(socket).err();
            }
            message = socket.wire.next() => match message {
                Some(Ok(Message::Ping(_))) if socket.wire.flush().await.is_ok() => {}
                Some(Ok(Message::Text(_) | Message::Pong(_))) => {}
                _ => return Some(socket),
            },
            _ = pings.tick() => {
                if socket.wire.send(Message::Ping(Default::default())).await.is_err() {
                    return Some(socket);
                }
            }
            () = &mut limit => return Some(socket),
        }
    }
}

async fn close(mut socket: Socket) {
    const PATIENCE: Duration = Duration::from_secs(5);
    let closing = async {
        if socket.wire.close(None).await.is_ok() {
            while let Some(Ok(_)) = socket.wire.next().await {}
        }
    };
    // Whatever fails here, the connection ends with this function.
    tokio::time::timeout(PATIENCE, closing).await.ok();
}
