//! The writers' end of the queue. Large operations wait aside, so that others pass them.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::operation::Operation;
use super::{Answer, Queued};

#[derive(Debug)]
pub(super) struct Queue {
    incoming: mpsc::Receiver<Queued>,
    /// Large operations whose callers wait, the first one first.
    large: VecDeque<(Operation, Answer)>,
}

/// What a writer does next.
pub(super) enum Next {
    Queued(Queued),
    /// A large operation, and the right to write it.
    Large(OwnedSemaphorePermit, Operation, Answer),
    Nothing,
    /// Nothing more can come.
    Closed,
}

// === impl Queue ===

impl Queue {
    pub(super) fn new(incoming: mpsc::Receiver<Queued>) -> Self {
        Self { incoming, large: VecDeque::new() }
    }

    /// Waits for what comes next. A large operation waits for its right, and if `others_first` for whatever else is queued.
    pub(super) async fn next(&mut self, right: &Arc<Semaphore>, others_first: bool) -> Next {
        self.forget_the_gone();
        let is_waiting = !self.large.is_empty();
        let is_drained = self.incoming.is_closed() && self.incoming.is_empty();
        let acquire = || Arc::clone(right).acquire_owned();
        tokio::select! {
            biased;
            Ok(permit) = acquire(), if is_waiting && !others_first => self.pop_large(permit),
            queued = self.incoming.recv(), if !(is_waiting && is_drained) => match queued {
                Some(queued) => Next::Queued(queued),
                None if is_waiting => Next::Nothing,
                None => Next::Closed,
            },
            Ok(permit) = acquire(), if is_waiting && others_first => self.pop_large(permit),
        }
    }

    fn pop_large(&mut self, permit: OwnedSemaphorePermit) -> Next {
        match self.large.pop_front() {
            Some((operation, answer)) => Next::Large(permit, operation, answer),
            None => Next::Nothing,
        }
    }

    /// What is queued already.
    pub(super) fn try_next(&mut self) -> Option<Queued> {
        self.incoming.try_recv().ok()
    }

    /// Keeps a large operation for later, and drops one that nobody needs any more. Returns every other.
    pub(super) fn put_aside(&mut self, operation: Operation, answer: Answer) -> Option<(Operation, Answer)> {
        if is_void(&operation, &answer) {
            return None;
        }
        if !operation.is_large() {
            return Some((operation, answer));
        }
        self.forget_the_gone();
        self.large.push_back((operation, answer));
        None
    }

    fn forget_the_gone(&mut self) {
        self.large.retain(|(operation, answer)| !is_void(operation, answer));
    }

    /// Takes no more operations. Those that are queued are still written.
    pub(super) fn close(&mut self) {
        self.incoming.close();
    }
}

/// Whether its caller has reported a failure, and may have tried again.
fn is_void(operation: &Operation, answer: &Answer) -> bool {
    matches!(operation, Operation::Execute(_) | Operation::Post(_)) && answer.is_closed()
}
