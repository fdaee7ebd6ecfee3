//! What an account has been through, and whether it can be chosen. No I/O, and time is passed in.

use std::collections::HashMap;
use std::time::Duration;

use antiphon_store::Timestamp;

use super::failures::{Consequence, Failures, next_cooling};
use super::verdict::Verdict;

/// An upstream that asks for more patience than this is not taken at its word.
const LONGEST_WAIT: Duration = Duration::from_hours(8 * 24);
/// For a quota that does not say when it is renewed.
const QUOTA_COOLING: Duration = Duration::from_hours(1);
/// For a model that an upstream says it does not have.
const MODEL_COOLING: Duration = Duration::from_mins(5);

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
    /// It may be of no use; that is being verified. Other accounts go first meanwhile.
    pub doubt: Option<Doubt>,
    /// Since it last served a turn.
    failures: Failures,
    /// How often it has cooled down without being told for how long, since it last served a turn.
    coolings: u32,
    /// Models that it turned out not to have, and until when that is believed.
    missing_models: HashMap<String, Timestamp>,
}

/// Why an account is doubted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// It refused a turn for its credential.
    Credential,
    /// It failed several turns of one caller.
    Failures,
}

/// A turn's verdict on its account.
#[derive(Debug, Clone, Copy)]
pub struct Lesson<'a> {
    pub verdict: &'a Verdict,
    pub model: &'a str,
    /// Whose turn it was; `None` if callers are not told apart.
    pub caller: Option<&'a str>,
    /// Whether another account could serve the model now. The last one that can never cools down for failures.
    pub has_alternative: bool,
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

    /// As [`readiness`](Self::readiness), for a turn of this caller.
    pub fn readiness_for(&self, model: &str, caller: Option<&str>, now: Timestamp) -> Readiness {
        let own_cooling = || {
            let until = self.failures.cooling_until(caller, now)?;
            Some(Readiness::Cooling(Cooling { until, reason: CoolingReason::Failures }))
        };
        match self.readiness(model, now) {
            Readiness::Ready => own_cooling().unwrap_or(Readiness::Ready),
            readiness => readiness,
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
    pub fn learn(&mut self, lesson: Lesson<'_>, now: Timestamp) {
        match lesson.verdict {
            Verdict::Served => {
                self.failures.end(lesson.caller);
                self.doubt = None;
                self.coolings = 0;
                self.missing_models.remove(lesson.model);
            }
            Verdict::Unreachable | Verdict::Failed => self.fail(lesson, now),
            Verdict::RateLimited { until } => self.cool(CoolingReason::RateLimit, *until, now),
            Verdict::OutOfQuota { until } => {
                self.cool(CoolingReason::Quota, Some(until.unwrap_or(now.plus(QUOTA_COOLING))), now);
            }
            Verdict::CredentialRefused => self.doubt = Some(Doubt::Credential),
            Verdict::CredentialInvalid => {
                self.doubt = None;
                self.is_disabled = true;
            }
            Verdict::ModelMissing => {
                self.missing_models.retain(|_, until| *until > now);
                self.missing_models.insert(lesson.model.to_owned(), now.plus(MODEL_COOLING));
            }
            Verdict::Neutral => {}
        }
    }

    /// A request with nothing of a client's has been answered.
    pub fn clear_doubt(&mut self) {
        self.doubt = None;
        self.failures.forget_all();
    }

    /// A request with nothing of a client's has failed as well.
    pub fn confirm_failures(&mut self, has_alternative: bool, now: Timestamp) {
        if self.doubt.take_if(|doubt| *doubt == Doubt::Failures).is_some() && has_alternative {
            self.cool(CoolingReason::Failures, None, now);
        }
    }

    /// It was left alone after failures, and answers again. `false` if that is not what it is left alone for.
    pub fn revive(&mut self) -> bool {
        let is_over = self.cooling.take_if(|cooling| cooling.reason == CoolingReason::Failures).is_some();
        if is_over {
            self.failures.forget_all();
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
            self.failures.forget_all();
            self.coolings = 0;
        }
    }

    fn fail(&mut self, lesson: Lesson<'_>, now: Timestamp) {
        match self.cooling {
            // What fails while the account cools down was sent before, and is one failure with those before it.
            Some(cooling) if cooling.until > now => return,
            Some(_) => {
                self.cooling = None;
                self.failures.forget_all();
            }
            None => {}
        }
        if !lesson.has_alternative {
            return;
        }
        let caller = lesson.caller.filter(|_| *lesson.verdict == Verdict::Failed);
        match self.failures.add(caller, now) {
            Consequence::Nothing => {}
            Consequence::CoolForAll => self.cool(CoolingReason::Failures, None, now),
            Consequence::CoolForCaller => self.doubt = self.doubt.or(Some(Doubt::Failures)),
        }
    }

    fn cool(&mut self, reason: CoolingReason, until: Option<Timestamp>, now: Timestamp) {
        let cooling = self.cooling.filter(|cooling| cooling.until > now);
        let until = match until {
            Some(until) => until.min(now.plus(LONGEST_WAIT)),
            None if cooling.is_some() => return,
            None => {
                let rest = next_cooling(self.coolings);
                self.coolings += 1;
                now.plus(rest)
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

    /// What a turn of one of two callers by turns says.
    fn learn(state: &mut AccountState, verdict: &Verdict, has_alternative: bool, now: Timestamp) {
        let caller = Some(if now.unix_ms() % 2 == 0 { "even" } else { "odd" });
        state.learn(Lesson { verdict, model: "m", caller, has_alternative }, now);
    }

    #[test]
    fn three_failures_in_a_row_cool_an_account_and_each_time_for_longer() {
        let mut state = AccountState::default();
        let mut fail = |at: u64| {
            learn(&mut state, &Verdict::Failed, true, after(at));
            cooling_ms(&state, after(at))
        };
        assert_eq!((fail(0), fail(1), fail(2)), (None, None, Some(1000)));
        assert_eq!(fail(3), Some(999), "what fails while it cools says nothing new");
        for (start, expected) in
            [(1_002, 2_000), (3_004, 4_000), (7_006, 8_000), (15_008, 16_000), (31_010, 30_000)]
        {
            assert_eq!(
                (fail(start), fail(start + 1)),
                (None, None),
                "failures before the cooldown are forgotten"
            );
            assert_eq!(fail(start + 2), Some(expected));
        }
        learn(&mut state, &Verdict::Served, true, after(91_002));
        learn(&mut state, &Verdict::Failed, true, after(91_003));
        assert_eq!(state.readiness("m", after(91_003)), Readiness::Ready);
    }

    #[test]
    fn what_one_caller_runs_into_keeps_nobody_else_from_an_account() {
        let fail = |state: &mut AccountState, caller| {
            let lesson = Lesson { verdict: &Verdict::Failed, model: "m", caller, has_alternative: true };
            state.learn(lesson, START);
        };
        let mut state = AccountState::default();
        for _ in 0..10 {
            fail(&mut state, Some("a"));
        }
        assert!(matches!(state.readiness_for("m", Some("a"), START), Readiness::Cooling(_)));
        assert_eq!(state.readiness_for("m", Some("b"), START), Readiness::Ready);
        assert_eq!((state.doubt, state.name(START)), (Some(Doubt::Failures), "ready"));
        let mut failing = state.clone();
        failing.confirm_failures(true, START);
        assert_eq!(
            (failing.doubt, failing.name(START)),
            (None, "cooling"),
            "it fails a request of our own as well"
        );
        state.clear_doubt();
        assert_eq!((state.doubt, state.name(START)), (None, "ready"));
        let mut open = AccountState::default();
        for _ in 0..3 {
            fail(&mut open, None);
        }
        assert_eq!(
            open.name(START),
            "cooling",
            "where callers are not told apart there is nobody to protect"
        );
    }

    #[test]
    fn a_refused_credential_is_doubted_until_it_is_confirmed() {
        let mut state = AccountState::default();
        learn(&mut state, &Verdict::CredentialRefused, true, START);
        assert_eq!((state.doubt, state.readiness("m", START)), (Some(Doubt::Credential), Readiness::Ready));
        let mut served = state.clone();
        learn(&mut served, &Verdict::Served, true, START);
        assert_eq!(served.doubt, None);
        learn(&mut state, &Verdict::CredentialInvalid, true, START);
        assert_eq!((state.doubt, state.readiness("m", START)), (None, Readiness::Disabled));
    }

    #[test]
    fn the_only_account_is_tried_again_whatever_has_failed() {
        let mut state = AccountState::default();
        for n in 0..10 {
            learn(&mut state, &Verdict::Failed, false, after(n));
            assert_eq!(state.readiness("m", after(n)), Readiness::Ready);
        }
    }

    #[test]
    fn a_rate_limit_cools_until_its_reset_and_else_for_a_second_and_then_twice_as_long() {
        let mut state = AccountState::default();
        let limited = |until| Verdict::RateLimited { until };
        learn(&mut state, &limited(Some(after(700))), false, START);
        assert_eq!(cooling_ms(&state, START), Some(700));
        learn(&mut state, &limited(Some(after(400))), false, START);
        assert_eq!(cooling_ms(&state, START), Some(700), "the later end counts");
        for expected in [1_000, 2_000, 4_000] {
            let now = after(10_000 * expected);
            learn(&mut state, &limited(None), false, now);
            assert_eq!(cooling_ms(&state, now), Some(i64::try_from(expected).unwrap()));
        }
        let for_ever = Some(Timestamp::from_unix_ms(i64::MAX));
        learn(&mut state, &limited(for_ever), false, START);
        assert!(cooling_ms(&state, START).unwrap() < 9 * 24 * 3_600_000);
    }

    #[test]
    fn a_quota_without_a_reset_cools_for_an_hour() {
        let mut state = AccountState::default();
        learn(&mut state, &Verdict::OutOfQuota { until: None }, true, START);
        assert_eq!(cooling_ms(&state, START), Some(3_600_000));
        assert_eq!(state.name(START), "cooling");
    }

    #[test]
    fn a_missing_model_and_a_refused_credential_say_nothing_of_anything_else() {
        let mut state = AccountState::default();
        learn(&mut state, &Verdict::ModelMissing, true, START);
        assert_eq!(state.readiness("m", START), Readiness::ModelMissing);
        assert_eq!(state.readiness("n", START), Readiness::Ready);
        assert_eq!(state.readiness("m", after(300_000)), Readiness::Ready);
        learn(&mut state, &Verdict::CredentialInvalid, true, START);
        assert_eq!(state.readiness("n", START), Readiness::Disabled);
    }
}
