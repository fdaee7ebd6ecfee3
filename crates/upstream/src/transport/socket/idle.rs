//! Idle sockets, which wait for the turn that continues their latest response.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use antiphon_protocol::id::{ProjectId, ResponseId};
use futures_util::{SinkExt, StreamExt};
use tokio::sync::oneshot;
use tokio_tungstenite::tungstenite::Message;

use super::Socket;
use antiphon_runtime::{Tasks, files};

/// By then an upstream's cache of a chain is gone.
const MAX_IDLE: Duration = Duration::from_mins(10);
/// Keeps proxies and firewalls from closing an idle connection.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// Every idle socket, by the response that can be continued on it.
pub struct IdleSockets {
    inner: Mutex<Inner>,
    tasks: Tasks,
}

#[derive(Default)]
struct Inner {
    sockets: HashMap<Served, IdleSocket>,
    /// Distinguishes sockets that have waited under the same key.
    last_sequence: u64,
}

/// A turn that a socket serves. Upstreams may give the same id to responses of different clients: the gateway's own is unique.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Served {
    pub project: ProjectId,
    /// The account's identity.
    pub account: String,
    /// The gateway's id of the response.
    pub response: ResponseId,
}

struct IdleSocket {
    sequence: u64,
    /// A turn that takes the socket sends the channel on which to return it.
    request: oneshot::Sender<oneshot::Sender<Socket>>,
}

// === impl IdleSockets ===

impl IdleSockets {
    pub fn new(tasks: Tasks) -> Self {
        Self { inner: Mutex::default(), tasks }
    }

    /// The socket on which this response was the latest, if it is still open.
    pub async fn take(&self, latest: &Served) -> Option<Socket> {
        let idle = self.lock().sockets.remove(latest)?;
        let (sender, socket) = oneshot::channel();
        idle.request.send(sender).ok()?;
        socket.await.ok()
    }

    /// Keeps the socket for the next turn. A socket that is too old is closed instead.
    pub fn insert(self: &Arc<Self>, socket: Socket, latest: Served) {
        if socket.is_expired() {
            self.tasks.spawn_background(close(socket));
            return;
        }
        let (request, requested) = oneshot::channel();
        let mut inner = self.lock();
        inner.last_sequence += 1;
        let sequence = inner.last_sequence;
        if inner.sockets.len() >= files::idle_sockets() {
            inner.drop_one();
        }
        inner.sockets.insert(latest.clone(), IdleSocket { sequence, request });
        drop(inner);
        let this = Arc::clone(self);
        self.tasks.spawn_background(async move {
            let Some(socket) = keep_alive(socket, requested).await else { return };
            this.remove(&latest, sequence);
            close(socket).await;
        });
    }

    fn remove(&self, key: &Served, sequence: u64) {
        let mut inner = self.lock();
        if inner.sockets.get(key).is_some_and(|idle| idle.sequence == sequence) {
            inner.sockets.remove(key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Inner ===

impl Inner {
    /// Drops the socket that has been idle longest of those of the project with most of them.
    fn drop_one(&mut self) {
        let mut held: HashMap<&ProjectId, usize> = HashMap::new();
        self.sockets.keys().for_each(|served| *held.entry(&served.project).or_default() += 1);
        let rank = |(served, idle): &(&Served, &IdleSocket)| (held[&served.project], Reverse(idle.sequence));
        if let Some(dropped) = self.sockets.iter().max_by_key(rank).map(|(served, _)| served.clone()) {
            // Its task sees that no turn can take it any more, and closes it.
            self.sockets.remove(&dropped);
        }
    }
}

impl fmt::Debug for IdleSockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdleSockets").field("sockets", &self.lock().sockets.len()).finish_non_exhaustive()
    }
}

/// Keeps the socket alive until a turn takes it. Returns it if it is to be closed, which does not count as a failure.
async fn keep_alive(
    mut socket: Socket,
    mut requested: oneshot::Receiver<oneshot::Sender<Socket>>,
) -> Option<Socket> {
    let limit = tokio::time::sleep(MAX_IDLE);
    tokio::pin!(limit);
    let mut pings = tokio::time::interval_at(tokio::time::Instant::now() + PING_INTERVAL, PING_INTERVAL);
    loop {
        tokio::select! {
            biased;
            sender = &mut requested => {
                let Ok(sender) = sender else { return Some(socket) };
                // The turn that wanted it may have ended.
                return sender.send(socket).err();
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
    const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
    let closing = async {
        if socket.wire.close(None).await.is_ok() {
            while let Some(Ok(_)) = socket.wire.next().await {}
        }
    };
    // The connection ends here, whether or not closing it works.
    tokio::time::timeout(CLOSE_TIMEOUT, closing).await.ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_with_many_idle_sockets_loses_its_own_and_the_oldest_first() {
        let served = |project: &str, n| Served {
            project: ProjectId::new(project),
            account: "one".to_owned(),
            response: ResponseId::mint(n, &[0; 10]),
        };
        let mut inner = Inner::default();
        let mut requests = Vec::new();
        for (sequence, project) in ["few", "many", "many", "many", "other"].into_iter().enumerate() {
            let (request, requested) = oneshot::channel();
            requests.push(requested);
            let sequence = sequence as u64;
            inner.sockets.insert(served(project, sequence), IdleSocket { sequence, request });
        }
        let mut dropped = Vec::new();
        while !inner.sockets.is_empty() {
            let before: Vec<u64> = inner.sockets.values().map(|idle| idle.sequence).collect();
            inner.drop_one();
            let is_left = |sequence: &u64| inner.sockets.values().any(|idle| idle.sequence == *sequence);
            dropped.extend(before.into_iter().filter(|sequence| !is_left(sequence)));
        }
        assert_eq!(dropped, [1, 2, 0, 3, 4]);
    }
}
