//! A limit that a turn would exceed, in numbers.

use std::fmt;
use std::time::Duration;

use antiphon_store::{Count, Timestamp};

use super::{Owner, Rates, Rule};
use antiphon_runtime::rfc3339;
use antiphon_runtime::whole_seconds;

/// How soon to try again when nobody knows when a running turn will end.
const RETRY_AFTER: Duration = Duration::from_secs(1);

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
    /// When a client may try again.
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
            whole_seconds(*rest),
            rfc3339(*at),
        )
    }
}
