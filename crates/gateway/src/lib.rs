//! Antiphon: a gateway for the OpenAI Responses API that remembers.
//!
//! Arrows point down only: `cli` -> [`app`] -> [`http`] (the doors) -> [`turn`] (the one path) -> [`pool`], [`upstream`], [`keys`]
//! -> the store -> the protocol. [`config`], [`metrics`], [`telemetry`] and [`lifecycle`] are leaves.

pub mod admin;
pub mod app;
pub mod audit;
pub mod cli;
pub mod config;
pub mod credential;
pub mod http;
pub mod keys;
pub mod lifecycle;
pub mod limits;
pub mod metrics;
pub mod pool;
pub mod prices;
pub mod reload;
pub mod telemetry;
pub mod time;
pub mod turn;
pub mod upstream;
pub mod usage;
pub mod workers;
