//! The `antiphon` command.

use std::process::ExitCode;

use antiphon::cli::Cli;
use clap::Parser;

/// What one thread allocates another one frees here, which glibc's allocator is slow at: docs/benchmarks.md has figures.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("antiphon: {error:#}");
            ExitCode::FAILURE
        }
    }
}
