//! `antiphon store`: statistics of the database, and checking, copying and backing it up.

mod backup;
mod check;
mod copy;

use std::path::PathBuf;

use antiphon_config::Loaded;
use antiphon_store::{Clock, ProjectStats, SystemClock};
use clap::Subcommand;
use serde_json::{Value, json};

use super::block_on;
use super::operations::open_for_reading;
use super::output::print_line;
use antiphon_runtime::rfc3339;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show what the store contains, by project; safe to run beside a gateway
    #[command(after_help = "Example:\n  antiphon store stats --json")]
    Stats {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Read everything and report what is damaged; the gateway may run meanwhile
    #[command(after_help = "Example:\n  antiphon store check --json\n\n\
        The exit code is 1 if anything is damaged. Progress goes to standard error.")]
    Check {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Back up the database into a new SQLite file, whatever its engine; the gateway may run meanwhile
    #[command(after_help = "Example:\n  antiphon store backup /var/backups/antiphon-monday.db\n\n\
        The backup is one snapshot. It is checked before it gets its name, and never overwrites a file.\n\
        To restore it, stop the gateway and put it in place of the database, or `antiphon store copy` it into another one.")]
    Backup {
        /// The file to write; it must not exist
        file: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Copy everything into another database, of either engine; existing rows are kept
    #[command(
        after_help = "Example:\n  antiphon store copy --from sqlite://antiphon.db --to env:DATABASE_URL\n\n\
        Give a URL as env:NAME to keep its password out of the process list.\n\
        Stop everything that writes to either database first. Run an interrupted copy again to continue it."
    )]
    Copy {
        /// Database URL to read from; it is not changed
        #[arg(long, value_name = "URL")]
        from: String,
        /// Database URL to write to; a missing SQLite file is created
        #[arg(long, value_name = "URL")]
        to: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

impl Command {
    pub fn run(&self, loaded: &Loaded) -> anyhow::Result<()> {
        match self {
            Self::Stats { json } => stats(loaded, *json),
            Self::Check { json } => check::run(&loaded.config.store, *json),
            Self::Backup { file, json } => backup::run(&loaded.config, file, *json),
            Self::Copy { from, to, json } => copy::run(&loaded.config.store, from, to, *json),
        }
    }
}

fn stats(loaded: &Loaded, json: bool) -> anyhow::Result<()> {
    let config = &loaded.config.store;
    let stats = block_on(async {
        let store = open_for_reading(config).await?;
        let stats = store.stats(SystemClock.now()).await;
        store.close().await;
        Ok(stats?)
    })?;
    if json { print_json(&stats) } else { print_table(&config.url.to_string(), &stats) }
}

fn print_json(stats: &[ProjectStats]) -> anyhow::Result<()> {
    let projects: Vec<Value> = stats
        .iter()
        .map(|stats| {
            json!({
                "project": stats.project.as_str(),
                "responses": stats.responses,
                "chains": stats.chains,
                "conversations": stats.conversations,
                "conversation_bytes": stats.conversation_bytes,
                "bytes": stats.bytes,
                "oldest": rfc3339(stats.oldest),
                "expired": stats.expired,
                "background": stats.background,
            })
        })
        .collect();
    print_line!("{}", json!({ "projects": projects }))
}

fn print_table(url: &str, stats: &[ProjectStats]) -> anyhow::Result<()> {
    print_line!("{url}")?;
    if stats.is_empty() {
        return print_line!("no responses");
    }
    print_line!(
        "{:<24} {:>12} {:>12} {:>14} {:>16} {:>10} {:>10}  oldest",
        "project",
        "responses",
        "chains",
        "conversations",
        "bytes",
        "expired",
        "background"
    )?;
    for row in stats {
        let ProjectStats { project, responses, chains, conversations, bytes, expired, background, .. } = row;
        print_line!(
            "{:<24} {responses:>12} {chains:>12} {conversations:>14} {bytes:>16} {expired:>10} {background:>10}  {}",
            project.as_str(),
            rfc3339(row.oldest)
        )?;
    }
    Ok(())
}
