//! `antiphon admin`: the admin token.

use antiphon_access::audit::Actor;
use clap::Subcommand;

use super::operations::{open, with_operations};
use crate::config::Loaded;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a new admin token and print it; the old one stops working
    #[command(after_help = "Example:\n  antiphon admin token")]
    Token,
}

impl Command {
    pub fn run(&self, loaded: &Loaded) -> anyhow::Result<()> {
        let Self::Token = self;
        let config = &loaded.config;
        let token = with_operations(config, open(&config.store), async |operations| {
            Ok(operations.replace_admin_token(Actor::CommandLine).await?)
        })?;
        println!("{}", token.expose());
        Ok(())
    }
}
