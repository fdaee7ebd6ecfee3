//! Decides which turn of a connection may begin: one at a time in each lane, and a limited number at once.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use antiphon_protocol::socket::{CreateFrame, StreamId};

use super::metrics::SocketMetrics;
use crate::body_memory::Reservation;

/// How many turns of a connection run at once.
pub const MAX_RUNNING_TURNS: usize = 16;
/// How many frames wait for their lane or for another turn to end. Reading stops when the queue is full.
pub const MAX_QUEUED_FRAMES: usize = 16;
/// How many named lanes a connection may have.
pub const MAX_NAMED_LANES: usize = 32;

/// A request for a turn that has not begun.
pub struct QueuedFrame {
    pub frame: Box<CreateFrame>,
    pub memory: Reservation,
}

/// The lanes of one connection.
pub struct Lanes {
    known: HashSet<Option<StreamId>>,
    busy: HashSet<Option<StreamId>>,
    queue: VecDeque<QueuedFrame>,
    metrics: Arc<SocketMetrics>,
}

impl Lanes {
    pub fn new(metrics: Arc<SocketMetrics>) -> Self {
        Self { known: HashSet::new(), busy: HashSet::new(), queue: VecDeque::new(), metrics }
    }

    /// Queues a frame until its turn may begin. Returns it if its lane would be one too many.
    pub fn enqueue(&mut self, queued: QueuedFrame) -> Result<(), QueuedFrame> {
        let lane = &queued.frame.stream_id;
        if !self.known.contains(lane) {
            let named = self.known.len() - usize::from(self.known.contains(&None));
            if lane.is_some() && named == MAX_NAMED_LANES {
                return Err(queued);
            }
            self.known.insert(lane.clone());
            self.metrics.lanes.inc();
        }
        self.queue.push_back(queued);
        Ok(())
    }

    /// Takes the first frame whose turn may begin, and marks its lane as busy.
    pub fn start_next(&mut self) -> Option<QueuedFrame> {
        if self.busy.len() == MAX_RUNNING_TURNS {
            return None;
        }
        let is_free = |queued: &QueuedFrame| !self.busy.contains(&queued.frame.stream_id);
        let index = self.queue.iter().position(is_free)?;
        let queued = self.queue.remove(index)?;
        self.busy.insert(queued.frame.stream_id.clone());
        Some(queued)
    }

    pub fn release(&mut self, lane: &Option<StreamId>) {
        self.busy.remove(lane);
    }

    pub fn has_queue_room(&self) -> bool {
        self.queue.len() < MAX_QUEUED_FRAMES
    }

    pub fn is_idle(&self) -> bool {
        self.busy.is_empty() && self.queue.is_empty()
    }

    /// Drops the turns that have not begun.
    pub fn clear_queue(&mut self) {
        self.queue.clear();
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.metrics.lanes.dec_by(i64::try_from(self.known.len()).unwrap_or(i64::MAX));
    }
}
