//! The API that an account's upstream speaks, for one turn.

use antiphon_protocol::request::Operation;
use antiphon_upstream::account::Account;
use antiphon_upstream::dialect::Dialect;
use antiphon_upstream::pool::Verdict;
use http::StatusCode;

use super::Turn;
use super::attempt::FailedAttempt;

impl Turn {
    /// Finds out which API the upstream speaks if that is not known. A turn whose upstream does not tell is sent anyway.
    pub(super) async fn dialect_of(&self, account: &Account) -> Result<Dialect, FailedAttempt> {
        if !account.api.is_known() && !self.facts.create.operation.passes_through() {
            // Boxed, as it is rare and large: otherwise every turn's future would reserve space for it.
            Box::pin(self.find_api(account)).await?;
        }
        Ok(account.api.dialect())
    }

    /// Whether an upstream that rejected the turn so may speak another API.
    pub(super) fn may_lack_path(&self, status: StatusCode, failed: &FailedAttempt) -> bool {
        let is_missing = matches!(status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED);
        let may_be_path = matches!(failed.verdict, Verdict::Neutral | Verdict::Unsupported);
        is_missing && may_be_path && self.facts.create.operation == Operation::Create
    }

    /// Finds out anew which API the upstream speaks; `None` if it is the one that the turn was sent in.
    pub(super) async fn other_dialect(
        &self,
        account: &Account,
        used: Dialect,
    ) -> Result<Option<Dialect>, FailedAttempt> {
        if !account.api.forget(used, self.turns.env.clock.now()) {
            return Ok(None);
        }
        self.find_api(account).await?;
        Ok(Some(account.api.dialect()).filter(|dialect| *dialect != used))
    }

    async fn find_api(&self, account: &Account) -> Result<(), FailedAttempt> {
        self.within_first_byte(self.turns.upstream.find_api(account, self.turns.env.clock.now())).await
    }
}
