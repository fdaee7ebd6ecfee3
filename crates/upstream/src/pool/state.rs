//! An account's state: what attempts make of it, and whether it can be chosen. No I/O, and time is passed in.

use std::time::Duration;

use antiphon_protocol::request::Operation;
use antiphon_store::Timestamp;

use super::failures::{Consequence, Failures, next_cooldown};
use super::missing::Missing;
use super::verdict::Verdict;

/// The longest cooldown that an upstream can ask for.
const MAX_REQUESTED_COOLDOWN: Duration = Duration::from_hours(8 * 24);
/// For a quota whose reset is not known.
const QUOTA_COOLDOWN: Duration = Duration::from_hours(1);
/// No cooldown begins so much later than now, as the clocks of replicas may: this machine's clock was set back.
const MAX_CLOCK_DIFFERENCE: Duration = Duration::from_secs(10);

/// One account's state.
#[derive(Debug, Default, Clone)]
pub struct AccountState {
    /// Turns that hold a lease, also one from before a change of the configuration.
    pub in_flight: u32,
    pub cooldown: Option<Cooldown>,
    /// When the cooldown began, or was stored.
    cooling_since: Option<Timestamp>,
    /// The upstream refuses its credential.
    pub is_disabled: bool,
    /// An operator has paused it.
    pub is_paused: bool,
    /// It may be unusable. Other accounts are preferred until that is verified.
    pub doubt: Option<Doubt>,
    /// Failures since it last served a turn.
    failures: Failures,
    /// Cooldowns of a length that no upstream gave, since it last served a turn.
    cooldowns: u32,
    /// Models that it does not have, or not at an endpoint.
    missing_models: Missing,
    /// Endpoints that it does not have, or not for a model.
    missing_endpoints: Missing,
}

/// Why an account is doubted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// It refused a turn for its credential.
    Credential,
    /// It failed several turns of one caller.
    Failures,
}

/// The outcome of an attempt to serve a turn.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'a> {
    pub verdict: &'a Verdict,
    pub operation: Operation,
    pub model: &'a str,
    /// Whose turn it was; `None` if callers are not known.
    pub caller: Option<&'a str>,
    /// Whether another account could serve the model now. Without one, failures start no cooldown.
    pub has_alternative: bool,
}

/// Until when an account is not chosen, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cooldown {
    pub until: Timestamp,
    pub reason: CooldownReason,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CooldownReason {
    /// It has failed several times in a row.
    Failures,
    /// Its upstream limits how often it may be used.
    RateLimit,
    /// Its quota is used up.
    Quota,
}

/// Whether an account can be chosen for a model now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    Ready,
    Cooling(Cooldown),
    ModelMissing,
    Disabled,
    Paused,
}

// === impl AccountState ===

impl AccountState {
    /// For all models.
    pub fn readiness(&self, now: Timestamp) -> Readiness {
        if self.is_paused {
            Readiness::Paused
        } else if self.is_disabled {
            Readiness::Disabled
        } else if let Some(cooldown) = self.cooldown_at(now) {
            Readiness::Cooling(cooldown)
        } else {
            Readiness::Ready
        }
    }

    /// For turns of this kind.
    pub fn readiness_for(&self, operation: Operation, model: &str, now: Timestamp) -> Readiness {
        match self.readiness(now) {
            Readiness::Ready if self.missing_models.has(operation, model, now) => Readiness::ModelMissing,
            readiness => readiness,
        }
    }

    /// The cooldown that is not over. Once the clock was set back, nobody knows what is left of one: it counts as over, as the upstream
    /// says again if it limits the account.
    pub fn cooldown_at(&self, now: Timestamp) -> Option<Cooldown> {
        self.cooldown.filter(|cooldown| cooldown.until > now && !self.begins_later(now))
    }

    /// What replicas and the next start have to know of the cooldown, whether it is over or not.
    pub fn shared_cooldown(&self, now: Timestamp) -> Option<Cooldown> {
        self.cooldown.filter(|_| !self.begins_later(now))
    }

    fn begins_later(&self, now: Timestamp) -> bool {
        self.cooling_since.is_some_and(|since| since.since(now) > MAX_CLOCK_DIFFERENCE)
    }

    /// For turns of this kind and caller.
    pub fn readiness_for_caller(
        &self,
        operation: Operation,
        model: &str,
        caller: Option<&str>,
        now: Timestamp,
    ) -> Readiness {
        match self.readiness_for(operation, model, now) {
            Readiness::Ready => self.cooldown_of(caller, now).map_or(Readiness::Ready, Readiness::Cooling),
            readiness => readiness,
        }
    }

