//! Large operations in the queue.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use antiphon_protocol::id::ProjectId;

use super::operation::Operation;

/// A large operation, until a writer takes it or its caller goes away.
#[derive(Debug)]
pub(super) struct Large {
    project: Option<ProjectId>,
    operation: Mutex<Option<Operation>>,
}

/// Held by the caller of a large operation. Dropping it drops the operation, unless a writer has taken that: its caller reports a
/// failure then, may try again, and gives back the memory that was reserved for it.
pub(super) struct Caller(Arc<Large>);

// === impl Large ===

impl Large {
    pub(super) fn new(operation: Operation) -> (Arc<Self>, Caller) {
        let project = operation.project().cloned();
        let large = Arc::new(Self { project, operation: Mutex::new(Some(operation)) });
        (Arc::clone(&large), Caller(large))
    }

    pub(super) fn project(&self) -> Option<&ProjectId> {
        self.project.as_ref()
    }

    pub(super) fn is_gone(&self) -> bool {
        self.lock().is_none()
    }

    pub(super) fn take(&self) -> Option<Operation> {
        self.lock().take()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Operation>> {
        self.operation.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Caller ===

impl Drop for Caller {
    fn drop(&mut self) {
        self.0.take();
    }
}
