//! The ids of sessions, which are no secrets.

use std::fmt;

use uuid::Uuid;

const PREFIX: &str = "session_";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId(pub(crate) Uuid);

// === impl SessionId ===

impl SessionId {
    /// `None` if this is no id of a session.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix(PREFIX).filter(|hex| hex.len() == 32)?;
        Uuid::try_parse(hex).ok().map(Self)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.0.as_simple())
    }
}
