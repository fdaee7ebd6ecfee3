//! The newest events of a background turn that are in its log, for the readers in this process.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use antiphon_store::EventChunk;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

#[derive(Debug)]
pub struct LiveEvents {
    chunks: Mutex<VecDeque<EventChunk>>,
    max_bytes: usize,
    has_ended: AtomicBool,
    left: CancellationToken,
    /// Changes with every chunk, and at the end.
    published: watch::Sender<u64>,
}

impl LiveEvents {
    /// Keeps so much, and the newest chunk however large it is.
    pub fn new(max_bytes: usize) -> Self {
        Self {
            chunks: Mutex::default(),
            max_bytes,
            has_ended: AtomicBool::new(false),
            left: CancellationToken::new(),
            published: watch::Sender::new(0),
        }
    }

    /// Shows a chunk that has been written to readers.
    pub fn publish(&self, chunk: EventChunk) {
        let mut chunks = self.lock();
        chunks.push_back(chunk);
        let mut bytes: usize = chunks.iter().map(|chunk| chunk.bytes.len()).sum();
        while bytes > self.max_bytes && chunks.len() > 1 {
            bytes -= chunks.pop_front().map_or(0, |chunk| chunk.bytes.len());
        }
        drop(chunks);
        self.wake();
    }

    /// Notes that no more events will come.
    pub fn end(&self) {
        self.has_ended.store(true, Ordering::Release);
        self.wake();
    }

    pub fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Acquire)
    }

    /// Notes that events may come, but not here.
    pub fn leave(&self) {
        self.left.cancel();
        self.wake();
    }

    pub fn is_left(&self) -> bool {
        self.left.is_cancelled()
    }

    /// Waits until no more events will come here.
    pub async fn left(&self) {
        self.left.cancelled().await;
    }

    fn wake(&self) {
        self.published.send_modify(|number| *number += 1);
    }

    /// Tells when there is more to read.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.published.subscribe()
    }

    /// The chunks with events after this number; `None` if memory does not reach back so far.
    pub fn after(&self, number: Option<u64>) -> Option<Vec<EventChunk>> {
        let next = number.map_or(0, |number| number.saturating_add(1));
        let chunks = self.lock();
        chunks.front().filter(|oldest| oldest.first <= next)?;
        Some(chunks.iter().filter(|chunk| chunk.last >= next).cloned().collect())
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<EventChunk>> {
        self.chunks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn memory_serves_readers_that_are_not_too_far_behind() {
        let live = LiveEvents::new(1_000);
        assert_eq!(live.after(None), None);
        let chunk = |first: u64, last, size| EventChunk { first, last, bytes: Bytes::from(vec![0; size]) };
        live.publish(chunk(0, 3, 10));
        live.publish(chunk(4, 8, 10));
        assert_eq!(live.after(None).unwrap().len(), 2);
        assert_eq!(live.after(Some(3)).unwrap(), [chunk(4, 8, 10)]);
        assert_eq!(live.after(Some(8)).unwrap(), []);
        live.publish(chunk(9, 9, 1_000));
        assert_eq!(live.after(Some(7)), None);
        assert_eq!(live.after(Some(8)).unwrap().len(), 1);
    }
}
