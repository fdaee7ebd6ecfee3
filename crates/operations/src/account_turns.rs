//! Turns by account: which account served how many, and how many of them failed.

use std::collections::BTreeMap;

use antiphon_runtime::rfc3339;
use antiphon_store::{AccountSum, OverviewQuery, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;

use super::time_range::{Frame, TimeRange, Window};
use super::{OperationError, Operations};

#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct AccountTurns {
    /// `null` for a range.
    #[schema(inline)]
    pub window: Option<Window>,
    /// The time in RFC 3339. It begins with a whole interval.
    pub from: String,
    pub to: String,
    pub interval_seconds: i64,
    /// When the intervals begin, in RFC 3339. The last one is not over.
    pub starts: Vec<String>,
    /// Turns for which an account was chosen.
    pub turns: u64,
    /// Accounts with turns, those with the most turns first. An account that was removed from the configuration is among them.
    pub accounts: Vec<TurnsOfAccount>,
}

/// The turns that an account served, or was tried for last.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct TurnsOfAccount {
    pub account: String,
    pub turns: u64,
    /// Its turns among those of all accounts, from 0 to 1.
    pub share: f64,
    /// Turns that failed, were refused or were lost.
    pub failed_turns: u64,
    /// `failed_turns` among `turns`, from 0 to 1.
    pub error_rate: f64,
    /// By interval.
    pub series: AccountSeries,
}

/// As long as `starts`.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub struct AccountSeries {
    pub turns: Vec<u64>,
    pub failed_turns: Vec<u64>,
}

// === impl Operations ===

impl Operations {
    /// The turns of all accounts in a time.
    pub async fn account_turns(&self, range: TimeRange) -> Result<AccountTurns, OperationError> {
        let frame = range.frame(self.clock.now());
        let query = OverviewQuery {
            from: Timestamp::from_unix_ms(frame.from),
            to: Timestamp::from_unix_ms(frame.to),
            interval_ms: frame.interval,
        };
        let permit = self.report_permit().await?;
        let sums = self.store.list_account_sums(query).await?;
        drop(permit);
        Ok(AccountTurns {
            window: range.window(),
            from: rfc3339(query.from),
            to: rfc3339(self.clock.now().min(query.to)),
            interval_seconds: frame.interval / 1000,
            starts: frame.starts().map(rfc3339).collect(),
            turns: sums.iter().map(|sum| sum.turns).sum(),
            accounts: TurnsOfAccount::list(frame, &sums),
        })
    }
}

// === impl TurnsOfAccount ===

impl TurnsOfAccount {
    fn list(frame: Frame, sums: &[AccountSum]) -> Vec<Self> {
        let empty = || AccountSeries { turns: vec![0; frame.len()], failed_turns: vec![0; frame.len()] };
        let mut by_account: BTreeMap<&str, AccountSeries> = BTreeMap::new();
        for sum in sums {
            let Some(index) = frame.index(sum.starts_at) else { continue };
            let series = by_account.entry(&sum.account).or_insert_with(empty);
            series.turns[index] += sum.turns;
            series.failed_turns[index] += sum.failed_turns;
        }
        let all: u64 = by_account.values().flat_map(|series| &series.turns).sum();
        let account = |(account, series): (&str, AccountSeries)| {
            let turns: u64 = series.turns.iter().sum();
            let failed_turns: u64 = series.failed_turns.iter().sum();
            Self {
                account: account.to_owned(),
                turns,
                share: share(turns, all),
                failed_turns,
                error_rate: share(failed_turns, turns),
                series,
            }
        };
        let mut accounts: Vec<Self> = by_account.into_iter().map(account).collect();
        accounts.sort_by_key(|account| std::cmp::Reverse(account.turns));
        accounts
    }
}

fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}
