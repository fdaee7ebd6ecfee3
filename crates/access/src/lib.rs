//! Access: who may do what, and what it costs.
//!
//! [`keys`] authenticate clients, [`limits`] bound what they use, [`prices`] and [`usage`] say what it cost, [`admin`] holds
//! the operators' tokens, [`sessions`] their sessions and [`sign_ins`] how some begin, and [`audit`] records who changed what. This crate
//! knows nothing of upstreams or HTTP doors.

pub mod admin;
pub mod audit;
pub mod keys;
pub mod limits;
mod object;
pub mod pattern;
pub mod prices;
pub mod query;
mod role;
mod session_id;
pub mod sessions;
pub mod sign_ins;
pub mod usage;
