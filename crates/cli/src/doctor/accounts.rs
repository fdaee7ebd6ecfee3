//! Whether upstreams accept the accounts' credentials, and what their clocks say; and what else needs operations.

use antiphon_config::{AccountConfig, Config};
use antiphon_operations::{AskModel, Operations};
use antiphon_runtime::parse_http_date;
use antiphon_store::{Clock, SystemClock};
use antiphon_upstream::pool::AccountView;
use futures_util::future::join_all;
use tokio::time::timeout;

use super::{DEADLINE, Finding, compare_clocks, keys};
use crate::operations::{exists, open_empty, open_for_reading, run};

pub async fn check(config: &Config) -> Vec<Finding> {
    let store = timeout(DEADLINE, open_for_reading(&config.store)).await.ok().and_then(Result::ok);
    let knows_keys = store.is_some() || !exists(&config.store);
    // Accounts with `oauth` have their tokens in the store; the others need none.
    let opening = async {
        match store {
            Some(store) => Ok(store),
            None => open_empty().await,
        }
    };
    let checked = run(config, opening, async |operations| {
        let checks = config.accounts.iter().map(|account| check_account(operations, account));
        let mut findings = join_all(checks).await;
        findings.extend(check_clock(operations, &config.accounts).await);
        if knows_keys {
            findings.extend(keys::check(config, operations).await);
        }
        Ok(findings)
    });
    checked.await.unwrap_or_else(|error| vec![Finding::problem("accounts", format!("{error:#}"), "")])
}

async fn check_account(operations: &Operations, account: &AccountConfig) -> Finding {
    let name = &account.name;
    let check = format!("account {name}");
    if !account.knows_secrets() {
        let advice = "set its environment variable, or provide its file, where this command runs";
        return Finding::problem(check, "its secret can't be read", advice);
    }
    let advice = format!("`antiphon accounts test {name}` tries again; check base_url and the credential");
    match timeout(DEADLINE, operations.probe_account(name, AskModel::None)).await {
        Err(_) => Finding::problem(check, "its upstream did not answer in time", advice),
        Ok(Err(error)) => Finding::problem(check, error.to_string(), advice),
        Ok(Ok(tested)) => match tested.error {
            Some(error) => Finding::problem(check, error, advice),
            None => {
                Finding::ok(check, format!("its upstream answers ({})", tested.api.unwrap_or("responses")))
            }
        },
    }
}

/// By the first upstream that says what time it is. A machine whose clock is wrong refuses certificates.
async fn check_clock(operations: &Operations, configured: &[AccountConfig]) -> Option<Finding> {
    let is_known = |view: &AccountView| {
        configured.iter().any(|account| account.name == view.account.name && account.knows_secrets())
    };
    for view in operations.pool.view().into_iter().filter(is_known) {
        let date = timeout(DEADLINE, operations.upstream.date(&view.account)).await.ok().flatten();
        if let Some(there) = date.as_deref().and_then(parse_http_date) {
            let whose = format!("the upstream of {}", view.account.name);
            let here = SystemClock.now().unix_ms();
            return Some(compare_clocks("clock", &whose, here, there.unix_ms()));
        }
    }
    None
}
