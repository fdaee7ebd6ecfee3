//! The command line. Wrong usage exits with 2, failure with 1, and a command whose reader went away with 141.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod accounts;
mod admin;
mod audit;
mod config;
mod demo;
mod doctor;
mod generate;
mod keys;
mod migrate;
mod operations;
mod output;
mod serve;
mod signals;
mod store;
mod usage;

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::PathBuf;

use antiphon_config::{Config, Environment, Loaded, Overrides, Secrets};
use antiphon_gateway::reload::ConfigLoader;
use antiphon_runtime::background;
use anyhow::Context;
use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use clap_complete::Shell;
use serde::Serialize;
use tokio::runtime::Runtime;

use self::output::print_line;

/// A stateful gateway for the OpenAI Responses API
#[derive(Debug, Parser)]
#[command(
    version,
    arg_required_else_help = true,
    after_help = "Example:\n  OPENAI_API_KEY=sk-… antiphon serve"
)]
pub struct Cli {
    /// Configuration file [default: the one that the environment variable ANTIPHON_CONFIG names, or else antiphon.toml in the
    /// working directory, if it exists]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway
    #[command(after_help = "Example:\n  antiphon serve --config antiphon.toml --listen 127.0.0.1:8080")]
    Serve {
        /// Address to listen on; overrides `listen` of the configuration
        #[arg(long, value_name = "ADDRESS:PORT")]
        listen: Option<SocketAddr>,
    },
    /// Run the gateway with a simulated upstream and an in-memory store
    #[command(after_help = "Example:\n  antiphon demo --listen 127.0.0.1:8099")]
    Demo {
        /// Address to listen on
        #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
        listen: SocketAddr,
    },
    /// Migrate the schema of the store's database
    #[command(after_help = "Example:\n  antiphon migrate --check --config antiphon.toml")]
    Migrate {
        /// Only list pending migrations; exit with 1 if there are any
        #[arg(long)]
        check: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Inspect or copy the store
    #[command(subcommand, after_help = "Example:\n  antiphon store stats --json")]
    Store(store::Command),
    /// List, test, pause and resume accounts
    #[command(subcommand, after_help = "Example:\n  antiphon accounts list --json")]
    Accounts(accounts::Command),
    /// Create, list, rotate, revoke and delete client keys
    #[command(subcommand, after_help = "Example:\n  antiphon keys create laptop --models 'gpt-*'")]
    Keys(keys::Command),
    /// Manage the admin token
    #[command(subcommand, after_help = "Example:\n  antiphon admin token --viewer")]
    Admin(admin::Command),
    /// Report turns, tokens and cost; safe to run beside a gateway
    #[command(after_help = "Example:\n  antiphon usage --from 2026-11-01 --group-by project,day --csv")]
    Usage(usage::Arguments),
    /// Show who changed what: keys, accounts and admin tokens; safe to run beside a gateway
    #[command(after_help = "Example:\n  antiphon audit --from 2026-11-01 --action key")]
    Audit(audit::Arguments),
    /// Check whether a gateway would work here: configuration, store, accounts, addresses, limits
    #[command(
        after_help = "Example:\n  antiphon doctor --json\n\nThe exit code is 1 if there are problems. Changes nothing, and works \
        beside a running gateway."
    )]
    Doctor(doctor::Arguments),
    /// Check or print the configuration, or write a first one
    #[command(subcommand, after_help = "Example:\n  antiphon config check --config antiphon.toml")]
    Config(config::Command),
    /// Print completions for a shell
    #[command(after_help = "Example:\n  antiphon completions bash > /etc/bash_completion.d/antiphon")]
    Completions { shell: Shell },
    /// Write the man pages
    #[command(after_help = "Example:\n  antiphon man /usr/local/share/man/man1")]
    Man { directory: PathBuf },
}

pub use self::output::{OutputClosed, note};

/// The command has failed, and the log says why.
#[derive(Debug, thiserror::Error)]
#[error("the log has the reason")]
pub struct Logged;

impl Cli {
    pub fn run(self) -> anyhow::Result<()> {
        match &self.command {
            Command::Serve { listen } => {
                let reload = self.config_loader(Overrides { listen: *listen, ..Overrides::default() })?;
                serve::run(reload()?, reload)
            }
            Command::Demo { listen } => demo::run(*listen),
            Command::Migrate { check, json } => migrate::run(&self.load(Secrets::Optional)?, *check, *json),
            Command::Store(command) => command.run(&self.load(Secrets::Optional)?),
            Command::Accounts(command) => command.run(&self.load(command.secrets())?),
            Command::Keys(command) => command.run(&self.load(Secrets::Optional)?),
            Command::Admin(command) => command.run(&self.load(Secrets::Optional)?),
            Command::Usage(arguments) => arguments.run(&self.load(Secrets::Optional)?),
            Command::Audit(arguments) => arguments.run(&self.load(Secrets::Optional)?),
            Command::Doctor(arguments) => {
                arguments.run(|secrets| self.load(secrets), self.is_config_repeatable()?)
            }
            Command::Config(command) => command.run(|secrets| self.load(secrets)),
            Command::Completions { shell } => generate::completions(*shell),
            Command::Man { directory } => generate::man_pages(directory),
        }
    }

    /// Whether the configuration can be read twice: a pipe cannot.
    fn is_config_repeatable(&self) -> anyhow::Result<bool> {
        let file = match &self.config {
            Some(file) => file.clone(),
            None => Config::default_file(&working_directory()?, &Environment::from_process()),
        };
        Ok(file.is_file() || !file.exists())
    }

    fn load(&self, secrets: Secrets) -> anyhow::Result<Loaded> {
        Ok(self.config_loader(Overrides { secrets, ..Overrides::default() })?()?)
    }

    /// A function that loads the configuration, each time it is called.
    fn config_loader(&self, overrides: Overrides) -> anyhow::Result<ConfigLoader> {
        let cwd = working_directory()?;
        let file = self.config.clone();
        Ok(Box::new(move || Config::load(file.as_deref(), &cwd, &Environment::from_process(), overrides)))
    }
}

fn working_directory() -> anyhow::Result<PathBuf> {
    std::env::current_dir().context("cannot determine the working directory")
}

/// Prints the same object that the admin API returns.
fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print_line!("{}", serde_json::to_string_pretty(value)?)
}

/// Exits as for an unknown flag.
fn exit_with_usage_error(invalid: impl Display) -> ! {
    clap::Error::raw(ErrorKind::ValueValidation, format!("{invalid}\n")).exit()
}

/// Runs a command that serves, on several threads.
fn serve_on_threads<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    run(&background::start().context("cannot start the async runtime")?, future)
}

/// Runs a command that does one thing and exits.
fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    run(&runtime.context("cannot start the async runtime")?, future)
}

fn run<T>(runtime: &Runtime, future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    runtime.block_on(async {
        signals::survive_file_size_limit();
        future.await
    })
}
