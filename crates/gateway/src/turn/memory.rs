//! What a connection remembers of its lanes: the latest response of each, so that it can be continued without a store.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use antiphon_protocol::id::ResponseId;
use antiphon_protocol::socket::StreamId;
use antiphon_store::chain::Turn as StoredTurn;
use tokio::sync::Semaphore;

/// The memory of one connection.
#[derive(Debug)]
pub struct Memory {
    latest: Mutex<HashMap<Option<StreamId>, Remembered>>,
    /// One permit a KiB, over all connections.
    room: Arc<Semaphore>,
}

/// One lane of a connection.
#[derive(Debug, Clone)]
pub struct Lane {
    pub stream_id: Option<StreamId>,
    pub memory: Arc<Memory>,
}

/// The latest response of a lane.
#[derive(Debug, Clone)]
pub enum Remembered {
    /// It is nowhere else.
    Here(Arc<StoredTurn>),
    /// It is in the store, and may have been deleted there.
    Stored(ResponseId),
}

// === impl Memory ===

impl Memory {
    pub fn new(room: Arc<Semaphore>) -> Arc<Self> {
        Arc::new(Self { latest: Mutex::default(), room })
    }

    pub fn room(&self) -> &Arc<Semaphore> {
        &self.room
    }

    fn latest(&self) -> MutexGuard<'_, HashMap<Option<StreamId>, Remembered>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Lane ===

impl Lane {
    /// The response with this id if it is the latest one of any lane: a lane may go on where another one is.
    pub fn find(&self, id: ResponseId) -> Option<Remembered> {
        self.memory.latest().values().find(|latest| latest.id() == id).cloned()
    }

    /// Replaces what the lane remembers; `None` forgets it.
    pub fn remember(&self, latest: Option<Remembered>) {
        let mut lanes = self.memory.latest();
        let before = match latest {
            Some(latest) => lanes.insert(self.stream_id.clone(), latest),
            None => lanes.remove(&self.stream_id),
        };
        // A long chain takes its time to be dropped.
        drop(lanes);
        drop(before);
    }

    /// Forgets the response if it is this lane's latest one: continuing it has failed.
    pub fn evict(&self, id: ResponseId) {
        let is_latest = self.memory.latest().get(&self.stream_id).is_some_and(|latest| latest.id() == id);
        if is_latest {
            self.remember(None);
        }
    }
}

// === impl Remembered ===

impl Remembered {
    fn id(&self) -> ResponseId {
        match self {
            Self::Here(turn) => turn.id,
            Self::Stored(id) => *id,
        }
    }
}
