//! Everything that knows upstreams.
//!
//! Imports point down only: [`pool`] (which account gets a turn) -> [`transport`] (HTTP and WebSocket) -> [`account`] (one
//! account, and what is known of its upstream) -> [`credential`] (tokens that expire) -> [`client`] (connections) ->
//! [`settings`] (what the configuration is read into) and [`metrics`] -> [`route`] (proxies and authorities) and [`dialect`] (the
//! API that an upstream speaks).

pub mod account;
pub mod client;
pub mod credential;
pub mod dialect;
pub mod metrics;
pub mod pool;
pub mod route;
pub mod settings;
pub mod transport;
