//! The HTTP endpoints for clients, one function each.

pub mod conversations;
pub mod create;
pub mod models;
pub mod stored;
