//! Room: how much a conversation may hold, and all conversations of a project together.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use antiphon_errors::{Class, Fault};
use antiphon_protocol::id::ProjectId;
use http::StatusCode;

use super::{ConversationError, Conversations};

/// How long the size of a project is believed before it is read again: while there is room, and when there is none.
const SIZE_LIFETIME: Duration = Duration::from_secs(30);
const FULL_LIFETIME: Duration = Duration::from_secs(1);

/// What the operator configured about conversations.
#[derive(Debug, Clone, Copy)]
pub struct ConversationLimits {
    pub max_items: u64,
    /// Of one conversation.
    pub max_bytes: u64,
    /// Of all conversations of a project.
    pub max_project_bytes: u64,
}

/// What a conversation would be after a change, and what the change adds to its project.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grown {
    pub(super) items: u64,
    pub(super) bytes: u64,
    pub(super) added_bytes: u64,
}

/// A limit that a conversation would exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    #[error(
        "The conversation would have {items} items, the limit is {limit}. Delete items, or continue in another conversation."
    )]
    Items { items: u64, limit: u64 },
    #[error(
        "The conversation would take {bytes} bytes, the limit is {limit}. Continue in another conversation."
    )]
    Bytes { bytes: u64, limit: u64 },
    #[error(
        "The conversations of this project would take {bytes} bytes, the limit is {limit}. Delete conversations that are not \
         needed any more."
    )]
    Project { bytes: u64, limit: u64 },
}

/// The sizes of projects as they were when they were last read, with what has been added here since.
#[derive(Default)]
pub(super) struct ProjectSizes(Mutex<HashMap<ProjectId, ProjectSize>>);

#[derive(Clone, Copy)]
struct ProjectSize {
    bytes: u64,
    read_at: Instant,
}

// === impl Conversations ===

impl Conversations {
    /// Fails if a change would exceed a limit; else counts what it adds.
    pub(super) async fn check_room(
        &self,
        project: &ProjectId,
        grown: Grown,
    ) -> Result<(), ConversationError> {
        let ConversationLimits { max_items, max_bytes, max_project_bytes } = self.limits;
        let Grown { items, bytes, added_bytes } = grown;
        if items > max_items {
            return Err(NoRoom::Items { items, limit: max_items }.into());
        }
        if bytes > max_bytes {
            return Err(NoRoom::Bytes { bytes, limit: max_bytes }.into());
        }
        let fits = |bytes: u64| bytes.saturating_add(added_bytes) <= max_project_bytes;
        let is_current = |size: &ProjectSize| {
            let lifetime = if fits(size.bytes) { SIZE_LIFETIME } else { FULL_LIFETIME };
            size.read_at.elapsed() < lifetime
        };
        let known = self.sizes.lock().get(project).copied().filter(is_current);
        let size = match known {
            Some(size) => size,
            None => {
                let read_at = Instant::now();
                ProjectSize { bytes: self.store().size_of_conversations(project).await?, read_at }
            }
        };
        let mut sizes = self.sizes.lock();
        let known = sizes.entry(project.clone()).or_insert(size);
        if known.read_at < size.read_at {
            *known = size;
        }
        let bytes = known.bytes.saturating_add(added_bytes);
        if !fits(known.bytes) {
            return Err(NoRoom::Project { bytes, limit: max_project_bytes }.into());
        }
        known.bytes = bytes;
        Ok(())
    }

    /// Takes back what [`check_room`](Self::check_room) counted, for a change that was not made.
    pub(super) fn give_back(&self, project: &ProjectId, grown: Grown) {
        if let Some(size) = self.sizes.lock().get_mut(project) {
            size.bytes = size.bytes.saturating_sub(grown.added_bytes);
        }
    }
}

// === impl NoRoom ===

impl NoRoom {
    pub fn class(&self) -> Class {
        let code = match self {
            Self::Items { .. } | Self::Bytes { .. } => "conversation_too_large",
            Self::Project { .. } => "conversation_storage_exceeded",
        };
        (StatusCode::BAD_REQUEST, Fault::Limits, Some(code), Some("conversation"))
    }
}

impl From<NoRoom> for ConversationError {
    fn from(no_room: NoRoom) -> Self {
        Self::NoRoom(no_room)
    }
}

// === impl ProjectSizes ===

impl ProjectSizes {
    fn lock(&self) -> MutexGuard<'_, HashMap<ProjectId, ProjectSize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
