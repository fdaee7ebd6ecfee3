//! The error for a turn that would exceed a limit.

use std::fmt;
use std::time::Duration;

use antiphon_store::{Count, Timestamp};

use super::{Owner, Rates, Rule};
use antiphon_runtime::rfc3339;
use antiphon_runtime::whole_seconds;

/// The `Retry-After` of a limit on concurrent turns, as it is unknown when a running turn ends.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why a turn was rejected.
#[derive(Debug, Clone)]
pub struct Exceeded {
    pub owner: Owner,
    pub rule: Rule,
    pub count: Count,
    /// How much the turn would reserve.
    pub amount: u64,
    /// When the window ends, and how long that is from now.
    pub reset: Option<(Timestamp, Duration)>,
    pub rates: Rates,
}

// === impl Exceeded ===

impl Exceeded {
    /// How long a client should wait before it retries.
    pub fn retry_after(&self) -> Duration {
        self.reset.map_or(RETRY_AFTER, |(_, remaining)| remaining)
    }
}

/// The error message for the client.
impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { owner, rule, count, amount, reset, .. } = self;
        let owner_name = match owner {
            Owner::Key => "This API key",
            Owner::Project => "The project of this API key",
        };
        let Some((at, remaining)) = reset else {
            let (limit, running) = (rule.limit, count.held);
            return write!(
                f,
                "{owner_name} is limited to {limit} {}, and {running} are running. Please retry when one has finished.",
                rule.name
            );
        };
        let [limit, used, held, amount] =
            [rule.limit, count.used, count.held, *amount].map(|amount| rule.format_amount(amount));
        write!(
            f,
            "{owner_name} is limited to {limit} {}: {used} used, {held} reserved by running requests, and this request \
             may need {amount}. The limit resets in {} s, at {}.",
            rule.name,
            whole_seconds(*remaining),
            rfc3339(*at),
        )
    }
}
