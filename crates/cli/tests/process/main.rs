//! The gateway as its users run it: the real binary, the real clients, and `kill -9`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod background;
mod background_native;
mod chaos;
mod chat_clients;
mod clients;
mod command;
mod conformance;
mod continuity;
mod damage;
mod examining;
mod keys;
mod killing;
mod logging;
mod memory;
mod models;
mod moving;
mod operating;
mod outages;
mod output;
mod pages;
mod reloading;
mod serving;
mod sockets;
mod stalling;
mod systemd;
mod uploading;
mod usage;

use std::path::Path;

use antiphon_testkit::binary_under_test;

/// The binary under test.
fn binary() -> &'static Path {
    binary_under_test(env!("CARGO_BIN_EXE_antiphon"))
}
