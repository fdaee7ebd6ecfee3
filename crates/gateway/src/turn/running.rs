//! The responses that this process is creating.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use antiphon_protocol::id::{ProjectId, ResponseId};

/// Turns that are to be stored and are not recorded yet. A client that continues one of them gets an error that says so.
#[derive(Debug, Clone, Default)]
pub struct RunningTurns {
    ids: Arc<Mutex<HashMap<ResponseId, ProjectId>>>,
}

/// Removes the response from the list on drop.
#[derive(Debug)]
pub struct RunningGuard {
    id: ResponseId,
    running: RunningTurns,
}

// === impl RunningTurns ===

impl RunningTurns {
    pub fn insert(&self, project: &ProjectId, id: ResponseId) -> RunningGuard {
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
