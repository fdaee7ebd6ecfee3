//! Entries of the audit log: who changed what.

use std::borrow::Cow;
use std::sync::{Mutex, PoisonError};

use antiphon_store::{AuditEntry, Clock, Timestamp};
use rand::RngExt;

use crate::session_id::SessionId;

/// The time of this process's latest entry, and its number among the entries of that millisecond.
static LATEST: Mutex<(Timestamp, u16)> = Mutex::new((Timestamp::from_unix_ms(0), 0));

/// Where a change came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actor<'a> {
    AdminApi,
    CommandLine,
    /// In the dashboard, with the operator's name if it is known.
    Session {
        id: SessionId,
        operator: Option<&'a str>,
    },
    /// The gateway itself, without an operator.
    Gateway,
}

/// An entry with the present time. An action reads like `key.created`.
pub fn entry(clock: &dyn Clock, actor: Actor<'_>, action: &str, target: &str) -> AuditEntry {
    let now = clock.now();
    let mut random: [u8; 10] = rand::rng().random();
    // The first twelve bits after the time number the entries of one millisecond, so that ids keep their order.
    random[..2].copy_from_slice(&number_in(now).to_be_bytes());
    AuditEntry::new(now, &random, &actor.name(), action, target).operator(actor.operator())
}

fn number_in(now: Timestamp) -> u16 {
    let mut latest = LATEST.lock().unwrap_or_else(PoisonError::into_inner);
    *latest = match *latest {
        (at, number) if at == now => (now, number.saturating_add(1).min(0x0fff)),
        _ => (now, 0),
    };
    latest.1
}

// === impl Actor ===

impl<'a> Actor<'a> {
    fn name(self) -> Cow<'static, str> {
        match self {
            Self::AdminApi => "admin_api".into(),
            Self::CommandLine => "command_line".into(),
            Self::Session { id, .. } => id.to_string().into(),
            Self::Gateway => "gateway".into(),
        }
    }

    fn operator(self) -> Option<&'a str> {
        if let Self::Session { operator, .. } = self { operator } else { None }
    }
}

#[cfg(test)]
mod tests {
    use antiphon_store::SystemClock;

    use super::*;

    #[test]
    fn entries_of_one_millisecond_keep_their_order() {
        let entry = |_| entry(&SystemClock, Actor::Gateway, "a", "b").id();
        let ids: Vec<_> = (0..2000).map(entry).collect();
        assert!(ids.is_sorted(), "{ids:?}");
    }
}
