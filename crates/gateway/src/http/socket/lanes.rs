//! Which turn of a socket may begin: within a lane one after the other, and not too many at once.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use antiphon_protocol::socket::{CreateFrame, StreamId};
use tokio::sync::OwnedSemaphorePermit;

use super::metrics::SocketMetrics;

/// Turns of one connection at once.
pub const MAX_RUNNING: usize = 16;
/// Frames that have been read and wait for their lane, or for one of the turns to end. With more, reading stops.
pub const MAX_WAITING: usize = 16;
/// Lanes with a name that a connection may have.
pub const MAX_NAMED: usize = 32;

/// A turn that has been asked for.
pub struct Asked {
    pub frame: Box<CreateFrame>,
    pub permit: OwnedSemaphorePermit,
}

/// The lanes of one connection.
pub struct Lanes {
    known: HashSet<Option<StreamId>>,
    busy: HashSet<Option<StreamId>>,
    waiting: VecDeque<Asked>,
    metrics: Arc<SocketMetrics>,
}

impl Lanes {
    pub fn new(metrics: Arc<SocketMetrics>) -> Self {
        Self { known: HashSet::new(), busy: HashSet::new(), waiting: VecDeque::new(), metrics }
    }

    /// Lets a turn wait for its lane; gives it back if the lane would be one too many.
    pub fn ask(&mut self, asked: Asked) -> Result<(), Asked> {
        let lane = &asked.frame.stream_id;
        if !self.known.contains(lane) {
            let named = self.known.len() - usize::from(self.known.contains(&None));
            if lane.is_some() && named == MAX_NAMED {
                return Err(asked);
            }
            self.known.insert(lane.clone());
            self.metrics.lanes.inc();
        }
        self.waiting.push_back(asked);
        Ok(())
    }

    /// The first turn that may begin; its lane is taken from now on.
    pub fn next(&mut self) -> Option<Asked> {
        if self.busy.len() == MAX_RUNNING {
            return None;
        }
        let is_free = |asked: &Asked| !self.busy.contains(&asked.frame.stream_id);
        let place = self.waiting.iter().position(is_free)?;
        let asked = self.waiting.remove(place)?;
        self.busy.insert(asked.frame.stream_id.clone());
        Some(asked)
    }

    pub fn release(&mut self, lane: &Option<StreamId>) {
        self.busy.remove(lane);
    }

    pub fn can_wait(&self) -> bool {
        self.waiting.len() < MAX_WAITING
    }

    pub fn is_idle(&self) -> bool {
        self.busy.is_empty() && self.waiting.is_empty()
    }

    /// Gives up what has not begun.
    pub fn clear_waiting(&mut self) {
        self.waiting.clear();
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.metrics.lanes.dec_by(i64::try_from(self.known.len()).unwrap_or(i64::MAX));
    }
}
