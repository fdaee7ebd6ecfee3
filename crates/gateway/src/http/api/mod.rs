//! The HTTP endpoints for clients, one function each.

pub mod conversations;
mod counted;
pub mod create;
pub mod models;
pub mod stored;
