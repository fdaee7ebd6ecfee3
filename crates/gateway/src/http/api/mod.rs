//! The doors of clients, but for the WebSocket: a function an endpoint.

pub mod create;
pub mod models;
pub mod stored;
