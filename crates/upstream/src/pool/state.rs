//! What an account has been through, and whether it can be chosen. No I/O, and time is passed in.

use std::collections::HashMap;
use std::time::Duration;

use antiphon_store::Timestamp;

use super::verdict::Verdict;

/// How long an account cools first; each further time twice as long, up to [`LONGEST_COOLING`].
const FIRST_COOLING: Duration = Duration::from_secs(1);
const LONGEST_COOLING: Duration = Duration::from_secs(30);
/// An upstream that asks for more patience than this is not taken at its word.
const LONGEST_WAIT: Duration = Duration::from_hours(8 * 24);
/// For a quota that does not say when it is renewed.
const QUOTA_COOLING: Duration = Duration::from_hours(1);
/// For a model that an upstream says it does not have.
const MODEL_COOLING: Duration = Duration::from_mins(5);
/// So many failures in a row make an account cool.
const FAILURES_TO_COOL: u32 = 3;

/// One account's state.
#[derive(Debug, Default, Clone)]
pub struct AccountState {
    /// Turns that hold a lease.
    pub in_flight: u32,
    pub cooling: Option<Cooling>,
    /// The upstream refuses its credential.
    pub is_disabled: bool,
    /// The operator wants it left alone.
    pub is_paused: bool,
    /// In a row, since it last served a turn.
    failures: u32,
    /// How often it has cooled without being told for how long, since it last served a turn.
    coolings: u32,
    /// Models that it turned out not to have, and until when that is believed.
    missing_models: HashMap<String, Timestamp>,
}

/// Whether another account offers the model. Failures of the last one keep nobody from trying it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Substitute {
    Exists,
    Missing,
}

/// Why an account is left alone, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cooling {
    pub until: Timestamp,
    pub reason: CoolingReason,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CoolingReason {
    /// It has failed several times in a row.
    Failures,
    /// It was asked too often.
    RateLimit,
    /// It has used up what it may.
    Quota,
}

/// Whether an account can be chosen for a model now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    Ready,
    Cooling(Cooling),
    ModelMissing,
    Disabled,
    Paused,
}

// === impl AccountState ===

impl AccountState {
    pub fn readiness(&self, model: &str, now: Timestamp) -> Readiness {
        if self.is_paused {
            Readiness::Paused
        } else if self.is_disabled {
            Readiness::Disabled
        } else if let Some(cooling) = self.cooling.filter(|cooling| cooling.until > now) {
            Readiness::Cooling(cooling)
        } else if self.missing_models.get(model).is_some_and(|until| *until > now) {
            Readiness::ModelMissing
        } else {
            Readiness::Ready
        }
    }

    /// What the account is called in metrics and lists, whatever the model.
    pub fn name(&self, now: Timestamp) -> &'static str {
        match self.readiness("", now) {
            Readiness::Ready | Readiness::ModelMissing => "ready",
            Readiness::Cooling(_) => "cooling",
            Readiness::Disabled => "disabled",
            Readiness::Paused => "paused",
        }
    }

    /// Learns from an attempt.
    pub fn learn(&mut self, verdict: &Verdict, model: &str, substitute: Substitute, now: Timestamp) {
        match verdict {
            Verdict::Served => {
                self.failures = 0;
                self.coolings = 0;
                self.missing_models.remove(model);
            }
            Verdict::Failed => self.fail(substitute, now),
            Verdict::RateLimited { until } => self.cool(CoolingReason::RateLimit, *until, now),
            Verdict::OutOfQuota { until } => {
                self.cool(CoolingReason::Quota, Some(until.unwrap_or(now.plus(QUOTA_COOLING))), now);
            }
            Verdict::CredentialRefused => self.is_disabled = true,
            Verdict::ModelMissing => {
                self.missing_models.retain(|_, until| *until > now);
                self.missing_models.insert(model.to_owned(), now.plus(MODEL_COOLING));
            }
            Verdict::Neutral => {}
        }
    }

    /// It was left alone after failures, and answers again. `false` if that is not what it is left alone for.
    pub fn revive(&mut self) -> bool {
        let is_over = self.cooling.take_if(|cooling| cooling.reason == CoolingReason::Failures).is_some();
        if is_over {
            self.failures = 0;
        }
        is_over
    }

    /// For the account as it is configured anew; with another identity only an operator's wish still holds.
    pub fn carried_over(self, is_same: bool) -> Self {
        if is_same {
            Self { in_flight: 0, ..self }
        } else {
            Self { is_paused: self.is_paused, ..Self::default() }
        }
    }

    /// Takes over what another replica, an operator, or a process before this one has made of the account.
    pub fn put(&mut self, cooling: Option<Cooling>, is_disabled: bool) {
        self.cooling = cooling;
        self.is_disabled = is_disabled;
        if cooling.is_none() {
            self.failures = 0;
            self.coolings = 0;
        }
    }

    fn fail(&mut self, substitute: Substitute, now: Timestamp) {
        // What fails while the account cools was sent before, and is one failure with those that it cools for.
        if self.cooling.is_some_and(|cooling| cooling.until > now) {
            return;
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures >= FAILURES_TO_COOL && substitute == Substitute::Exists {
            self.cool(CoolingReason::Failures, None, now);
        }
    }

    fn cool(&mut self, reason: CoolingReason, until: Option<Timestamp>, now: Timestamp) {
        let cooling = self.cooling.filter(|cooling| cooling.until > now);
        let until = match until {
            Some(until) => until.min(now.plus(LONGEST_WAIT)),
            None if cooling.is_some() => return,
            None => {
                let doublings = self.coolings.min(16);
                self.coolings += 1;
                now.plus(FIRST_COOLING.saturating_mul(1 << doublings).min(LONGEST_COOLING))
            }
        };
        if cooling.is_none_or(|cooling| cooling.until < until) {
            self.cooling = Some(Cooling { until, reason });
        }
    }
}

