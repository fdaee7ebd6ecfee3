//! An account's failures: whether they are its own doing, or that of the caller whose turns fail.
//!
//! What an account does to several callers makes it cool down for all. What it does to one caller may be that caller's doing,
//! so it cools down for that caller alone.

use std::collections::HashMap;
use std::time::Duration;

use antiphon_store::Timestamp;

/// So many failures in a row make an account cool down.
const FAILURES_TO_COOL: u32 = 3;
/// How long an account cools down first; each further time twice as long, up to [`LONGEST_COOLING`].
const FIRST_COOLING: Duration = Duration::from_secs(1);
const LONGEST_COOLING: Duration = Duration::from_secs(30);
/// Callers that are told apart. With more at a time, those that come last cool nothing down for themselves.
const MAX_CALLERS: usize = 1_000;

/// The failures of one account since it last served a turn.
#[derive(Debug, Default, Clone)]
pub struct Failures {
    in_a_row: u32,
    callers: Callers,
    of_callers: HashMap<String, Streak>,
}

/// What a failure leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consequence {
    Nothing,
    /// The account cools down for all.
    CoolForAll,
    /// The account has begun to cool down for this caller.
    CoolForCaller,
}

/// Whose turns have failed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
enum Callers {
    #[default]
    None,
    One(String),
    Several,
}

/// Failures of one caller's turns, in a row.
#[derive(Debug, Default, Clone)]
struct Streak {
    failures: u32,
    coolings: u32,
    cooling_until: Option<Timestamp>,
}

/// The next cooldown after so many.
pub fn next_cooling(coolings: u32) -> Duration {
    FIRST_COOLING.saturating_mul(1 << coolings.min(16)).min(LONGEST_COOLING)
}

// === impl Failures ===

impl Failures {
    /// A turn failed. `caller` is `None` if the failure is the account's own doing whoever asked.
    pub fn add(&mut self, caller: Option<&str>, now: Timestamp) -> Consequence {
        self.in_a_row = self.in_a_row.saturating_add(1);
        let Some(caller) = caller else {
            return if self.in_a_row >= FAILURES_TO_COOL {
                Consequence::CoolForAll
            } else {
                Consequence::Nothing
            };
        };
        self.callers.add(caller);
        if self.in_a_row >= FAILURES_TO_COOL && self.callers == Callers::Several {
            return Consequence::CoolForAll;
        }
        if self.of_callers.len() >= MAX_CALLERS && !self.of_callers.contains_key(caller) {
            self.of_callers.retain(|_, streak| streak.is_cooling(now));
            if self.of_callers.len() >= MAX_CALLERS {
                return Consequence::Nothing;
            }
        }
        let streak = self.of_callers.entry(caller.to_owned()).or_default();
        if streak.add(now) { Consequence::CoolForCaller } else { Consequence::Nothing }
    }

    /// A turn of this caller was served.
    pub fn end(&mut self, caller: Option<&str>) {
        self.forget_all();
        if let Some(caller) = caller {
            self.of_callers.remove(caller);
        }
    }

    /// Begins anew, but for the cooldowns of single callers.
    pub fn forget_all(&mut self) {
        self.in_a_row = 0;
        self.callers = Callers::None;
    }

    /// Until when the account cools down for this caller.
    pub fn cooling_until(&self, caller: Option<&str>, now: Timestamp) -> Option<Timestamp> {
        self.of_callers.get(caller?)?.cooling_until.filter(|until| *until > now)
    }
}

// === impl Callers ===

impl Callers {
    fn add(&mut self, caller: &str) {
        match self {
            Self::None => *self = Self::One(caller.to_owned()),
            Self::One(known) if known != caller => *self = Self::Several,
            Self::One(_) | Self::Several => {}
        }
    }
}

// === impl Streak ===

impl Streak {
    fn is_cooling(&self, now: Timestamp) -> bool {
        self.cooling_until.is_some_and(|until| until > now)
    }

    /// `true` if a cooldown begins.
    fn add(&mut self, now: Timestamp) -> bool {
        if self.is_cooling(now) {
            return false;
        }
        if self.cooling_until.take().is_some() {
            self.failures = 0;
        }
        self.failures += 1;
        let cools = self.failures >= FAILURES_TO_COOL;
        if cools {
            self.cooling_until = Some(now.plus(next_cooling(self.coolings)));
            self.coolings += 1;
        }
        cools
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_unix_ms(1_000_000);

    #[test]
    fn what_one_caller_runs_into_cools_an_account_down_for_that_caller_alone() {
        let mut failures = Failures::default();
        let consequences = [(); 5].map(|()| failures.add(Some("a"), START));
        let [Consequence::Nothing, Consequence::Nothing, Consequence::CoolForCaller, rest @ ..] =
            consequences
        else {
            panic!("{consequences:?}");
        };
        assert_eq!(
            rest,
            [Consequence::Nothing; 2],
            "failures of turns that were sent before say nothing new"
        );
        assert_eq!(failures.cooling_until(Some("a"), START), Some(START.plus(FIRST_COOLING)));
        assert_eq!(
            (failures.cooling_until(Some("b"), START), failures.cooling_until(None, START)),
            (None, None)
        );
        assert_eq!(failures.add(Some("b"), START), Consequence::CoolForAll, "two callers are not to blame");
    }

    #[test]
    fn a_turn_that_is_served_ends_what_counts_against_all_and_its_own_caller() {
        let mut failures = Failures::default();
        for caller in ["a", "a", "a", "b"] {
            failures.add(Some(caller), START);
        }
        failures.end(Some("b"));
        assert_eq!(failures.add(Some("b"), START), Consequence::Nothing);
        assert!(
            failures.cooling_until(Some("a"), START).is_some(),
            "the other caller's turns were not served"
        );
        failures.end(Some("a"));
        assert!(failures.cooling_until(Some("a"), START).is_none());
    }

    #[test]
    fn what_no_caller_can_cause_counts_against_the_account() {
        let mut failures = Failures::default();
        let consequences = [(); 3].map(|()| failures.add(None, START));
        assert_eq!(consequences, [Consequence::Nothing, Consequence::Nothing, Consequence::CoolForAll]);
    }

    #[test]
    fn callers_without_number_take_no_memory_without_bound() {
        let mut failures = Failures::default();
        for n in 0..5 * MAX_CALLERS {
            failures.end(None);
            failures.add(Some(&n.to_string()), START);
        }
        assert!(failures.of_callers.len() <= MAX_CALLERS);
    }
}
