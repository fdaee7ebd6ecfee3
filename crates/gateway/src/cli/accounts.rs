//! `antiphon accounts`: what is configured, and whether upstreams take it.

use std::sync::Arc;

use antiphon_store::{Clock, Store, SystemClock};
use anyhow::bail;
use clap::Subcommand;
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::block_on;
use crate::app::upstream;
use crate::config::{AccountConfig, Config, Loaded};
use crate::lifecycle::Tasks;
use crate::metrics::Metrics;
use crate::pool::Account;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the accounts of the configuration, in its order; how they do now is in the gateway's /metrics
    #[command(after_help = "Example:\n  antiphon accounts list --json")]
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Ask upstreams for their models, with the accounts' own credentials; fails if one does not answer
    #[command(after_help = "Example:\n  antiphon accounts test openai-a")]
    Test {
        /// The account's name [default: every account]
        name: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

impl Command {
    pub fn run(&self, loaded: &Loaded) -> anyhow::Result<()> {
        loaded.config.require_accounts()?;
        match self {
            Self::List { json } => list(&loaded.config.accounts, *json),
            Self::Test { name, json } => test(loaded, name.as_deref(), *json),
        }
    }
}

fn list(accounts: &[AccountConfig], json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(&json!({ "accounts": accounts }))?);
        return Ok(());
    }
    println!(
        "{:<20} {:>8} {:>6}  {:<20} {:<40} models",
        "account", "priority", "weight", "boundary", "upstream"
    );
    for AccountConfig { name, base_url, models, boundary, priority, weight, .. } in accounts {
        let models: Vec<String> = models.iter().map(ToString::to_string).collect();
        let models = if models.is_empty() { "what it lists".to_owned() } else { models.join(", ") };
        println!("{name:<20} {priority:>8} {weight:>6}  {boundary:<20} {:<40} {models}", base_url.as_str());
    }
    Ok(())
}

/// Tokens of accounts are in the store; without such accounts none is needed.
async fn store_for(config: &Config) -> anyhow::Result<Arc<dyn Store>> {
    let needs_store = config.accounts.iter().any(|account| account.oauth.is_some());
    let url = if needs_store { config.store.target()? } else { "sqlite::memory:".parse()? };
    Ok(antiphon_store::open(&url, config.store.options()?).await?)
}

fn test(loaded: &Loaded, name: Option<&str>, json: bool) -> anyhow::Result<()> {
    let is_meant = |account: &&AccountConfig| name.is_none_or(|name| account.name == name);
    let accounts: Vec<Account> =
        loaded.config.accounts.iter().filter(is_meant).map(Account::new).collect::<Result<_, _>>()?;
    if accounts.is_empty() {
        bail!("there is no account {:?} in the configuration", name.unwrap_or_default());
    }
    let answers = block_on(async {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let store = store_for(&loaded.config).await?;
        let tasks = Tasks::default();
        let parts = (clock, Metrics::new(), tasks.clone());
        let upstream = upstream(&loaded.config, Arc::clone(&store), parts);
        let answers =
            join_all(accounts.iter().map(async |account| upstream.list_models(account).await)).await;
        // Tokens that were refreshed for this are saved before it ends.
        tasks.shut_down(loaded.config.timeouts.shutdown).await;
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
