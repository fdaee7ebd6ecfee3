//! Background jobs, one per file. Each takes only what it needs and runs as long as the gateway does.

pub mod accounts;
pub mod background;
pub mod conversations;
pub mod deletions;
pub mod keys;
pub mod limits;
pub mod memory;
pub mod metrics;
mod outage;
mod renewing;
pub mod replicas;
pub mod store;
pub mod tls;
pub mod usage;
pub mod watchdog;
