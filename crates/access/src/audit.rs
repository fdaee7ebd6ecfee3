//! What goes into the audit log: who changed what.

use std::sync::{Mutex, PoisonError};

use antiphon_store::{AuditEntry, Clock, Timestamp};
use rand::RngExt;

/// The time of the latest entry, and how many of this process had the same time before it.
static LATEST: Mutex<(Timestamp, u16)> = Mutex::new((Timestamp::from_unix_ms(0), 0));

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
    let now = clock.now();
    let mut random: [u8; 10] = rand::rng().random();
    // The first twelve bits that are not the time: entries of one millisecond keep their order.
    random[..2].copy_from_slice(&place_in(now).to_be_bytes());
    AuditEntry::new(now, &random, actor.as_str(), action, target)
}

fn place_in(now: Timestamp) -> u16 {
    let mut latest = LATEST.lock().unwrap_or_else(PoisonError::into_inner);
    *latest = match *latest {
        (at, place) if at == now => (now, place.saturating_add(1).min(0x0fff)),
        _ => (now, 0),
    };
    latest.1
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

#[cfg(test)]
mod tests {
    use antiphon_store::SystemClock;

    use super::*;

    #[test]
    fn entries_of_one_moment_keep_their_order() {
        let entry = |_| entry(&SystemClock, Actor::Gateway, "a", "b").id();
        let ids: Vec<_> = (0..2000).map(entry).collect();
        assert!(ids.is_sorted(), "{ids:?}");
    }
}