// === impl CoolingReason ===

impl CoolingReason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failures => "failures",
            Self::RateLimit => "rate_limit",
            Self::Quota => "quota",
        }
    }

    /// `None` for a reason of another build.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Failures, Self::RateLimit, Self::Quota].into_iter().find(|reason| reason.as_str() == text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_unix_ms(1_000_000);

    fn after(ms: u64) -> Timestamp {
        START.plus(Duration::from_millis(ms))
    }

    fn cooling_ms(state: &AccountState, now: Timestamp) -> Option<i64> {
        match state.readiness("m", now) {
            Readiness::Cooling(cooling) => Some(cooling.until.unix_ms() - now.unix_ms()),
            _ => None,
        }
    }

    #[test]
    fn three_failures_in_a_row_cool_an_account_and_each_time_for_longer() {
        let mut state = AccountState::default();
        let mut fail = |at: u64| {
            state.learn(&Verdict::Failed, "m", Substitute::Exists, after(at));
            cooling_ms(&state, after(at))
        };
        assert_eq!((fail(0), fail(1), fail(2)), (None, None, Some(1000)));
        assert_eq!(fail(3), Some(999), "what fails while it cools says nothing new");
        assert_eq!((fail(1_002), fail(3_002), fail(7_002)), (Some(2_000), Some(4_000), Some(8_000)));
        assert_eq!((fail(15_002), fail(31_002), fail(61_002)), (Some(16_000), Some(30_000), Some(30_000)));
        state.learn(&Verdict::Served, "m", Substitute::Exists, after(91_002));
        state.learn(&Verdict::Failed, "m", Substitute::Exists, after(91_003));
        assert_eq!(state.readiness("m", after(91_003)), Readiness::Ready);
    }

    #[test]
    fn the_only_account_is_tried_again_whatever_has_failed() {
        let mut state = AccountState::default();
        for n in 0..10 {
            state.learn(&Verdict::Failed, "m", Substitute::Missing, after(n));
            assert_eq!(state.readiness("m", after(n)), Readiness::Ready);
        }
    }

    #[test]
    fn a_rate_limit_cools_until_its_reset_and_else_for_a_second_and_then_twice_as_long() {
        let mut state = AccountState::default();
        let limited = |until| Verdict::RateLimited { until };
        state.learn(&limited(Some(after(700))), "m", Substitute::Missing, START);
        assert_eq!(cooling_ms(&state, START), Some(700));
        state.learn(&limited(Some(after(400))), "m", Substitute::Missing, START);
        assert_eq!(cooling_ms(&state, START), Some(700), "the later end counts");
        for expected in [1_000, 2_000, 4_000] {
            let now = after(10_000 * expected);
            state.learn(&limited(None), "m", Substitute::Missing, now);
            assert_eq!(cooling_ms(&state, now), Some(i64::try_from(expected).unwrap()));
        }
        let for_ever = Some(Timestamp::from_unix_ms(i64::MAX));
        state.learn(&limited(for_ever), "m", Substitute::Missing, START);
        assert!(cooling_ms(&state, START).unwrap() < 9 * 24 * 3_600_000);
    }

    #[test]
    fn a_quota_without_a_reset_cools_for_an_hour() {
        let mut state = AccountState::default();
        state.learn(&Verdict::OutOfQuota { until: None }, "m", Substitute::Exists, START);
        assert_eq!(cooling_ms(&state, START), Some(3_600_000));
        assert_eq!(state.name(START), "cooling");
    }

    #[test]
    fn a_missing_model_and_a_refused_credential_say_nothing_of_anything_else() {
        let mut state = AccountState::default();
        state.learn(&Verdict::ModelMissing, "m", Substitute::Exists, START);
        assert_eq!(state.readiness("m", START), Readiness::ModelMissing);
        assert_eq!(state.readiness("n", START), Readiness::Ready);
        assert_eq!(state.readiness("m", after(300_000)), Readiness::Ready);
        state.learn(&Verdict::CredentialRefused, "m", Substitute::Exists, START);
        assert_eq!(state.readiness("n", START), Readiness::Disabled);
    }
}
