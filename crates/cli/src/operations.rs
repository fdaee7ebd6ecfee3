//! Operations without a running gateway: on the store, with the accounts of the configuration.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use antiphon_access::keys::{Access, Keys};
use antiphon_config::{Config, StoreConfig};
use antiphon_gateway::app;
use antiphon_operations::Operations;
use antiphon_runtime::{Env, Tasks};
use antiphon_store::{Migrate, SqliteTarget, Store, StoreOptions, StoreUrl, SystemClock};
use anyhow::Context;

use super::block_on;

/// Reading every row of a large database takes time.
const LONG_READ_TIMEOUT: Duration = Duration::from_hours(1);

/// Opens the store, runs the work and closes the store.
pub fn with_operations<T>(
    config: &Config,
    opening: impl Future<Output = anyhow::Result<Arc<dyn Store>>>,
    work: impl AsyncFnOnce(&Operations) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    block_on(run(config, opening, work))
}

/// As [`with_operations`], for a command that has a runtime.
pub async fn run<T>(
    config: &Config,
    opening: impl Future<Output = anyhow::Result<Arc<dyn Store>>>,
    work: impl AsyncFnOnce(&Operations) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let accounts = app::accounts(config)?;
    let store = opening.await?;
    let env = Env { clock: Arc::new(SystemClock), tasks: Tasks::default() };
    let keys = Arc::new(Keys::new(Access::KeysRequired, Arc::clone(&env.clock)));
    let operations = app::operations(config, accounts, Arc::clone(&store), keys, &env);
    let done = work(&operations).await;
    // Access tokens that were refreshed meanwhile are stored before the command exits.
    env.tasks.shut_down(config.timeouts.shutdown).await;
    store.close().await;
    done
}

/// Opens the store as a gateway does.
pub async fn open(config: &StoreConfig) -> anyhow::Result<Arc<dyn Store>> {
    Ok(antiphon_store::open(&config.target()?, config.options()?).await?)
}

/// Opens the store, or an empty one if it does not exist yet or has another schema.
pub async fn open_if_exists(config: &StoreConfig) -> anyhow::Result<Arc<dyn Store>> {
    let url = config.target()?;
    let exists = match &url {
        StoreUrl::Sqlite(SqliteTarget::File(path)) => Path::new(path).exists(),
        StoreUrl::Sqlite(SqliteTarget::Memory) => false,
        StoreUrl::Postgres(_) => true,
    };
    if exists && antiphon_store::pending(&url).await?.is_empty() {
        open(config).await
    } else {
        open_empty().await
    }
}

/// Opens an empty store in memory.
pub async fn open_empty() -> anyhow::Result<Arc<dyn Store>> {
    Ok(antiphon_store::open(&"sqlite::memory:".parse()?, StoreOptions::default()).await?)
}

/// Opens the store as a gateway does, unless it is an SQLite file that does not exist.
pub async fn open_existing(config: &StoreConfig) -> anyhow::Result<Arc<dyn Store>> {
    require_database(&config.target()?)?;
    open(config).await
}

/// Whether there is a database, or a server that may have one.
pub fn exists(config: &StoreConfig) -> bool {
    config.target().is_ok_and(|url| require_database(&url).is_ok())
}

/// Only a gateway, and commands that add something, create a database.
fn require_database(url: &StoreUrl) -> anyhow::Result<()> {
    match url {
        StoreUrl::Sqlite(SqliteTarget::File(path)) if !path.exists() => anyhow::bail!(
            "there is no database {url}: correct store.url, or create the database with `antiphon migrate` or by \
             starting a gateway"
        ),
        _ => Ok(()),
    }
}

/// Opens the store to read many rows, without changing anything; safe to use beside a running gateway.
pub async fn open_for_reading(config: &StoreConfig) -> anyhow::Result<Arc<dyn Store>> {
    let url = config.target().context("store.url")?;
    require_database(&url)?;
    let options = StoreOptions {
        migrate: Migrate::Manual,
        read_timeout: LONG_READ_TIMEOUT,
        read_connections: 1,
        write_connections: 1,
        ..config.options().context("store.migration_url")?
    };
    let pending = antiphon_store::pending(&url).await?;
    anyhow::ensure!(pending.is_empty(), "the schema of {url} is not up to date: run `antiphon migrate`");
    Ok(antiphon_store::open(&url, options).await?)
}
