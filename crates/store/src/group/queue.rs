//! The writers' end of the queue. Large operations wait aside, so that others pass them.

use std::collections::VecDeque;
use std::sync::Arc;

use antiphon_protocol::id::ProjectId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::large::Large;
use super::operation::Operation;
use super::{Answer, Queued};

#[derive(Debug)]
pub(super) struct Queue {
    incoming: mpsc::Receiver<Queued>,
    /// Large operations whose callers wait. Projects take turns; the next one is first.
    large: VecDeque<Line>,
}

/// Large operations of a project, the oldest one first. There is at least one.
#[derive(Debug)]
struct Line {
    project: Option<ProjectId>,
    operations: VecDeque<(Arc<Large>, Answer)>,
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
        while let Some(mut line) = self.large.pop_front() {
            let next = line.operations.pop_front();
            if !line.operations.is_empty() {
                self.large.push_back(line);
            }
            if let Some((large, answer)) = next
                && let Some(operation) = large.take()
            {
                return Next::Large(permit, operation, answer);
            }
        }
        Next::Nothing
    }

    /// What is queued already.
    pub(super) fn try_next(&mut self) -> Option<Queued> {
        self.incoming.try_recv().ok()
    }

    /// Keeps a large operation for later.
    pub(super) fn put_aside(&mut self, large: Arc<Large>, answer: Answer) {
        self.forget_the_gone();
        let project = large.project();
        match self.large.iter_mut().find(|line| line.project.as_ref() == project) {
            Some(line) => line.operations.push_back((large, answer)),
            None => {
                let project = project.cloned();
                self.large.push_back(Line { project, operations: VecDeque::from([(large, answer)]) });
            }
        }
    }

    fn forget_the_gone(&mut self) {
        self.large.retain_mut(|line| {
            line.operations.retain(|(large, _)| !large.is_gone());
            !line.operations.is_empty()
        });
    }

    /// Takes no more operations. Those that are queued are still written.
    pub(super) fn close(&mut self) {
        self.incoming.close();
    }
}
