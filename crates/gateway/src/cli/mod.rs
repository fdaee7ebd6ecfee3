//! The commands. Wrong usage ends with exit code 2, failure with 1.

mod accounts;
mod admin;
mod config;
mod demo;
mod keys;
mod migrate;
mod operations;
mod serve;
mod signals;
mod store;
mod usage;

use std::net::SocketAddr;
use std::path::PathBuf;

use antiphon_runtime::background;
use anyhow::Context;
use clap::{Parser, Subcommand};
use serde::Serialize;

use crate::config::{Config, Environment, Loaded, Overrides};
use crate::reload::ConfigLoader;

/// A gateway for the OpenAI Responses API that remembers.
#[derive(Debug, Parser)]
#[command(
    version,
    arg_required_else_help = true,
    after_help = "Example:\n  OPENAI_API_KEY=sk-… antiphon serve"
)]
pub struct Cli {
    /// The configuration file [default: antiphon.toml in this folder, if there is one]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the API
    #[command(after_help = "Example:\n  antiphon serve --config antiphon.toml --listen 127.0.0.1:8080")]
    Serve {
        /// Where to listen, instead of what the configuration says
        #[arg(long, value_name = "ADDRESS:PORT")]
        listen: Option<SocketAddr>,
    },
    /// Serve the API over a simulated upstream, to try things out; nothing is kept
    #[command(after_help = "Example:\n  antiphon demo --listen 127.0.0.1:8099")]
    Demo {
        /// Where to listen
        #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
        listen: SocketAddr,
    },
    /// Bring the schema of the store's database up to date
    #[command(after_help = "Example:\n  antiphon migrate --check --config antiphon.toml")]
    Migrate {
        /// Change nothing; fail if there is anything to do
        #[arg(long)]
        check: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Look into the store's database
    #[command(subcommand)]
    Store(store::Command),
    /// See how accounts do, try them, pause and resume them
    #[command(subcommand)]
    Accounts(accounts::Command),
    /// Make and end the keys of clients
    #[command(subcommand)]
    Keys(keys::Command),
    /// Who may call the admin API
    #[command(subcommand)]
    Admin(admin::Command),
    /// Tell who used what: turns, tokens and cost; the gateway may run meanwhile
    #[command(after_help = "Example:\n  antiphon usage --from 2026-11-01 --group-by project,day --csv")]
    Usage(usage::Arguments),
    /// Check or show the configuration
    #[command(subcommand)]
    Config(config::Command),
}

impl Cli {
    pub fn run(self) -> anyhow::Result<()> {
        match &self.command {
            Command::Serve { listen } => {
                let reload = self.loading(Overrides { listen: *listen })?;
                serve::run(reload()?, reload)
            }
            Command::Demo { listen } => demo::run(*listen),
            Command::Migrate { check, json } => {
                migrate::run(&self.load(Overrides::default())?, *check, *json)
            }
            Command::Store(command) => command.run(&self.load(Overrides::default())?),
            Command::Accounts(command) => command.run(&self.load(Overrides::default())?),
            Command::Keys(command) => command.run(&self.load(Overrides::default())?),
            Command::Admin(command) => command.run(&self.load(Overrides::default())?),
            Command::Usage(arguments) => arguments.run(&self.load(Overrides::default())?),
            Command::Config(command) => command.run(&self.load(Overrides::default())?),
        }
    }

    fn load(&self, overrides: Overrides) -> anyhow::Result<Loaded> {
        Ok(self.loading(overrides)?()?)
    }

    /// Reads the configuration, as often as it is called.
    fn loading(&self, overrides: Overrides) -> anyhow::Result<ConfigLoader> {
        let cwd = std::env::current_dir().context("the working directory can't be told")?;
        let file = self.config.clone();
        Ok(Box::new(move || Config::load(file.as_deref(), &cwd, &Environment::from_process(), overrides)))
    }
}

/// Prints what the admin API answers to the same.
fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Runs a command that serves.
fn serve_on_threads<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    background::start().context("the runtime can't be started")?.block_on(future)
}

/// Runs a command that does one thing and ends.
fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("the runtime can't be started")?.block_on(future)
}
