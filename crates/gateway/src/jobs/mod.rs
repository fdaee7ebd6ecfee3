//! Background loops, a file each. Each takes just what it needs and runs for as long as the gateway does.

pub mod accounts;
pub mod deletions;
pub mod keys;
pub mod limits;
pub mod metrics;
pub mod replicas;
pub mod store;
pub mod usage;
