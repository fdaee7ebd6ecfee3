//! `antiphon accounts`: what is configured, how it does, and an operator's say in it.

mod test;

use std::path::Path;
use std::sync::Arc;

use antiphon_store::{Clock, SqliteTarget, Store, StoreUrl, StoredAccount, SystemClock};
use anyhow::bail;
use clap::Subcommand;
use serde_json::{Value, json};

use super::block_on;
use crate::config::{AccountConfig, Config, Loaded};
use antiphon_access::audit::{Actor, entry};
use antiphon_runtime::rfc3339;
use antiphon_upstream::account::Account;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the accounts of the configuration, in its order, and how they do
    #[command(after_help = "Example:\n  antiphon accounts list --json")]
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one account: how it is configured, and how it does
    #[command(after_help = "Example:\n  antiphon accounts show openai-a")]
    Show {
        /// The account's name
        name: String,
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
    /// Leave an account alone from now on; turns that it has go on. Running gateways follow within two seconds
    #[command(after_help = "Example:\n  antiphon accounts pause openai-a")]
    Pause {
        /// The account's name
        name: String,
    },
    /// Have an account back, whatever it was left alone for: a pause, a cooldown, or a refused credential
    #[command(after_help = "Example:\n  antiphon accounts resume openai-a")]
    Resume {
        /// The account's name
        name: String,
    },
}

impl Command {
    pub fn run(&self, loaded: &Loaded) -> anyhow::Result<()> {
        loaded.config.require_accounts()?;
        match self {
            Self::List { json } => list(&loaded.config, *json),
            Self::Show { name, json } => show(&loaded.config, name, *json),
            Self::Test { name, json } => test::run(&loaded.config, name.as_deref(), *json),
            Self::Pause { name } => change(&loaded.config, name, Change::Pause),
            Self::Resume { name } => change(&loaded.config, name, Change::Resume),
        }
    }
}

/// What an operator makes of an account.
#[derive(Clone, Copy)]
enum Change {
    Pause,
    Resume,
}

/// How an account does, as far as the store knows.
struct State {
    name: &'static str,
    until: Option<String>,
    reason: Option<String>,
}

fn list(config: &Config, json: bool) -> anyhow::Result<()> {
    let stored = stored(config)?;
    let state = |account: &AccountConfig| state_of(account, stored.as_deref());
    if json {
        let accounts: Vec<Value> = config
            .accounts
            .iter()
            .map(|account| Ok(to_json(account, &state(account)?)))
            .collect::<anyhow::Result<_>>()?;
        println!("{}", serde_json::to_string_pretty(&json!({ "accounts": accounts }))?);
        return Ok(());
    }
    println!(
        "{:<20} {:<9} {:>8} {:>6}  {:<20} {:<40} models",
        "account", "state", "priority", "weight", "boundary", "upstream"
    );
    for account in &config.accounts {
        let AccountConfig { name, base_url, models, boundary, priority, weight, .. } = account;
        let models: Vec<String> = models.iter().map(ToString::to_string).collect();
        let models = if models.is_empty() { "what it lists".to_owned() } else { models.join(", ") };
        let state = state(account)?.name;
        println!(
            "{name:<20} {state:<9} {priority:>8} {weight:>6}  {boundary:<20} {:<40} {models}",
            base_url.as_str()
        );
    }
    Ok(())
}

fn show(config: &Config, name: &str, json: bool) -> anyhow::Result<()> {
    let account = find(config, name)?;
    let state = state_of(account, stored(config)?.as_deref())?;
    if json {
        println!("{}", serde_json::to_string_pretty(&to_json(account, &state))?);
        return Ok(());
    }
    println!("state            {}", state.name);
    if let Some(until) = &state.until {
        println!("cooling until    {until} ({})", state.reason.as_deref().unwrap_or("unknown"));
    }
    let Value::Object(fields) = serde_json::to_value(account)? else { return Ok(()) };
    for (key, value) in fields {
        println!("{key:<16} {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    }
    Ok(())
}

fn change(config: &Config, name: &str, change: Change) -> anyhow::Result<()> {
    find(config, name)?;
    block_on(async {
        let store = antiphon_store::open(&config.store.target()?, config.store.options()?).await?;
        let audit = |action: &str| entry(&SystemClock, Actor::CommandLine, action, name);
        let changed = match change {
            Change::Pause => store.pause_account(name, audit("account.paused")).await,
            Change::Resume => store.resume_account(name, audit("account.resumed")).await.map(|_| ()),
        };
        store.close().await;
        changed?;
        match change {
            Change::Pause => println!("{name} is paused"),
            Change::Resume => println!("{name} is back"),
        }
        Ok(())
    })
}

fn find<'a>(config: &'a Config, name: &str) -> anyhow::Result<&'a AccountConfig> {
    match config.accounts.iter().find(|account| account.name == name) {
        Some(account) => Ok(account),
        None => bail!("there is no account {name:?} in the configuration"),
    }
}

/// What the store knows; `None` if there is none yet, or it is of another build.
fn stored(config: &Config) -> anyhow::Result<Option<Vec<StoredAccount>>> {
    let url = config.store.target()?;
    let is_there = match &url {
        StoreUrl::Sqlite(SqliteTarget::File(path)) => Path::new(path).exists(),
        StoreUrl::Sqlite(SqliteTarget::Memory) => false,
        StoreUrl::Postgres(_) => true,
    };
    if !is_there {
        return Ok(None);
    }
    block_on(async {
        if !antiphon_store::pending(&url).await?.is_empty() {
            return Ok(None);
        }
        let store: Arc<dyn Store> = antiphon_store::open(&url, config.store.options()?).await?;
        let accounts = store.list_accounts().await;
        store.close().await;
        Ok(Some(accounts?))
    })
}

fn state_of(account: &AccountConfig, stored: Option<&[StoredAccount]>) -> anyhow::Result<State> {
    let ready = State { name: "ready", until: None, reason: None };
    let row = stored.unwrap_or_default().iter().find(|row| row.name == account.name);
    let Some(row) = row else { return Ok(ready) };
    if row.paused_at.is_some() {
        return Ok(State { name: "paused", ..ready });
    }
    if row.identity != Account::new(account.settings())?.identity {
        return Ok(ready);
    }
    Ok(match &row.cooling {
        _ if row.disabled_at.is_some() => State { name: "disabled", ..ready },
        Some((until, reason)) if *until > SystemClock.now() => {
            State { name: "cooling", until: Some(rfc3339(*until)), reason: Some(reason.clone()) }
        }
        _ => ready,
    })
}

fn to_json(account: &AccountConfig, state: &State) -> Value {
    json!({
        "name": account.name,
        "state": state.name,
        "cooling_until": state.until,
        "cooling_reason": state.reason,
        "config": account,
    })
}
