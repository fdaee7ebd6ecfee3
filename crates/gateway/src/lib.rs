//! Antiphon: a stateful gateway for the OpenAI Responses API.
//!
//! Imports point down only: `cli` -> [`app`] -> `http` (the doors), [`jobs`], `metrics` -> [`turn`] (the path of a turn),
//! `operations` (the operations of operators) and `reload` -> `conversations` -> [`config`], `oidc`, `telemetry`.
//! `scripts/imports.py` holds the table and fails on any other import.

pub mod app;
mod body_memory;
pub mod cli;
pub mod config;
mod conversations;
mod decompression;
mod errors;
mod http;
pub mod jobs;
mod memory;
mod metrics;
mod oidc;
mod operations;
mod reload;
mod telemetry;
mod tls;
pub mod turn;
