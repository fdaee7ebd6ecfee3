//! Accounts: listing, testing, pausing and resuming.

use antiphon_access::audit::{Actor, entry};
use antiphon_runtime::rfc3339;
use antiphon_store::Timestamp;
use antiphon_upstream::pool::{AccountView, Cooldown};
use serde::Serialize;
use utoipa::ToSchema;

use super::{OperationError, Operations, Page};

#[derive(Debug, Serialize, ToSchema)]
pub struct AccountList {
    /// In configuration order.
    pub accounts: Vec<Account>,
    pub has_more: bool,
}

/// Configuration and state of an account; secrets are redacted.
#[derive(Debug, Serialize, ToSchema)]
pub struct Account {
    pub name: String,
    /// `ready`, `cooling`, `disabled` or `paused`.
    pub state: &'static str,
    /// End of the cooldown in RFC 3339; the reason is in `cooling_reason`.
    pub cooling_until: Option<String>,
    pub cooling_reason: Option<&'static str>,
    /// Turns in flight at this gateway.
    pub in_flight: u32,
    /// The configuration, with secrets redacted.
    #[schema(value_type = Object)]
    pub config: serde_json::Value,
}

/// The result of testing an account.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Tested)]
pub struct TestedAccount {
    pub account: String,
    /// Whether the upstream returned its list of models.
    pub answers: bool,
    pub error: Option<String>,
}

// === impl Operations ===

impl Operations {
    /// In configuration order; `after` is an account's name.
    pub fn list_accounts(&self, page: &Page) -> Result<AccountList, OperationError> {
        let views = self.pool.view();
        let start = match page.after() {
            Some(after) => {
                let position = views.iter().position(|view| view.account.name == after);
                position.ok_or_else(|| page.unknown_cursor())? + 1
            }
            None => 0,
        };
        let now = self.clock.now();
        let (accounts, has_more) =
            page.cut(views[start..].iter().map(|view| Account::new(view, now)).collect());
        Ok(AccountList { accounts, has_more })
    }

    pub fn account(&self, name: &str) -> Result<Account, OperationError> {
        Ok(Account::new(&self.find_account(name)?, self.clock.now()))
    }

    /// Stops new turns of an account; running turns continue.
    pub async fn pause_account(&self, name: &str, actor: Actor) -> Result<Account, OperationError> {
        self.find_account(name)?;
        self.store.pause_account(name, entry(&*self.clock, actor, "account.paused", name)).await?;
        self.sync_accounts().await?;
        self.account(name)
    }

    /// Ends a pause, a cooldown or a disabled state.
    pub async fn resume_account(&self, name: &str, actor: Actor) -> Result<Account, OperationError> {
        self.find_account(name)?;
        // Otherwise state that is known here and not stored yet would come back.
        self.sync_accounts().await?;
        self.store.resume_account(name, entry(&*self.clock, actor, "account.resumed", name)).await?;
        self.sync_accounts().await?;
        self.account(name)
    }

    /// Tests an account by listing its upstream's models with its own credential.
    pub async fn probe_account(&self, name: &str) -> Result<TestedAccount, OperationError> {
        let account = self.find_account(name)?.account;
        let error = self.upstream.list_models(&account).await.err().map(|error| error.to_string());
        Ok(TestedAccount { account: account.name.clone(), answers: error.is_none(), error })
    }

    /// Exchanges account state with the store.
    pub async fn sync_accounts(&self) -> Result<(), OperationError> {
        Ok(self.pool.sync(&*self.store).await?)
    }

    fn find_account(&self, name: &str) -> Result<AccountView, OperationError> {
        let found = self.pool.view().into_iter().find(|view| view.account.name == name);
        found.ok_or_else(|| OperationError::AccountNotFound(name.to_owned()))
    }
}

// === impl Account ===

impl Account {
    fn new(AccountView { account, state }: &AccountView, now: Timestamp) -> Self {
        let cooldown = state.cooldown.filter(|cooldown| cooldown.until > now);
        Self {
            name: account.name.clone(),
            state: state.label(now),
            cooling_until: cooldown.map(|Cooldown { until, .. }| rfc3339(until)),
            cooling_reason: cooldown.map(|Cooldown { reason, .. }| reason.as_str()),
            in_flight: state.in_flight,
            config: account.settings.shown.clone(),
        }
    }
}
