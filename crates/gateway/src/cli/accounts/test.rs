//! `antiphon accounts test`: whether upstreams accept the accounts' credentials.

use anyhow::bail;
use futures_util::future::try_join_all;
use serde_json::json;

use crate::cli::operations::{open, open_empty, with_operations};
use crate::cli::print_json;
use crate::config::Config;
use crate::operations::TestedAccount;

pub fn run(config: &Config, name: Option<&str>, json: bool) -> anyhow::Result<()> {
    let all = || config.accounts.iter().map(|account| account.name.as_str()).collect();
    let names: Vec<&str> = name.map_or_else(all, |name| vec![name]);
    // Accounts with `oauth` have their tokens in the store; the others need no store.
    let needs_store = config.accounts.iter().any(|account| account.oauth.is_some());
    let opening = async { if needs_store { open(&config.store).await } else { open_empty().await } };
    let tested = with_operations(config, opening, async |operations| {
        Ok(try_join_all(names.iter().map(|name| operations.probe_account(name))).await?)
    })?;
    if json {
        print_json(&json!({ "accounts": tested }))?;
    } else {
        for TestedAccount { account, error, .. } in &tested {
            println!("{account:<20} {}", error.as_deref().unwrap_or("ok"));
        }
    }
    let failed = tested.iter().filter(|tested| !tested.answers).count();
    if failed > 0 {
        bail!("{failed} of {} account(s) failed", tested.len());
    }
    Ok(())
}
