//! An account's failures, and whether the account or a caller causes them.
//!
//! Failures of several callers' turns make an account cool down for all. Failures of one caller's turns may be caused by what
//! that caller sends, so the account cools down for that caller alone.

use std::collections::HashMap;
use std::time::Duration;

use antiphon_store::Timestamp;

/// This many consecutive failures make an account cool down.
const FAILURES_BEFORE_COOLDOWN: u32 = 3;
/// The first cooldown. Each further one is twice as long, up to [`MAX_COOLDOWN`].
const FIRST_COOLDOWN: Duration = Duration::from_secs(1);
const MAX_COOLDOWN: Duration = Duration::from_secs(30);
/// Callers that are counted separately. Beyond this, failures start no cooldown for a single caller.
const MAX_CALLERS: usize = 1_000;

/// The failures of one account since it last served a turn.
#[derive(Debug, Default, Clone)]
pub struct Failures {
    consecutive: u32,
    callers: Callers,
    streaks: HashMap<String, Streak>,
}

/// What a failure leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consequence {
    Nothing,
    /// The account cools down for all.
    CooldownForAll,
    /// The account has begun to cool down for this caller.
    CooldownForCaller,
}

/// Whose turns have failed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
enum Callers {
    #[default]
    None,
    One(String),
    Several,
}

/// Consecutive failures of one caller's turns.
#[derive(Debug, Default, Clone)]
struct Streak {
    failures: u32,
    cooldowns: u32,
    cooldown_until: Option<Timestamp>,
}

/// The length of the next cooldown, after this many.
pub fn next_cooldown(cooldowns: u32) -> Duration {
    FIRST_COOLDOWN.saturating_mul(1 << cooldowns.min(16)).min(MAX_COOLDOWN)
}

// === impl Failures ===

impl Failures {
    /// A turn failed. `caller` is `None` if it is not known, or if no caller can have caused the failure. Without an
    /// alternative to the account, nothing cools down.
    pub fn add(&mut self, caller: Option<&str>, has_alternative: bool, now: Timestamp) -> Consequence {
        self.consecutive = self.consecutive.saturating_add(1);
        if let Some(caller) = caller {
            self.callers.add(caller);
        }
        if !has_alternative {
            return Consequence::Nothing;
        }
        let Some(caller) = caller else {
            return if self.consecutive >= FAILURES_BEFORE_COOLDOWN {
                Consequence::CooldownForAll
            } else {
                Consequence::Nothing
            };
        };
        if self.consecutive >= FAILURES_BEFORE_COOLDOWN && self.callers == Callers::Several {
            return Consequence::CooldownForAll;
        }
        if self.streaks.len() >= MAX_CALLERS && !self.streaks.contains_key(caller) {
            self.streaks.retain(|_, streak| streak.is_cooling_down(now));
            if self.streaks.len() >= MAX_CALLERS {
                return Consequence::Nothing;
            }
        }
        let streak = self.streaks.entry(caller.to_owned()).or_default();
        if streak.add(now) { Consequence::CooldownForCaller } else { Consequence::Nothing }
    }

    pub fn has_any(&self) -> bool {
        self.consecutive > 0
    }

    /// A turn of this caller was served.
    pub fn record_success(&mut self, caller: Option<&str>) {
        self.reset();
        if let Some(caller) = caller {
            self.streaks.remove(caller);
        }
    }

    /// Forgets the failures, except for the cooldowns of single callers.
    pub fn reset(&mut self) {
        self.consecutive = 0;
        self.callers = Callers::None;
    }

    /// Until when the account cools down for this caller.
    pub fn cooldown_until(&self, caller: Option<&str>, now: Timestamp) -> Option<Timestamp> {
        self.streaks.get(caller?)?.cooldown_until.filter(|until| is_ahead(*until, now))
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
    fn is_cooling_down(&self, now: Timestamp) -> bool {
        self.cooldown_until.is_some_and(|until| is_ahead(until, now))
    }

    /// Returns whether a cooldown begins.
    fn add(&mut self, now: Timestamp) -> bool {
        if self.is_cooling_down(now) {
            return false;
        }
        if self.cooldown_until.take().is_some() {
            self.failures = 0;
        }
        self.failures += 1;
        let begins = self.failures >= FAILURES_BEFORE_COOLDOWN;
        if begins {
            self.cooldown_until = Some(now.plus(next_cooldown(self.cooldowns)));
            self.cooldowns += 1;
        }
        begins
    }
}

/// Whether a cooldown is not over. One that seems to last longer than any began before the clock was set back.
fn is_ahead(until: Timestamp, now: Timestamp) -> bool {
    until > now && until.since(now) <= MAX_COOLDOWN
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_unix_ms(1_000_000);

    #[test]
    fn failures_of_one_caller_cool_an_account_down_for_that_caller_alone() {
        let mut failures = Failures::default();
        let consequences = [(); 5].map(|()| failures.add(Some("a"), true, START));
        let [Consequence::Nothing, Consequence::Nothing, Consequence::CooldownForCaller, rest @ ..] =
            consequences
        else {
            panic!("{consequences:?}");
        };
        assert_eq!(
            rest,
            [Consequence::Nothing; 2],
            "failures of turns sent before the cooldown do not count"
        );
        assert_eq!(failures.cooldown_until(Some("a"), START), Some(START.plus(FIRST_COOLDOWN)));
        assert_eq!(
            (failures.cooldown_until(Some("b"), START), failures.cooldown_until(None, START)),
            (None, None)
        );
        assert_eq!(
            failures.add(Some("b"), true, START),
            Consequence::CooldownForAll,
            "two callers fail, so the account is the cause"
        );
    }

    #[test]
    fn a_clock_that_is_set_back_ends_the_cooldowns_of_callers() {
        let mut failures = Failures::default();
        for _ in 0..3 {
            failures.add(Some("a"), true, START);
        }
        assert!(failures.cooldown_until(Some("a"), START).is_some());
        let before = START.minus(Duration::from_mins(5));
        assert_eq!(failures.cooldown_until(Some("a"), before), None);
    }

    #[test]
    fn a_served_turn_resets_the_failures_for_all_and_for_its_caller() {
        let mut failures = Failures::default();
        for caller in ["a", "a", "a", "b"] {
            failures.add(Some(caller), true, START);
        }
        failures.record_success(Some("b"));
        assert_eq!(failures.add(Some("b"), true, START), Consequence::Nothing);
        assert!(
            failures.cooldown_until(Some("a"), START).is_some(),
            "the other caller's turns were not served"
        );
        failures.record_success(Some("a"));
        assert!(failures.cooldown_until(Some("a"), START).is_none());
    }

    #[test]
    fn failures_that_no_caller_can_cause_count_against_the_account() {
        let mut failures = Failures::default();
        let consequences = [(); 3].map(|()| failures.add(None, true, START));
        assert_eq!(consequences, [Consequence::Nothing, Consequence::Nothing, Consequence::CooldownForAll]);
    }

    #[test]
    fn memory_for_callers_is_bounded() {
        let mut failures = Failures::default();
        for n in 0..5 * MAX_CALLERS {
            failures.record_success(None);
            failures.add(Some(&n.to_string()), true, START);
        }
        assert!(failures.streaks.len() <= MAX_CALLERS);
    }
}
