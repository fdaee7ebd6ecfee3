//! Which responses are being made by this process right now.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use antiphon_protocol::id::{ProjectId, ResponseId};

/// The turns that will be stored and are not yet so: a client that continues one of them is told to wait.
#[derive(Debug, Clone, Default)]
pub struct Running {
    ids: Arc<Mutex<HashMap<ResponseId, ProjectId>>>,
}

/// Dropping it takes the response off the list.
#[derive(Debug)]
pub struct RunningGuard {
    id: ResponseId,
    running: Running,
}

// === impl Running ===

impl Running {
    pub fn enter(&self, project: &ProjectId, id: ResponseId) -> RunningGuard {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).insert(id, project.clone());
        RunningGuard { id, running: self.clone() }
    }

    pub fn contains(&self, project: &ProjectId, id: ResponseId) -> bool {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).get(&id) == Some(project)
    }
}

// === impl RunningGuard ===

impl Drop for RunningGuard {
    fn drop(&mut self) {
        self.running.ids.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}
