//! The flags of the load generator.

use antiphon_load::{Amount, LoadOptions, Mode};
use clap::{Parser, ValueEnum};
use std::error::Error;
use std::process::ExitCode;
use tokio::runtime::{Builder, Runtime};

/// Sends load to an OpenAI Responses API and prints what it measured.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Example: antiphon-load --url http://127.0.0.1:8080/v1 --mode ws --turns 20 --duration 10s"
)]
pub(crate) struct Cli {
    /// Base URL of what is measured.
    #[arg(long, default_value = "http://127.0.0.1:8080/v1")]
    url: String,
    /// What a turn is.
    #[arg(long, value_enum, default_value_t = ModeArg::Json)]
    mode: ModeArg,
    /// Connections, each with one turn at a time.
    #[arg(long, default_value_t = 16)]
    concurrency: usize,
    /// Stop after so many requests.
    #[arg(long, conflicts_with = "duration")]
    requests: Option<u64>,
    /// Stop after this time.
    #[arg(long, default_value = "10s")]
    duration: humantime::Duration,
    /// Requests before the measurement.
    #[arg(long, default_value_t = 0)]
    warmup: u64,
    /// Value of the field `store`; true for chains and false otherwise if not given.
    #[arg(long)]
    store: Option<bool>,
    /// Turns of a chain, each of which continues the one before.
    #[arg(long, default_value_t = 1)]
    turns: usize,
    /// Offer a tool, and answer the call of the turn before; the upstream has to make calls (--calls).
    #[arg(long)]
    tools: bool,
    /// Turn of a chain to time by itself too; can be given more than once.
    #[arg(long = "report-turn", value_name = "N")]
    report_turns: Vec<usize>,
    /// Length of the input text, or of what the tool says.
    #[arg(long, default_value_t = 200)]
    input_chars: usize,
    /// Model that is asked.
    #[arg(long, default_value = "sim")]
    model: String,
    /// Key sent as bearer.
    #[arg(long)]
    api_key: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Worker threads; one keeps the CPU cost low.
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ModeArg {
    /// Collected replies.
    Json,
    /// Event streams.
    Sse,
    /// WebSockets, one a connection.
    Ws,
}

pub(crate) fn run(cli: Cli) -> Result<ExitCode, Box<dyn Error>> {
    runtime(cli.threads)?.block_on(send_load(cli))
}

fn runtime(threads: usize) -> std::io::Result<Runtime> {
    let mut builder = if threads > 1 { Builder::new_multi_thread() } else { Builder::new_current_thread() };
    builder.worker_threads(threads.max(1)).enable_all().build()
}

async fn send_load(cli: Cli) -> Result<ExitCode, Box<dyn Error>> {
    let options = LoadOptions {
        url: cli.url,
        mode: match cli.mode {
            ModeArg::Json => Mode::Json,
            ModeArg::Sse => Mode::Sse,
            ModeArg::Ws => Mode::Ws,
        },
        concurrency: cli.concurrency,
        amount: cli.requests.map_or_else(|| Amount::Time(cli.duration.into()), Amount::Requests),
        warmup: cli.warmup,
        store: cli.store,
        turns: cli.turns,
        tools: cli.tools,
        input_chars: cli.input_chars,
        model: cli.model,
        api_key: cli.api_key,
    };
    let report = antiphon_load::run_by_turn(options, &cli.report_turns).await?;
    if cli.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{report}");
    }
    Ok(if report.failed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::Cli;
    use clap::{CommandFactory, Parser};

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn requests_and_duration_exclude_each_other() {
        assert!(Cli::try_parse_from(["x", "--requests", "5", "--store", "true"]).is_ok());
        assert!(Cli::try_parse_from(["x", "--requests", "5", "--duration", "1s"]).is_err());
    }
}
