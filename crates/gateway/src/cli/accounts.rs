//! `antiphon accounts`: what is configured, how it does, and an operator's say in it.

mod test;

use antiphon_access::audit::Actor;
use clap::Subcommand;

use super::operations::{open, open_if_there, with_operations};
use super::print_json;
use crate::config::{AccountConfig, Loaded};
use crate::operations::{Account, AccountList, Page};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the accounts of the configuration, in its order, and how they do
    #[command(after_help = "Example:\n  antiphon accounts list --json")]
    List {
        /// Print JSON, as the admin API answers
        #[arg(long)]
        json: bool,
    },
    /// Show one account: how it is configured, and how it does
    #[command(after_help = "Example:\n  antiphon accounts show openai-a")]
    Show {
        /// The account's name
        name: String,
        /// Print JSON, as the admin API answers
        #[arg(long)]
        json: bool,
    },
    /// Ask upstreams for their models, with the accounts' own credentials; fails if one does not answer
    #[command(after_help = "Example:\n  antiphon accounts test openai-a")]
    Test {
        /// The account's name [default: every account]
        name: Option<String>,
        /// Print JSON, as the admin API answers
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
        let config = &loaded.config;
        config.require_accounts()?;
        let store = &config.store;
        match self {
            Self::List { json } => {
                let list = with_operations(config, open_if_there(store), async |operations| {
                    operations.share_accounts().await?;
                    Ok(operations.list_accounts(&Page::whole())?)
                })?;
                print_list(&list, &config.accounts, *json)
            }
            Self::Show { name, json } => {
                let account = with_operations(config, open_if_there(store), async |operations| {
                    operations.share_accounts().await?;
                    Ok(operations.account(name)?)
                })?;
                print(&account, *json)
            }
            Self::Test { name, json } => test::run(config, name.as_deref(), *json),
            Self::Pause { name } => with_operations(config, open(store), async |operations| {
                operations.pause_account(name, Actor::CommandLine).await?;
                println!("{name} is paused");
                Ok(())
            }),
            Self::Resume { name } => with_operations(config, open(store), async |operations| {
                operations.resume_account(name, Actor::CommandLine).await?;
                println!("{name} is back");
                Ok(())
            }),
        }
    }
}

fn print_list(list: &AccountList, configured: &[AccountConfig], json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(list);
    }
    println!(
        "{:<20} {:<9} {:>8} {:>6}  {:<20} {:<40} models",
        "account", "state", "priority", "weight", "boundary", "upstream"
    );
    for (account, config) in list.accounts.iter().zip(configured) {
        let AccountConfig { name, base_url, models, boundary, priority, weight, .. } = config;
        let models: Vec<String> = models.iter().map(ToString::to_string).collect();
        let models = if models.is_empty() { "what it lists".to_owned() } else { models.join(", ") };
        println!(
            "{name:<20} {:<9} {priority:>8} {weight:>6}  {boundary:<20} {:<40} {models}",
            account.state,
            base_url.as_str()
        );
    }
    Ok(())
}

fn print(account: &Account, json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(account);
    }
    println!("state            {}", account.state);
    if let Some(until) = &account.cooling_until {
        println!("cooling until    {until} ({})", account.cooling_reason.unwrap_or("unknown"));
    }
    for (key, value) in account.config.as_object().into_iter().flatten() {
        println!("{key:<16} {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    }
    Ok(())
}
