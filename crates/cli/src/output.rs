//! What commands print. `println!` would panic where it cannot write, perhaps after the command has changed something.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write};

use anyhow::{Context, anyhow, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Nobody reads the output any more, as in `antiphon keys list | head -n 1`.
#[derive(Debug, thiserror::Error)]
#[error("standard output is closed")]
pub struct OutputClosed;

/// Prints a line to standard output.
macro_rules! print_line {
    ($($text:tt)*) => {
        $crate::output::print(format_args!("{}\n", format_args!($($text)*)))
    };
}

/// Prints a line to standard error. A note that nobody can read is no reason to fail.
macro_rules! print_note {
    ($($text:tt)*) => {
        $crate::output::note(format_args!($($text)*))
    };
}

pub(super) use {print_line, print_note};

pub fn print(text: Arguments<'_>) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_fmt(text).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(OutputClosed.into()),
        written => written.context("cannot write to standard output"),
    }
}

pub fn note(text: Arguments<'_>) {
    writeln!(io::stderr(), "{text}").ok();
}

/// Prints a new secret, after `change` was made. That it cannot be printed is an error, as it can't be shown again.
pub fn print_secret(secret: &str, change: &str, advice: &str) -> anyhow::Result<()> {
    print_line!("{secret}").map_err(|error| {
        anyhow!("{change}, but the new secret could not be printed and is lost: {advice} ({error:#})")
    })
}

/// Fails if it is known that nobody will read the output. A full disk shows only when it is written to.
pub fn require_reader() -> anyhow::Result<()> {
    let stdout = io::stdout();
    let mut polled = [PollFd::new(&stdout, PollFlags::empty())];
    let is_known = poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok();
    let is_closed = polled[0].revents().intersects(PollFlags::ERR | PollFlags::HUP);
    ensure!(
        !(is_known && is_closed),
        "standard output is closed, and the secret would be lost: nothing was changed"
    );
    Ok(())
}
