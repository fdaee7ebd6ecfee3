//! `make chaos`, `make soak` and `make upgrade-test`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use antiphon_chaos::chaos::{self, Amount};
use antiphon_chaos::{Engine, Violation, Violations, soak, upgrade};
use clap::{Parser, Subcommand};

/// Long fault tests of the real gateway, on SQLite and on PostgreSQL.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Example: antiphon-chaos --binary target/release/antiphon soak --seconds 7200"
)]
struct Cli {
    /// The gateway.
    #[arg(long, default_value = "target/release/antiphon")]
    binary: PathBuf,
    /// What the run's random choices are made from.
    #[arg(long)]
    seed: Option<u64>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Random faults under load, and a table of what came of them.
    Faults {
        #[arg(long, default_value_t = 120)]
        seconds: u64,
    },
    /// Gateways are killed under load, so many times.
    Kills {
        #[arg(long, default_value_t = 100)]
        times: u64,
    },
    /// Modest load for a long time, with rare faults: what a gateway holds must not grow.
    Soak {
        #[arg(long, default_value_t = 600)]
        seconds: u64,
    },
    /// From the previous release to this one on PostgreSQL, replica by replica, under load.
    Upgrade {
        /// The gateway of the previous release.
        #[arg(long)]
        from: PathBuf,
        /// It cannot read events of background responses as this release writes them.
        #[arg(long)]
        without_events: bool,
    },
}

fn main() -> std::io::Result<ExitCode> {
    let cli = Cli::parse();
    let seed = cli.seed.unwrap_or_else(rand::random);
    println!("seed {seed}");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let violations: Vec<_> = runtime.block_on(run(&cli, seed)).iter().flat_map(Violations::list).collect();
    for Violation { promise, what } in &violations {
        println!("violated (seed {seed}): {}: {what}", promise.broken());
    }
    Ok(if violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns what was violated on each engine.
async fn run(cli: &Cli, seed: u64) -> Vec<Violations> {
    let binary = std::path::absolute(&cli.binary).unwrap_or_else(|_| cli.binary.clone());
    match cli.command {
        Command::Upgrade { ref from, without_events } => {
            let from = std::path::absolute(from).unwrap_or_else(|_| from.clone());
            vec![upgrade::run(&from, &binary, !without_events, seed).await]
        }
        Command::Faults { seconds } => {
            on_each_engine(&binary, Amount::Time(Duration::from_secs(seconds) / 2), seed).await
        }
        Command::Kills { times } => on_each_engine(&binary, Amount::Kills(times), seed).await,
        Command::Soak { seconds } => {
            let time = Duration::from_secs(seconds);
            let soak = |engine| soak::run(&binary, engine, time, seed);
            let (sqlite, postgres) = tokio::join!(soak(Engine::Sqlite), soak(Engine::Postgres));
            println!("{sqlite}\n{postgres}");
            vec![sqlite.violations, postgres.violations]
        }
    }
}

async fn on_each_engine(binary: &Path, amount: Amount, seed: u64) -> Vec<Violations> {
    let mut violations = Vec::new();
    for engine in [Engine::Sqlite, Engine::Postgres] {
        let report = chaos::run(binary, engine, amount, seed).await;
        println!("{report}");
        violations.push(report.violations);
    }
    violations
}
