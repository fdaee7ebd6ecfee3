//! The flags of the load generator.

use antiphon_load::{Amount, LoadOptions, Mode};
use clap::{Parser, ValueEnum};
use std::error::Error;
use std::process::ExitCode;
use tokio::runtime::{Builder, Runtime};

/// Load generator for the OpenAI Responses API.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Example: antiphon-load --url http://127.0.0.1:8080/v1 --mode ws --turns 20 --duration 10s"
)]
pub(crate) struct Cli {
    /// Base URL of the API under test.
    #[arg(long, default_value = "http://127.0.0.1:8080/v1")]
    url: String,
    /// How turns are sent and read.
    #[arg(long, value_enum, default_value_t = ModeArg::Json)]
    mode: ModeArg,
    /// Number of connections, each with one turn at a time.
    #[arg(long, default_value_t = 16)]
    concurrency: usize,
    /// Stop after this number of requests.
    #[arg(long, conflicts_with = "duration")]
    requests: Option<u64>,
    /// Stop after this time.
    #[arg(long, default_value = "10s")]
    duration: humantime::Duration,
    /// Number of requests before the measurement.
    #[arg(long, default_value_t = 0)]
    warmup: u64,
    /// Time over which the connections start their turns, so that they do not run in step.
    #[arg(long, default_value = "0s")]
    ramp: humantime::Duration,
    /// Value of the field `store` [default: true for chains, else false].
    #[arg(long)]
    store: Option<bool>,
    /// Number of turns in a chain; each continues the previous one.
    #[arg(long, default_value_t = 1)]
    turns: usize,
    /// Offer a tool, and send the output of the previous turn's call; the upstream has to make calls (--calls).
    #[arg(long)]
    tools: bool,
    /// Also report the mean time of this turn of a chain; may be repeated.
    #[arg(long = "report-turn", value_name = "N")]
    report_turns: Vec<usize>,
    /// Length of the input text, or of the tool's output.
    #[arg(long, default_value_t = 200)]
    input_chars: usize,
    /// Model to request.
    #[arg(long, default_value = "sim")]
    model: String,
    /// API key to send.
    #[arg(long)]
    api_key: Option<String>,
    /// Report how long each delta took from the upstream; the simulator has to stamp them (--event-by-event).
    #[arg(long)]
    delays: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Number of worker threads; one keeps the CPU cost low.
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ModeArg {
    /// Collected replies.
    Json,
    /// Event streams.
    Sse,
    /// WebSockets, one per connection.
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
        ramp: cli.ramp.into(),
        store: cli.store,
        turns: cli.turns,
        tools: cli.tools,
        input_chars: cli.input_chars,
        model: cli.model,
        api_key: cli.api_key,
        delays: cli.delays,
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
    fn requests_and_duration_are_mutually_exclusive() {
        assert!(Cli::try_parse_from(["x", "--requests", "5", "--store", "true"]).is_ok());
        assert!(Cli::try_parse_from(["x", "--requests", "5", "--duration", "1s"]).is_err());
    }
}
