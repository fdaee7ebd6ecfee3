//! `antiphon accounts`: configuration and state of accounts, and changes to it.

mod test;

use antiphon_access::audit::Actor;
use antiphon_config::{AccountConfig, Loaded, Secrets};
use antiphon_operations::{Account, AccountList, Page};
use clap::{Args, Subcommand};

use super::operations::{open, open_if_exists, with_operations};
use super::output::{print_line, print_note};
use super::print_json;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the configured accounts and their state
    #[command(after_help = "Example:\n  antiphon accounts list --json")]
    List {
        /// Print the JSON object of the admin API
        #[arg(long)]
        json: bool,
    },
    /// Show one account's configuration and state
    #[command(after_help = "Example:\n  antiphon accounts show openai-a")]
    Show {
        /// Account name
        name: String,
        /// Print the JSON object of the admin API
        #[arg(long)]
        json: bool,
    },
    /// Test accounts by listing their upstreams' models, and tell which API they speak; fails if any account fails
    #[command(after_help = "Example:\n  antiphon accounts test openai-a --turn")]
    Test(TestArgs),
    /// Stop sending new turns to an account; running turns continue. Running gateways follow within two seconds
    #[command(after_help = "Example:\n  antiphon accounts pause openai-a")]
    Pause {
        /// Account name
        name: String,
        /// Print the JSON object of the admin API
        #[arg(long)]
        json: bool,
    },
    /// Make an account ready again: ends a pause, a cooldown or a disabled state. Running gateways follow within two seconds
    #[command(after_help = "Example:\n  antiphon accounts resume openai-a")]
    Resume {
        /// Account name
        name: String,
        /// Print the JSON object of the admin API
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub struct TestArgs {
    /// Account name [default: all accounts]
    name: Option<String>,
    /// Also ask a short question, which may cost something
    #[arg(long)]
    turn: bool,
    /// The model to ask [default: the first that the account has]
    #[arg(long, requires = "turn")]
    model: Option<String>,
    /// Print the JSON object of the admin API
    #[arg(long)]
    json: bool,
}

impl Command {
    pub fn secrets(&self) -> Secrets {
        match self {
            Self::Test(_) => Secrets::Required,
            Self::List { .. } | Self::Show { .. } | Self::Pause { .. } | Self::Resume { .. } => {
                Secrets::Optional
            }
        }
    }

    pub fn run(&self, loaded: &Loaded) -> anyhow::Result<()> {
        let config = &loaded.config;
        config.require_accounts()?;
        let store = &config.store;
        match self {
            Self::List { json } => {
                let list = with_operations(config, open_if_exists(store), async |operations| {
                    operations.sync_accounts().await?;
                    // Without its secret, an upstream refuses to say what it has.
                    if config.accounts.iter().all(AccountConfig::knows_secrets) {
                        operations.find_apis().await;
                    }
                    Ok(operations.list_accounts(&Page::whole())?)
                })?;
                warn_of_missing_secrets(&config.accounts);
                print_list(&list, &config.accounts, *json)
            }
            Self::Show { name, json } => {
                let account = with_operations(config, open_if_exists(store), async |operations| {
                    operations.sync_accounts().await?;
                    Ok(operations.account(name)?)
                })?;
                let shown = config.accounts.iter().filter(|account| account.name == *name);
                warn_of_missing_secrets(shown);
                print(&account, *json)
            }
            Self::Test(args) => test::run(config, args),
            Self::Pause { name, json } => with_operations(config, open(store), async |operations| {
                print_change(&operations.pause_account(name, Actor::CommandLine).await?, *json)
            }),
            Self::Resume { name, json } => with_operations(config, open(store), async |operations| {
                print_change(&operations.resume_account(name, Actor::CommandLine).await?, *json)
            }),
        }
    }
}

/// The store knows an account's state by its credential.
fn warn_of_missing_secrets<'a>(accounts: impl IntoIterator<Item = &'a AccountConfig>) {
    for AccountConfig { name, .. } in accounts.into_iter().filter(|account| !account.knows_secrets()) {
        print_note!("{name}: its secret is not set here, so whether it is cooling or disabled is not known");
    }
}

fn print_change(account: &Account, json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(account);
    }
    print_line!("{}: {}", account.name, account.state)
}

fn print_list(list: &AccountList, configured: &[AccountConfig], json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(list);
    }
    print_line!(
        "{:<20} {:<9} {:<9} {:>8} {:>6}  {:<20} {:<40} models",
        "account",
        "state",
        "api",
        "priority",
        "weight",
        "boundary",
        "upstream"
    )?;
    for (account, config) in list.accounts.iter().zip(configured) {
        let AccountConfig { name, base_url, models, boundary, priority, weight, .. } = config;
        let models: Vec<String> = models.iter().map(ToString::to_string).collect();
        let models = if models.is_empty() { "(from /models)".to_owned() } else { models.join(", ") };
        print_line!(
            "{name:<20} {:<9} {:<9} {priority:>8} {weight:>6}  {boundary:<20} {:<40} {models}",
            account.state,
            account.api.unwrap_or("auto"),
            base_url.as_str()
        )?;
    }
    Ok(())
}

fn print(account: &Account, json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(account);
    }
    print_line!("state            {}", account.state)?;
    if let Some(until) = &account.cooling_until {
        print_line!("cooling until    {until} ({})", account.cooling_reason.unwrap_or("unknown"))?;
    }
    for (key, value) in account.config.as_object().into_iter().flatten() {
        print_line!("{key:<16} {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned))?;
    }
    Ok(())
}
