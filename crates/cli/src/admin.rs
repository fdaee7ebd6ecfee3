//! `antiphon admin`: the admin tokens.

use antiphon_access::admin::Role;
use antiphon_access::audit::Actor;
use antiphon_config::Loaded;
use clap::Subcommand;

use super::operations::{open, with_operations};
use super::output;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a new admin token and print it; the old one stops working, and its sessions end
    #[command(after_help = "Example:\n  antiphon admin token --viewer")]
    Token {
        /// The token of viewers, who can read but change nothing
        #[arg(long)]
        viewer: bool,
        /// Print the JSON object of the admin API
        #[arg(long)]
        json: bool,
    },
}

impl Command {
    pub fn run(&self, loaded: &Loaded) -> anyhow::Result<()> {
        let Self::Token { viewer, json } = self;
        let role = if *viewer { Role::Viewer } else { Role::Admin };
        let config = &loaded.config;
        output::require_reader()?;
        let issued = with_operations(config, open(&config.store), async |operations| {
            Ok(operations.replace_admin_token(role, Actor::CommandLine).await?)
        })?;
        let shown = if *json { serde_json::to_string_pretty(&issued)? } else { issued.token };
        output::print_secret(&shown, "the token was replaced", "run the command again")
    }
}
