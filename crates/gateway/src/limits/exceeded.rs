//! A limit that a turn would exceed, in numbers.

use std::fmt;
use std::time::Duration;

use antiphon_store::{Count, Timestamp};

use super::{Owner, Rates, Rule};
use crate::time::rfc3339;
use crate::turn::{RETRY_AFTER, seconds};

/// Why a turn does not go upstream.
#[derive(Debug, Clone)]
pub struct Exceeded {
    pub owner: Owner,
    pub rule: Rule,
    pub count: Count,
    /// What the turn asks for.
    pub amount: u64,
    /// When the window ends, and how long that is from now.
    pub reset: Option<(Timestamp, Duration)>,
    pub rates: Rates,
}

// === impl Exceeded ===

impl Exceeded {
    /// When a client may try again. Nobody knows when a turn that runs will end.
    pub fn retry_after(&self) -> Duration {
        self.reset.map_or(RETRY_AFTER, |(_, rest)| rest)
    }
}

/// For the client.
impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { owner, rule, count, amount, reset, .. } = self;
        let who = match owner {
            Owner::Key => "This API key",
            Owner::Project => "The project of this API key",
        };
        let Some((at, rest)) = reset else {
            let (limit, running) = (rule.limit, count.held);
            return write!(
                f,
                "{who} may have {limit} {}, and has {running}. Please retry when one has ended.",
                rule.name
            );
        };
        let [limit, used, held, amount] =
            [rule.limit, count.used, count.held, *amount].map(|of| rule.shown(of));
        write!(
            f,
            "{who} may use {limit} {}: {used} are used, {held} are held by requests under way, and this one may need \
             {amount}. It is reset in {} s, at {}.",
            rule.name,
            seconds(*rest),
            rfc3339(*at),
        )
    }
}
