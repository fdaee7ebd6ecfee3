//! `make chaos` and `make soak`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use antiphon_chaos::chaos::{self, Amount};
use antiphon_chaos::{Engine, Violations, soak};
use clap::{Parser, Subcommand};

/// Long fault tests of the real gateway, on SQLite and on PostgreSQL.
#[derive(Debug, Parser)]
#[command(version, after_help = "Example: antiphon-chaos --binary target/release/antiphon soak --seconds 7200")]
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
    /// Modest load for a long time, with rare faults: what a gateway holds must not grow.
    Soak {
        #[arg(long, default_value_t = 600)]
        seconds: u64,
    },
}

fn main() -> std::io::Result<ExitCode> {
    let cli = Cli::parse();
    let seed = cli.seed.unwrap_or_else(rand::random);
    println!("seed {seed}");
    let violations = Violations::default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run(&cli, seed, &violations));
    let list = violations.list();
    for violation in &list {
        println!("violated (seed {seed}): {violation}");
    }
    Ok(if list.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn run(cli: &Cli, seed: u64, violations: &Violations) {
    let binary = std::path::absolute(&cli.binary).unwrap_or_else(|_| cli.binary.clone());
    match cli.command {
        Command::Faults { seconds } => {
            for engine in [Engine::Sqlite, Engine::Postgres] {
                let amount = Amount::Time(Duration::from_secs(seconds) / 2);
                println!("{}", chaos::run(&binary, engine, amount, seed, violations).await);
            }
        }
        Command::Soak { seconds } => {
            let time = Duration::from_secs(seconds);
            let soak = |engine| soak::run(&binary, engine, time, seed, violations);
            let (sqlite, postgres) = tokio::join!(soak(Engine::Sqlite), soak(Engine::Postgres));
            println!("{sqlite}\n{postgres}");
        }
    }
}
