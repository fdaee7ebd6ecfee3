//! `antiphon accounts test`: whether upstreams take the accounts' credentials.

use std::sync::Arc;

use antiphon_store::{Store, SystemClock};
use anyhow::bail;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::app::upstream_settings;
use crate::cli::block_on;
use crate::config::{AccountConfig, Config};
use antiphon_runtime::{Env, Tasks};
use antiphon_upstream::account::Account;
use antiphon_upstream::transport::Upstream;

pub fn run(config: &Config, name: Option<&str>, json: bool) -> anyhow::Result<()> {
    let named = config.accounts.iter().filter(|account| name.is_none_or(|name| account.name == name));
    let accounts: Vec<Account> =
        named.map(AccountConfig::settings).map(Account::new).collect::<Result<_, _>>()?;
    if accounts.is_empty() {
        bail!("there is no account {:?} in the configuration", name.unwrap_or_default());
    }
    let answers = block_on(async {
        let store = store_for(config).await?;
        let env = Env { clock: Arc::new(SystemClock), tasks: Tasks::default() };
        let upstream = Upstream::new(upstream_settings(config), Arc::clone(&store), &env);
        let answers =
            join_all(accounts.iter().map(async |account| upstream.list_models(account).await)).await;
        // Tokens that were refreshed for this are saved before it ends.
        env.tasks.shut_down(config.timeouts.shutdown).await;
        store.close().await;
        Ok(answers)
    })?;
    let mut results: Vec<Value> = Vec::new();
    for (account, answer) in accounts.iter().zip(&answers) {
        let error = answer.as_ref().err().map(ToString::to_string);
        if !json {
            println!("{:<20} {}", account.name, error.as_deref().unwrap_or("answers"));
        }
        results.push(json!({ "account": account.name, "answers": error.is_none(), "error": error }));
    }
    if json {
        println!("{}", json!({ "accounts": results }));
    }
    let failed = answers.iter().filter(|answer| answer.is_err()).count();
    if failed > 0 {
        bail!("{failed} of {} account(s) can't be used as they are", answers.len());
    }
    Ok(())
}

/// Tokens of accounts are in the store; without such accounts none is needed.
async fn store_for(config: &Config) -> anyhow::Result<Arc<dyn Store>> {
    let needs_store = config.accounts.iter().any(|account| account.oauth.is_some());
    let url = if needs_store { config.store.target()? } else { "sqlite::memory:".parse()? };
    Ok(antiphon_store::open(&url, config.store.options()?).await?)
}
