//! The `antiphon` command.

use std::process::ExitCode;

use antiphon::{Cli, Logged, OutputClosed, note};
use clap::Parser;

/// Memory is often allocated on one thread and freed on another, which is slow with glibc's allocator: docs/benchmarks.md
/// has figures. Version 2 of mimalloc keeps such memory until the first thread allocates again: a few long replies filled
/// the memory of the process.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// As a shell reports a command that SIGPIPE ended.
const OUTPUT_CLOSED: u8 = 141;

fn main() -> ExitCode {
    // Huge pages make no turn faster, and a process that idles keeps twice the memory. A kernel that cannot turn them off has
    // none.
    #[cfg(target_os = "linux")]
    rustix::thread::disable_transparent_huge_pages(true).ok();
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Logged>() => ExitCode::FAILURE,
        Err(error) if error.is::<OutputClosed>() => ExitCode::from(OUTPUT_CLOSED),
        Err(error) => {
            note(format_args!("antiphon: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
