//! `antiphon config`: checks and prints the configuration.

use clap::Subcommand;

use crate::config::{Config, Loaded};
use crate::telemetry;
use antiphon_upstream::account::Account;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Validate the configuration without starting the gateway
    #[command(after_help = "Example:\n  antiphon config check --config antiphon.toml")]
    Check,
    /// Print the resolved configuration with secrets redacted
    #[command(after_help = "Example:\n  antiphon config show --json")]
    Show {
        /// Print JSON instead of TOML
        #[arg(long)]
        json: bool,
    },
}

impl Command {
    pub fn run(&self, loaded: &Loaded) -> anyhow::Result<()> {
        match self {
            Self::Check => check(loaded),
            Self::Show { json } => {
                let config = &loaded.config;
                println!("{}", if *json { config.show_json() } else { config.show() }.trim_end());
                Ok(())
            }
        }
    }
}

fn check(loaded: &Loaded) -> anyhow::Result<()> {
    let config: &Config = &loaded.config;
    config.require_accounts()?;
    config.store.target().map_err(|error| anyhow::anyhow!("store.url: {error}"))?;
    config.store.migration_target().map_err(|error| anyhow::anyhow!("store.migration_url: {error}"))?;
    telemetry::validate(&config.log)?;
    for account in &config.accounts {
        Account::new(account.settings())?;
    }
    match &loaded.source {
        Some(path) => println!("{}: valid, {} account(s)", path.display(), config.accounts.len()),
        None => println!("Configuration (no file): valid, {} account(s)", config.accounts.len()),
    }
    Ok(())
}
