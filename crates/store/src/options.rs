//! How a store is opened.

use std::time::Duration;

use crate::StoreUrl;

/// When a commit counts as durable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// The disk has it: it survives a power cut.
    #[default]
    Full,
    /// The operating system has it: it survives a kill, but perhaps not a power cut.
    Normal,
}

/// Settings of a store.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    pub durability: Durability,
    /// How long a write may take, including its wait in the queue, before it counts as failed.
    pub commit_timeout: Duration,
    /// How long a read may take, where the engine reads over a network.
    pub read_timeout: Duration,
    /// Connections for reading, where the engine has a pool of them.
    pub read_connections: u32,
    /// Connections for writing, where several can write at once.
    pub write_connections: u32,
    pub migrate: Migrate,
    /// Whether the process serves turns. An SQLite file is then locked, as it can serve one process only.
    pub serves: bool,
    /// Where migrations run, if the store's own URL is a pooled endpoint that can't run them.
    pub migration_url: Option<StoreUrl>,
}

/// Who brings the schema of a database up to date.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Migrate {
    /// Whoever opens it.
    #[default]
    Auto,
    /// The operator. A schema that is not up to date is refused.
    Manual,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            durability: Durability::Full,
            commit_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(10),
            read_connections: 4,
            write_connections: 2,
            migrate: Migrate::Auto,
            serves: false,
            migration_url: None,
        }
    }
}