    fn cooldown_of(&self, caller: Option<&str>, now: Timestamp) -> Option<Cooldown> {
        let until = self.failures.cooldown_until(caller, now)?;
        Some(Cooldown { until, reason: CooldownReason::Failures })
    }

    pub fn lacks_endpoint(&self, operation: Operation, model: &str, now: Timestamp) -> bool {
        self.missing_endpoints.has(operation, model, now)
    }

    /// Whether it serves the model at every endpoint where the other account does, as far as is known.
    pub fn serves_wherever(&self, other: &Self, model: &str, now: Timestamp) -> bool {
        self.lacks(model, now).all(|endpoint| other.lacks(model, now).any(|lacked| lacked == endpoint))
    }

    /// The endpoints where it does not serve the model.
    fn lacks(&self, model: &str, now: Timestamp) -> impl Iterator<Item = Operation> {
        self.missing_models.endpoints(model, now).chain(self.missing_endpoints.endpoints(model, now))
    }

    /// The state's name in metrics and lists, whatever the model.
    pub fn label(&self, now: Timestamp) -> &'static str {
        match self.readiness(now) {
            Readiness::Ready | Readiness::ModelMissing => "ready",
            Readiness::Cooling(_) => "cooling",
            Readiness::Disabled => "disabled",
            Readiness::Paused => "paused",
        }
    }

    /// What an attempt says about the account.
    pub fn record_attempt(&mut self, attempt: Attempt<'_>, now: Timestamp) {
        match attempt.verdict {
            Verdict::Served => {
                self.failures.record_success(attempt.caller);
                self.doubt = None;
                self.cooldown = self.cooldown_at(now);
                self.cooldowns = 0;
                self.missing_models.remove(attempt.operation, attempt.model);
            }
            Verdict::Unreachable | Verdict::Failed => self.record_failure(attempt, now),
            Verdict::RateLimited { until } => self.start_cooldown(CooldownReason::RateLimit, *until, now),
            Verdict::OutOfQuota { until } => {
                self.start_cooldown(
                    CooldownReason::Quota,
                    Some(until.unwrap_or(now.plus(QUOTA_COOLDOWN))),
                    now,
                );
            }
            Verdict::CredentialRefused => self.doubt = Some(Doubt::Credential),
            Verdict::CredentialInvalid => {
                self.doubt = None;
                self.is_disabled = true;
            }
            Verdict::ModelMissing => self.missing_models.add(attempt.operation, attempt.model, now),
            Verdict::EndpointMissing => self.missing_endpoints.add(attempt.operation, attempt.model, now),
            Verdict::TooLarge | Verdict::Unsupported | Verdict::Neutral => {}
        }
    }

    /// The upstream has served a request that contains nothing from a client.
    pub fn clear_doubt(&mut self) {
        self.doubt = None;
        self.failures.reset();
    }

    /// A request that contains nothing from a client has failed as well.
    pub fn confirm_failures(&mut self, has_alternative: bool, now: Timestamp) {
        if self.doubt.take_if(|doubt| *doubt == Doubt::Failures).is_some() && has_alternative {
            self.start_cooldown(CooldownReason::Failures, None, now);
        }
    }

    /// Returns whether there was one.
    pub fn end_failure_cooldown(&mut self) -> bool {
        let is_over = self.cooldown.take_if(|cooldown| cooldown.reason == CooldownReason::Failures).is_some();
        if is_over {
            self.failures.reset();
        }
        is_over
    }

    /// The state of another identity with the same name. Only a pause and the turns in flight outlive the change.
    pub fn after_change_of_identity(self) -> Self {
        Self { in_flight: self.in_flight, is_paused: self.is_paused, ..Self::default() }
    }

    /// Whether it has failed since it last served a turn, or came back from a cooldown after failures and is not proven yet.
    pub fn has_failed(&self) -> bool {
        self.cooldown.is_some_and(|cooldown| cooldown.reason == CooldownReason::Failures)
            || self.failures.has_any()
    }

    /// Takes over state from the store: that of another replica, of an operator, or from before a restart.
    pub fn apply_stored(&mut self, cooldown: Option<Cooldown>, is_disabled: bool, changed_at: Timestamp) {
        self.cooldown = cooldown;
        self.cooling_since = Some(changed_at);
        self.is_disabled = is_disabled;
        if cooldown.is_none() {
            self.failures.reset();
            self.cooldowns = 0;
        }
    }

    fn record_failure(&mut self, attempt: Attempt<'_>, now: Timestamp) {
        if self.cooldown_at(now).is_some() {
            // Turns that fail during a cooldown were sent before it, and belong to the failures that caused it.
            return;
        }
        if self.cooldown.take().is_some() {
            self.failures.reset();
        }
        let caller = attempt.caller.filter(|_| *attempt.verdict == Verdict::Failed);
        match self.failures.add(caller, attempt.has_alternative, now) {
            Consequence::Nothing => {}
            Consequence::CooldownForAll => self.start_cooldown(CooldownReason::Failures, None, now),
            Consequence::CooldownForCaller => self.doubt = self.doubt.or(Some(Doubt::Failures)),
        }
    }

    fn start_cooldown(&mut self, reason: CooldownReason, until: Option<Timestamp>, now: Timestamp) {
        let cooldown = self.cooldown_at(now);
        // A time that is over says nothing: every turn would ask the limited account first.
        let until = match until.filter(|until| *until > now) {
            Some(until) => until.min(now.plus(MAX_REQUESTED_COOLDOWN)),
            None if cooldown.is_some() => return,
            None => {
                let length = next_cooldown(self.cooldowns);
                self.cooldowns += 1;
                now.plus(length)
            }
        };
        if cooldown.is_none_or(|cooldown| cooldown.until < until) {
            self.cooldown = Some(Cooldown { until, reason });
            self.cooling_since = Some(now);
        }
    }
}

