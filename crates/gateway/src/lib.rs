//! Antiphon: a gateway for the OpenAI Responses API that remembers.
//!
//! Imports point down only: `cli` -> [`app`] -> [`http`] (the doors), [`jobs`], [`metrics`] -> [`turn`] (the one path),
//! [`operations`] (what operators do) and [`reload`] -> [`config`], [`telemetry`]. `scripts/imports.py` holds the table and fails on any other import.

pub mod app;
pub mod cli;
pub mod config;
pub mod errors;
pub mod http;
pub mod jobs;
pub mod metrics;
pub mod operations;
pub mod reload;
pub mod telemetry;
pub mod turn;
