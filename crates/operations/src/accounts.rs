//! Accounts: listing, testing, pausing and resuming.

use std::time::Duration;

use antiphon_access::audit::{Actor, entry};
use antiphon_runtime::rfc3339;
use antiphon_store::Timestamp;
use antiphon_upstream::account::{QuotaWindow, Server};
use antiphon_upstream::pool::{AccountView, Cooldown};
use serde::Serialize;
use utoipa::ToSchema;

use super::asking::Answer;
use super::{OperationError, Operations, Page};

/// How long a list waits for the APIs of upstreams.
const FIND_TIMEOUT: Duration = Duration::from_secs(2);

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
    /// The API that turns use, `responses` or `chat`; none while it was not found out.
    pub api: Option<&'static str>,
    /// End of the cooldown in RFC 3339; the reason is in `cooling_reason`.
    pub cooling_until: Option<String>,
    pub cooling_reason: Option<&'static str>,
    /// What the upstream said when it refused the credential of an account that is disabled, if this gateway has heard it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// Turns in flight at this gateway.
    pub in_flight: u32,
    /// The limits of the upstream, by its latest reply to this gateway; those that were reset since are left out.
    pub quota: Vec<QuotaView>,
    /// The configuration, with secrets redacted.
    #[schema(value_type = Object)]
    pub config: serde_json::Value,
}

/// A limit of the upstream.
#[derive(Debug, Serialize, ToSchema)]
pub struct QuotaView {
    /// `requests` or `tokens`; `primary` or `secondary` of a ChatGPT plan.
    pub name: &'static str,
    /// From 0 to 1.
    pub used: f64,
    /// In RFC 3339.
    pub resets_at: Option<String>,
}

/// The result of testing an account.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Tested)]
pub struct TestedAccount {
    pub account: String,
    /// Whether the upstream returned its list of models.
    pub answers: bool,
    pub error: Option<String>,
    /// The API that turns use, `responses` or `chat`; none if it was not found out.
    pub api: Option<&'static str>,
    /// The server, if it was recognized.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<&'static str>,
    /// What the model answered to a question, if it was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<Answer>,
}

/// Which model a test asks a question.
#[derive(Debug, Clone, Copy)]
pub enum AskModel<'a> {
    None,
    /// The first one that the account has.
    First,
    Named(&'a str),
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
    pub async fn pause_account(&self, name: &str, actor: Actor<'_>) -> Result<Account, OperationError> {
        self.find_account(name)?;
        self.store.pause_account(name, entry(&*self.clock, actor, "account.paused", name)).await?;
        self.sync_accounts().await?;
        self.account(name)
    }

    /// Ends a pause, a cooldown or a disabled state.
    pub async fn resume_account(&self, name: &str, actor: Actor<'_>) -> Result<Account, OperationError> {
        self.find_account(name)?;
        // Otherwise state that is known here and not stored yet would come back.
        self.sync_accounts().await?;
        self.store.resume_account(name, entry(&*self.clock, actor, "account.resumed", name)).await?;
        self.sync_accounts().await?;
        self.account(name)
    }

    /// Tests an account by listing its upstream's models with its own credential, and by asking it a question if that is
    /// wanted.
    pub async fn probe_account(
        &self,
        name: &str,
        ask: AskModel<'_>,
    ) -> Result<TestedAccount, OperationError> {
        let account = self.find_account(name)?.account;
        self.upstream.find_api(&account, self.clock.now()).await;
        let tested = self.upstream.test(&account).await.map_err(|error| error.to_string());
        let answer = match (&tested, ask) {
            (Err(_), _) | (_, AskModel::None) => Ok(None),
            (Ok(()), AskModel::Named(model)) => self.ask(&account, Some(model)).await.map(Some),
            (Ok(()), AskModel::First) => {
                self.upstream.refresh_catalog(&account, self.clock.now()).await;
                self.ask(&account, None).await.map(Some)
            }
        };
        let (error, answer) = match answer {
            Ok(answer) => (tested.err(), answer),
            Err(error) => (Some(error), None),
        };
        let server = account.api.found().and_then(|found| found.server);
        Ok(TestedAccount {
            account: account.name.clone(),
            answers: error.is_none(),
            error,
            api: account.api.name(),
            server: server.map(Server::as_str),
            answer,
        })
    }

    /// Finds out the APIs of upstreams where that is not known, if that takes little time.
    pub async fn find_apis(&self) {
        let finding = self.pool.find_apis(&self.upstream, self.clock.now());
        tokio::time::timeout(FIND_TIMEOUT, finding).await.ok();
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
        let cooldown = state.cooldown_at(now);
        Self {
            name: account.name.clone(),
            state: state.label(now),
            api: account.api.name(),
            cooling_until: cooldown.map(|Cooldown { until, .. }| rfc3339(until)),
            cooling_reason: cooldown.map(|Cooldown { reason, .. }| reason.as_str()),
            refusal: account.refusal().filter(|_| state.is_disabled),
            in_flight: state.in_flight,
            quota: account.quota.windows(now).into_iter().map(QuotaView::from).collect(),
            config: account.settings.shown.clone(),
        }
    }
}

// === impl QuotaView ===

impl From<QuotaWindow> for QuotaView {
    fn from(QuotaWindow { name, used, resets_at }: QuotaWindow) -> Self {
        Self { name, used: (used * 1_000.0).round() / 1_000.0, resets_at: resets_at.map(rfc3339) }
    }
}
