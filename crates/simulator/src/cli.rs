//! The flags of the simulated upstream.

use antiphon_simulator::upstream::{Options, Script, Simulator};
use clap::Parser;
use std::error::Error;
use std::net::SocketAddr;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

/// A scripted upstream for the OpenAI Responses API.
#[derive(Debug, Parser)]
#[command(version, after_help = "Example: antiphon-simulator --listen 127.0.0.1:9000 --api-key sk-sim")]
pub(crate) struct Cli {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:9000")]
    listen: SocketAddr,
    /// The only accepted API key [default: every client is accepted].
    #[arg(long)]
    api_key: Option<String>,
    /// Send prepared replies of 200 characters, with 50 deltas per stream, and check nothing.
    #[arg(long)]
    bench: bool,
    /// Reply with a function call of 200 characters instead of text. With --bench, calls are still rendered for each request.
    #[arg(long)]
    calls: bool,
    /// With --bench, render each reply for its request, with a write for each event: for chat completions as well.
    #[arg(long, requires = "bench")]
    rendered: bool,
    /// Store responses and continue them by previous_response_id.
    #[arg(long)]
    stateful: bool,
    /// Boundary of encrypted content: upstreams with the same boundary can read each other's.
    #[arg(long)]
    boundary: Option<String>,
    /// Time between two events of a stream.
    #[arg(long, default_value = "0s")]
    between_events: humantime::Duration,
    /// With --bench, send each event as a chunk and a write of its own, and stamp each delta with the time.
    #[arg(long, requires = "bench")]
    event_by_event: bool,
    /// Number of worker threads; one keeps the CPU cost low.
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

pub(crate) fn run(cli: Cli) -> Result<(), Box<dyn Error>> {
    runtime(cli.threads)?.block_on(serve(cli))
}

fn runtime(threads: usize) -> std::io::Result<Runtime> {
    let mut builder = if threads > 1 { Builder::new_multi_thread() } else { Builder::new_current_thread() };
    builder.worker_threads(threads.max(1)).enable_all().build()
}

async fn serve(cli: Cli) -> Result<(), Box<dyn Error>> {
    let options = if cli.bench { Options::bench() } else { Options::default() };
    let options = Options {
        api_key: cli.api_key,
        stateful: cli.stateful,
        boundary: cli.boundary.unwrap_or_else(|| options.boundary.clone()),
        between_events: cli.between_events.into(),
        event_by_event: cli.event_by_event,
        prepared: options.prepared && !cli.calls && !cli.rendered,
        ..options
    };
    let simulator = Simulator::start(TcpListener::bind(cli.listen).await?, options);
    if cli.calls {
        simulator.always(call());
    }
    println!("listening on {}", simulator.url());
    tokio::signal::ctrl_c().await?;
    simulator.shutdown().await;
    Ok(())
}

/// A script that calls the tool of the load generator.
fn call() -> Script {
    let command: String = "cat src/lib.rs && ".chars().cycle().take(190).collect();
    Script::call("exec_command", format!("{{\"cmd\":\"{command}\"}}"))
}

#[cfg(test)]
mod tests {
    use super::Cli;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
