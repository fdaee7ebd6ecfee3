//! `antiphon admin`: who may call the admin API.

use antiphon_store::SystemClock;
use clap::Subcommand;

use super::block_on;
use crate::config::Loaded;
use antiphon_access::admin::AdminToken;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make another admin token and print it; the one before is of no use any more
    #[command(after_help = "Example:\n  antiphon admin token")]
    Token,
}

impl Command {
    pub fn run(&self, loaded: &Loaded) -> anyhow::Result<()> {
        let Self::Token = self;
        let config = &loaded.config.store;
        block_on(async {
            let store = antiphon_store::open(&config.target()?, config.options()?).await?;
            let token = AdminToken::make_another(&*store, &SystemClock).await;
            store.close().await;
            println!("{}", token?.expose());
            Ok(())
        })
    }
}
