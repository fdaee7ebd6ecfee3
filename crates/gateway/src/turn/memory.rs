//! The memory of a WebSocket: the latest response of each lane, which can be continued without a store.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use antiphon_protocol::id::ResponseId;
use antiphon_protocol::socket::StreamId;
use antiphon_store::chain::Turn as StoredTurn;
use tokio::sync::Semaphore;

/// The latest responses of one connection's lanes.
#[derive(Debug)]
pub struct LaneMemory {
    latest: Mutex<HashMap<Option<StreamId>, LatestResponse>>,
    /// One permit per KiB, shared by all connections.
    budget: Arc<Semaphore>,
}

/// One lane of a connection.
#[derive(Debug, Clone)]
pub struct Lane {
    pub stream_id: Option<StreamId>,
    pub memory: Arc<LaneMemory>,
}

/// The latest response of a lane.
#[derive(Debug, Clone)]
pub enum LatestResponse {
    /// A response that is not stored.
    InMemory(Arc<StoredTurn>),
    /// A stored response; it may have been deleted since.
    Stored(ResponseId),
}

// === impl LaneMemory ===

impl LaneMemory {
    pub fn new(budget: Arc<Semaphore>) -> Arc<Self> {
        Arc::new(Self { latest: Mutex::default(), budget })
    }

    pub fn budget(&self) -> &Arc<Semaphore> {
        &self.budget
    }

    fn latest(&self) -> MutexGuard<'_, HashMap<Option<StreamId>, LatestResponse>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Lane ===

impl Lane {
    /// The response with this id, if it is the latest one of any lane: a lane may continue another one.
    pub fn find(&self, id: ResponseId) -> Option<LatestResponse> {
        self.memory.latest().values().find(|latest| latest.id() == id).cloned()
    }

    /// Replaces what the lane remembers; `None` forgets it.
    pub fn remember(&self, latest: Option<LatestResponse>) {
        let mut lanes = self.memory.latest();
        let replaced = match latest {
            Some(latest) => lanes.insert(self.stream_id.clone(), latest),
            None => lanes.remove(&self.stream_id),
        };
        // Dropping a long chain takes time: release the lock first.
        drop(lanes);
        drop(replaced);
    }

    /// Forgets the response if it is this lane's latest one.
    pub fn evict(&self, id: ResponseId) {
        let is_latest = self.memory.latest().get(&self.stream_id).is_some_and(|latest| latest.id() == id);
        if is_latest {
            self.remember(None);
        }
    }
}

// === impl LatestResponse ===

impl LatestResponse {
    fn id(&self) -> ResponseId {
        match self {
            Self::InMemory(turn) => turn.id,
            Self::Stored(id) => *id,
        }
    }
}
