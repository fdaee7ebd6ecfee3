//! Requests for an upstream's models: to list them, to end a cooldown early, and to verify a doubted account.

use std::sync::Arc;
use std::time::Duration;

use antiphon_store::Timestamp;
use futures_util::future::join_all;

use super::state::Attempt;
use super::{AccountView, CooldownReason, Doubt, Pool, Verdict, Wanted};
use crate::account::Account;
use crate::transport::{CatalogError, Upstream};

impl Pool {
    /// Requests the models of upstreams whose list is not recent.
    pub async fn refresh_catalogs(&self, upstream: &Upstream, now: Timestamp) {
        let accounts = self.accounts();
        join_all(accounts.iter().map(|account| upstream.refresh_catalog(account, now))).await;
    }

    /// Disables accounts whose upstream refuses the credential: for its list of models, and for a turn. The requests contain
    /// nothing from a client.
    pub async fn check_credentials(self: &Arc<Self>, upstream: &Upstream) {
        // Who has listed its models has accepted the credential.
        let is_unsure = |view: &AccountView| !view.account.catalog.is_known() && !view.state.is_disabled;
        let accounts = self.view().into_iter().filter(is_unsure).map(|view| view.account);
        let checks = accounts.map(async |account| {
            let account = &account;
            let Some(refusal) = upstream.refusal_of(account).await else { return };
            account.remember_refusal(refusal.to_string());
            self.change(account, Wanted::default(), |state, has_alternative, now| {
                state.record_attempt(refused(has_alternative), now);
            });
        });
        join_all(checks).await;
    }

    /// Finds out the APIs of upstreams where that is not known.
    pub async fn find_apis(&self, upstream: &Upstream, now: Timestamp) {
        let accounts = self.accounts();
        join_all(accounts.iter().map(|account| upstream.find_api(account, now))).await;
    }

    /// Asks the upstreams of accounts that are cooling down after failures for their models, and ends the cooldown of accounts
    /// whose upstream replies.
    pub async fn probe(self: &Arc<Self>, upstream: &Upstream) {
        let now = self.now();
        let is_failing = |view: &AccountView| {
            view.state.cooldown_at(now).is_some_and(|cooldown| cooldown.reason == CooldownReason::Failures)
        };
        let failing = self.view().into_iter().filter(is_failing).map(|view| view.account);
        let probes = failing.map(async |account| match upstream.list_models(&account).await {
            Ok(_) => self.change(&account, Wanted::default(), |state, _, _| {
                if state.end_failure_cooldown() {
                    tracing::info!(account.id = %account.name, "probe succeeded: the account is ready again");
                }
            }),
            Err(error) => {
                tracing::debug!(account.id = %account.name, %error, "probe failed: the account is still cooling down");
            }
        });
        join_all(probes).await;
    }

    /// Asks the upstreams of doubted accounts, with the account's own credential and nothing from a client. Only the outcome
    /// disables an account, or makes an account cool down that has failed only one caller.
    pub async fn verify(self: &Arc<Self>, upstream: &Upstream) {
        let doubted = self.view().into_iter().filter_map(|view| Some((view.account, view.state.doubt?)));
        let verifications = doubted.map(async |(account, doubt)| match doubt {
            Doubt::Failures => self.verify_failures(upstream, &account).await,
            Doubt::Credential => self.verify_credential(upstream, &account).await,
        });
        join_all(verifications).await;
    }

    /// Any answer but a 5xx shows that the upstream works, and so does one that says that it has no list.
    async fn verify_failures(self: &Arc<Self>, upstream: &Upstream, account: &Account) {
        let is_served = match upstream.list_models(account).await {
            Ok(_) => true,
            Err(CatalogError::Status { status, .. }) if status < 500 => true,
            Err(error) => error.has_no_list(),
        };
        self.change(account, Wanted::default(), |state, has_alternative, now| match state.doubt {
            Some(Doubt::Failures) if is_served => state.clear_doubt(),
            Some(Doubt::Failures) => state.confirm_failures(has_alternative, now),
            Some(Doubt::Credential) | None => {}
        });
    }

    async fn verify_credential(self: &Arc<Self>, upstream: &Upstream, account: &Account) {
        let tested = upstream.test(account).await;
        let is_refused = tested.as_ref().is_err_and(CatalogError::is_credential_refused);
        if let Err(error) = &tested
            && is_refused
        {
            account.remember_refusal(error.to_string());
        }
        self.change(account, Wanted::default(), |state, has_alternative, now| match state.doubt {
            Some(Doubt::Credential) if is_refused => state.record_attempt(refused(has_alternative), now),
            Some(Doubt::Credential) if tested.is_ok() => state.clear_doubt(),
            Some(_) | None => {}
        });
    }

    /// Resolves when an account becomes doubted.
    pub async fn doubted(&self) {
        self.doubted.notified().await;
    }

    /// How often to [`probe`](Self::probe), if at all.
    pub fn probe_interval(&self) -> Option<Duration> {
        self.lock().routing.probe_interval
    }
}

/// The credential was refused in a request that is nobody's turn.
fn refused(has_alternative: bool) -> Attempt<'static> {
    let Wanted { operation, model, caller, .. } = Wanted::default();
    Attempt { verdict: &Verdict::CredentialInvalid, operation, model, caller, has_alternative }
}
