//! What goes into the audit log: who changed what.

use antiphon_store::{AuditEntry, Clock};
use rand::RngExt;

/// By which way a change came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actor {
    AdminApi,
    CommandLine,
    /// Nobody asked for it.
    Gateway,
}

/// An entry for what is done now. What was done reads `key.created`.
pub fn entry(clock: &dyn Clock, actor: Actor, action: &str, target: &str) -> AuditEntry {
    AuditEntry::new(clock.now(), &rand::rng().random(), actor.as_str(), action, target)
}

// === impl Actor ===

impl Actor {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AdminApi => "admin_api",
            Self::CommandLine => "command_line",
            Self::Gateway => "gateway",
        }
    }
}
