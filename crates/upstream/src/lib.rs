//! Everything that knows upstreams.
//!
//! Imports point down only: [`pool`] (which account gets a turn) -> [`transport`] (HTTP and WebSocket) -> [`account`] (what
//! the configuration says of one) -> [`credential`] (tokens that expire) -> [`client`] (connections). [`settings`] are what
//! the configuration is read into, and [`metrics`] what is counted.

pub mod account;
pub mod client;
pub mod credential;
pub mod metrics;
pub mod pool;
pub mod settings;
pub mod transport;