// === impl CooldownReason ===

impl CooldownReason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failures => "failures",
            Self::RateLimit => "rate_limit",
            Self::Quota => "quota",
        }
    }

    /// `None` for a reason that another version has written.
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

    fn cooldown_ms(state: &AccountState, now: Timestamp) -> Option<i64> {
        match state.readiness(now) {
            Readiness::Cooling(cooldown) => Some(cooldown.until.unix_ms() - now.unix_ms()),
            _ => None,
        }
    }

    fn attempt<'a>(verdict: &'a Verdict, caller: Option<&'a str>, has_alternative: bool) -> Attempt<'a> {
        Attempt { verdict, operation: Operation::Create, model: "m", caller, has_alternative }
    }

    /// Records an attempt for one of two callers, who alternate.
    fn record(state: &mut AccountState, verdict: &Verdict, has_alternative: bool, now: Timestamp) {
        let caller = Some(if now.unix_ms() % 2 == 0 { "even" } else { "odd" });
        state.record_attempt(attempt(verdict, caller, has_alternative), now);
    }

    #[test]
    fn three_consecutive_failures_start_a_cooldown_and_each_one_is_longer() {
        let mut state = AccountState::default();
        let mut fail = |at: u64| {
            record(&mut state, &Verdict::Failed, true, after(at));
            cooldown_ms(&state, after(at))
        };
        assert_eq!((fail(0), fail(1), fail(2)), (None, None, Some(1000)));
        assert_eq!(fail(3), Some(999), "failures during a cooldown do not count");
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
        record(&mut state, &Verdict::Served, true, after(91_002));
        record(&mut state, &Verdict::Failed, true, after(91_003));
        assert_eq!(state.readiness(after(91_003)), Readiness::Ready);
    }

    #[test]
    fn failures_of_one_caller_do_not_affect_other_callers() {
        let fail = |state: &mut AccountState, caller| {
            let attempt = attempt(&Verdict::Failed, caller, true);
            state.record_attempt(attempt, START);
        };
        let mut state = AccountState::default();
        for _ in 0..10 {
            fail(&mut state, Some("a"));
        }
        assert!(matches!(
            state.readiness_for_caller(Operation::Create, "m", Some("a"), START),
            Readiness::Cooling(_)
        ));
        assert_eq!(state.readiness_for_caller(Operation::Create, "m", Some("b"), START), Readiness::Ready);
        assert_eq!((state.doubt, state.label(START)), (Some(Doubt::Failures), "ready"));
        let mut failing = state.clone();
        failing.confirm_failures(true, START);
        assert_eq!(
            (failing.doubt, failing.label(START)),
            (None, "cooling"),
            "it fails the gateway's own request as well"
        );
        state.clear_doubt();
        assert_eq!((state.doubt, state.label(START)), (None, "ready"));
        let mut open = AccountState::default();
        for _ in 0..3 {
            fail(&mut open, None);
        }
        assert_eq!(
            open.label(START),
            "cooling",
            "without known callers all failures count against the account"
        );
    }

    #[test]
    fn a_refused_credential_is_doubted_until_it_is_verified() {
        let mut state = AccountState::default();
        record(&mut state, &Verdict::CredentialRefused, true, START);
        assert_eq!((state.doubt, state.readiness(START)), (Some(Doubt::Credential), Readiness::Ready));
        let mut served = state.clone();
        record(&mut served, &Verdict::Served, true, START);
        assert_eq!(served.doubt, None);
        record(&mut state, &Verdict::CredentialInvalid, true, START);
        assert_eq!((state.doubt, state.readiness(START)), (None, Readiness::Disabled));
    }

    #[test]
    fn a_clock_that_is_set_back_prolongs_no_cooldown() {
        let before = START.minus(Duration::from_hours(1));
        let until = Some(after(15_000));
        let mut state = AccountState::default();
        record(&mut state, &Verdict::RateLimited { until }, true, START);
        record(&mut state, &Verdict::ModelMissing, true, START);
        let small = START.minus(Duration::from_secs(9));
        assert_eq!(cooldown_ms(&state, small), Some(24_000), "clocks of replicas differ by that much");
        let readiness = state.readiness_for(Operation::Create, "m", before);
        assert_eq!((readiness, state.shared_cooldown(before)), (Readiness::Ready, None));
        assert_eq!(state.label(before), "ready");
        record(&mut state, &Verdict::RateLimited { until: Some(before.plus(QUOTA_COOLDOWN)) }, true, before);
        assert_eq!(cooldown_ms(&state, before), Some(3_600_000), "what the upstream says now counts");

        let mut restarted = AccountState::default();
        let stored = until.map(|until| Cooldown { until, reason: CooldownReason::RateLimit });
        restarted.apply_stored(stored, false, START);
        assert_eq!(cooldown_ms(&restarted, START), Some(15_000));
        assert_eq!(restarted.readiness(before), Readiness::Ready);
    }

    #[test]
    fn an_account_without_alternative_never_cools_down_after_failures() {
        let mut state = AccountState::default();
        for n in 0..10 {
            record(&mut state, &Verdict::Failed, false, after(n));
            assert_eq!(state.readiness(after(n)), Readiness::Ready);
        }
    }

    #[test]
    fn a_rate_limit_cools_down_until_its_reset_or_for_a_doubling_time() {
        let mut state = AccountState::default();
        let limited = |until| Verdict::RateLimited { until };
        record(&mut state, &limited(Some(after(700))), false, START);
        assert_eq!(cooldown_ms(&state, START), Some(700));
        record(&mut state, &limited(Some(after(400))), false, START);
        assert_eq!(cooldown_ms(&state, START), Some(700), "the later end counts");
        for expected in [1_000, 2_000, 4_000] {
            let now = after(10_000 * expected);
            record(&mut state, &limited(None), false, now);
            assert_eq!(cooldown_ms(&state, now), Some(i64::try_from(expected).unwrap()));
        }
        for (n, expected) in [(1, 8_000), (2, 16_000), (3, 30_000)] {
            let now = after(100_000_000 * n);
            let over = Some(Timestamp::from_unix_ms(now.unix_ms() - i64::try_from(n).unwrap() + 1));
            record(&mut state, &limited(over), false, now);
            assert_eq!(cooldown_ms(&state, now), Some(expected), "its reset is now, or was before");
        }
        let forever = Some(Timestamp::from_unix_ms(i64::MAX));
        record(&mut state, &limited(forever), false, START);
        assert!(cooldown_ms(&state, START).unwrap() < 9 * 24 * 3_600_000);
    }

    #[test]
    fn a_quota_without_a_reset_cools_down_for_an_hour() {
        let mut state = AccountState::default();
        record(&mut state, &Verdict::OutOfQuota { until: None }, true, START);
        assert_eq!(cooldown_ms(&state, START), Some(3_600_000));
        assert_eq!(state.label(START), "cooling");
        let mut state = AccountState::default();
        record(&mut state, &Verdict::OutOfQuota { until: Some(START) }, true, START);
        assert_eq!(cooldown_ms(&state, START), Some(1_000), "its reset is now");
    }

    #[test]
    fn a_missing_model_affects_only_that_model_and_a_refused_credential_all_models() {
        let mut state = AccountState::default();
        record(&mut state, &Verdict::ModelMissing, true, START);
        let create = |state: &AccountState, model, now| state.readiness_for(Operation::Create, model, now);
        assert_eq!(create(&state, "m", START), Readiness::ModelMissing);
        assert_eq!(create(&state, "n", START), Readiness::Ready);
        assert_eq!(create(&state, "m", after(300_000)), Readiness::Ready);
        assert_eq!(state.readiness_for(Operation::Embed, "m", START), Readiness::Ready, "another endpoint");
        record(&mut state, &Verdict::CredentialInvalid, true, START);
        assert_eq!(create(&state, "n", START), Readiness::Disabled);
    }
}
