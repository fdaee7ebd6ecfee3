//! The log lines of account states.

use antiphon_store::Timestamp;

use super::{Cooldown, Doubt, Readiness, Wanted};
use crate::account::Account;

pub fn log_state_change(
    account: &Account,
    readiness: Readiness,
    doubt: Option<Doubt>,
    wanted: Wanted<'_>,
    now: Timestamp,
) {
    let name = account.name.as_str();
    match doubt {
        Some(Doubt::Credential) => {
            tracing::warn!(account.id = name, "the upstream refused the account's credential; verifying it");
        }
        Some(Doubt::Failures) => {
            tracing::warn!(account.id = name, "the account fails the turns of one caller; verifying it");
        }
        None => {}
    }
    match readiness {
        Readiness::Cooling(Cooldown { until, reason }) => tracing::warn!(
            account.id = name,
            cooling.reason = reason.as_str(),
            cooling.ms = u64::try_from(until.since(now).as_millis()).unwrap_or(u64::MAX),
            "the account is cooling down"
        ),
        Readiness::ModelMissing => {
            let (model, path) = (wanted.model, wanted.operation.path());
            tracing::warn!(
                account.id = name,
                model,
                path,
                "the upstream does not offer the model to this account there"
            );
        }
        Readiness::Disabled => {
            tracing::error!(
                account.id = name,
                upstream.words = account.refusal().unwrap_or_default(),
                "account disabled: the upstream refuses its credential"
            );
        }
        Readiness::Ready | Readiness::Paused => {}
    }
}
