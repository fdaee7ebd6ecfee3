//! The two subcommands and their flags.

use antiphon_simulator::load::{self, Amount, LoadOptions, Mode};
use antiphon_simulator::upstream::{Options, Script, Simulator};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::error::Error;
use std::net::SocketAddr;
use std::process::ExitCode;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

/// A scripted upstream for the OpenAI Responses API, and a load generator.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Worker threads; one keeps the CPU cost low.
    #[arg(long, global = true, default_value_t = 1)]
    threads: usize,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve an upstream.
    #[command(after_help = "Example: antiphon-simulator upstream --listen 127.0.0.1:9000 --api-key sk-sim")]
    Upstream(UpstreamArgs),
    /// Send load and print what was measured.
    #[command(
        after_help = "Example: antiphon-simulator load --url http://127.0.0.1:8080/v1 --mode ws --turns 20 --duration 10s"
    )]
    Load(LoadArgs),
}

#[derive(Args, Debug)]
struct UpstreamArgs {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:9000")]
    listen: SocketAddr,
    /// The only API key that is let in; without it everybody is.
    #[arg(long)]
    api_key: Option<String>,
    /// Send prepared answers of 200 characters, 50 deltas a stream, and check nothing.
    #[arg(long)]
    bench: bool,
    /// Answer with a function call of 200 characters instead of a text. With --bench it is not prepared, but rendered.
    #[arg(long)]
    calls: bool,
    /// Keep responses and continue them by previous_response_id.
    #[arg(long)]
    stateful: bool,
    /// Who can read the encrypted content made here: upstreams of the same boundary.
    #[arg(long)]
    boundary: Option<String>,
    /// Time between two events of a stream.
    #[arg(long, default_value = "0s")]
    between_events: humantime::Duration,
    /// With --bench, send each event of a stream as an HTTP chunk of its own.
    #[arg(long, requires = "bench")]
    chunked_events: bool,
}

#[derive(Args, Debug)]
struct LoadArgs {
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
    let runtime = runtime(cli.threads)?;
    match cli.command {
        Command::Upstream(args) => runtime.block_on(upstream(args)),
        Command::Load(args) => runtime.block_on(send_load(args)),
    }
}

fn runtime(threads: usize) -> std::io::Result<Runtime> {
    let mut builder = if threads > 1 { Builder::new_multi_thread() } else { Builder::new_current_thread() };
    builder.worker_threads(threads.max(1)).enable_all().build()
}

async fn upstream(args: UpstreamArgs) -> Result<ExitCode, Box<dyn Error>> {
    let options = if args.bench { Options::bench() } else { Options::default() };
    let options = Options {
        api_key: args.api_key,
        stateful: args.stateful,
        boundary: args.boundary.unwrap_or_else(|| options.boundary.clone()),
        between_events: args.between_events.into(),
        chunked_events: args.chunked_events,
        prepared: options.prepared && !args.calls,
        ..options
    };
    let simulator = Simulator::start(TcpListener::bind(args.listen).await?, options);
    if args.calls {
        simulator.always(call());
    }
    println!("listening on {}", simulator.url());
    tokio::signal::ctrl_c().await?;
    simulator.shutdown().await;
    Ok(ExitCode::SUCCESS)
}

/// A call of what the load generator offers.
fn call() -> Script {
    let command: String = "cat src/lib.rs && ".chars().cycle().take(190).collect();
    Script::call("exec_command", format!("{{\"cmd\":\"{command}\"}}"))
}

async fn send_load(args: LoadArgs) -> Result<ExitCode, Box<dyn Error>> {
    let options = LoadOptions {
        url: args.url,
        mode: match args.mode {
            ModeArg::Json => Mode::Json,
            ModeArg::Sse => Mode::Sse,
            ModeArg::Ws => Mode::Ws,
        },
        concurrency: args.concurrency,
        amount: args.requests.map_or_else(|| Amount::Time(args.duration.into()), Amount::Requests),
        warmup: args.warmup,
        store: args.store,
        turns: args.turns,
        tools: args.tools,
        input_chars: args.input_chars,
        model: args.model,
        api_key: args.api_key,
    };
    let report = load::run_by_turn(options, &args.report_turns).await?;
    if args.json {
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
        assert!(Cli::try_parse_from(["x", "load", "--requests", "5", "--store", "true"]).is_ok());
        assert!(Cli::try_parse_from(["x", "load", "--requests", "5", "--duration", "1s"]).is_err());
    }
}
