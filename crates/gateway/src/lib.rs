//! The gateway as a library: the path of a turn, the doors and the jobs. The crate `antiphon` is the command that runs it.
//!
//! Imports point down only: [`app`] -> `http` (the doors), [`jobs`], `metrics` -> [`turn`] (the path of a turn) and [`reload`] ->
//! `conversations` -> [`telemetry`], [`tls`]. `scripts/imports.py` holds the table and fails on any other import.

pub mod app;
mod body_memory;
mod conversations;
mod decompression;
mod http;
pub mod jobs;
mod memory;
mod metrics;
pub mod reload;
pub mod telemetry;
pub mod tls;
pub mod turn;
