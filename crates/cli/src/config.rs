//! `antiphon config`: checks and prints the configuration, and writes a first one.

mod init;

use antiphon_config::{Config, Loaded, Secrets};
use antiphon_gateway::telemetry;
use clap::Subcommand;
use serde_json::json;

use super::output::print_line;
use super::print_json;
use antiphon_upstream::account::Account;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write a first configuration file, from flags or from answers to three questions
    #[command(
        after_help = "Example:\n  antiphon config init --upstream openai --store /var/lib/antiphon/antiphon.db\n\n\
        On a terminal it asks for what the flags leave open."
    )]
    Init(init::Arguments),
    /// Validate the configuration without starting the gateway
    #[command(after_help = "Example:\n  antiphon config check --config antiphon.toml")]
    Check {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the resolved configuration with secrets redacted
    #[command(after_help = "Example:\n  antiphon config show --json")]
    Show {
        /// Print JSON instead of TOML
        #[arg(long)]
        json: bool,
    },
}

impl Command {
    /// `load` loads the configuration.
    pub fn run(&self, load: impl FnOnce(Secrets) -> anyhow::Result<Loaded>) -> anyhow::Result<()> {
        match self {
            Self::Init(arguments) => arguments.run(),
            Self::Check { json } => check(&load(Secrets::Required)?, *json),
            Self::Show { json } => {
                let config = load(Secrets::Optional)?.config;
                print_line!("{}", if *json { config.show_json() } else { config.show() }.trim_end())
            }
        }
    }
}

/// Checks what loading alone does not.
pub fn validate(config: &Config) -> anyhow::Result<()> {
    config.require_accounts()?;
    telemetry::validate(&config.log)?;
    for account in &config.accounts {
        Account::new(account.settings())?;
    }
    Ok(())
}

fn check(loaded: &Loaded, json: bool) -> anyhow::Result<()> {
    let config = &loaded.config;
    validate(config)?;
    if json {
        let accounts: Vec<&str> = config.accounts.iter().map(|account| account.name.as_str()).collect();
        return print_json(&json!({ "valid": true, "file": loaded.source, "accounts": accounts }));
    }
    match &loaded.source {
        Some(path) => print_line!("{}: valid, {} account(s)", path.display(), config.accounts.len()),
        None => print_line!("Configuration (no file): valid, {} account(s)", config.accounts.len()),
    }
}
