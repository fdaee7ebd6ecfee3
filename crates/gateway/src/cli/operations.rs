//! Operators' work without a gateway that serves: over the store, and accounts from the configuration.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use antiphon_access::keys::{Access, Keys};
use antiphon_runtime::{Env, Tasks};
use antiphon_store::{Migrate, SqliteTarget, Store, StoreOptions, StoreUrl, SystemClock};
use anyhow::Context;

use super::block_on;
use crate::app;
use crate::config::{Config, StoreConfig};
use crate::operations::Operations;

/// Looking at every row of a large database takes its time.
const READ_TIMEOUT: Duration = Duration::from_hours(1);

/// Does the work with a store that is being opened, and closes it.
pub fn with_operations<T>(
    config: &Config,
    opening: impl Future<Output = anyhow::Result<Arc<dyn Store>>>,
    work: impl AsyncFnOnce(&Operations) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let accounts = app::accounts(config)?;
    block_on(async {
        let store = opening.await?;
        let env = Env { clock: Arc::new(SystemClock), tasks: Tasks::default() };
        let keys = Arc::new(Keys::new(Access::KeysRequired, Arc::clone(&env.clock)));
        let operations = app::operations(config, accounts, Arc::clone(&store), keys, &env);
        let done = work(&operations).await;
        // Tokens of accounts that were refreshed for this are saved before it ends.
        env.tasks.shut_down(config.timeouts.shutdown).await;
        store.close().await;
        done
    })
}

/// The store as a gateway opens it.
pub async fn open(config: &StoreConfig) -> anyhow::Result<Arc<dyn Store>> {
    Ok(antiphon_store::open(&config.target()?, config.options()?).await?)
}

/// The store, or an empty one if it is not there yet, or is of another build.
pub async fn open_if_there(config: &StoreConfig) -> anyhow::Result<Arc<dyn Store>> {
    let url = config.target()?;
    let is_there = match &url {
        StoreUrl::Sqlite(SqliteTarget::File(path)) => Path::new(path).exists(),
        StoreUrl::Sqlite(SqliteTarget::Memory) => false,
        StoreUrl::Postgres(_) => true,
    };
    if is_there && antiphon_store::pending(&url).await?.is_empty() {
        open(config).await
    } else {
        open_empty().await
    }
}

/// A store that keeps nothing.
pub async fn open_empty() -> anyhow::Result<Arc<dyn Store>> {
    Ok(antiphon_store::open(&"sqlite::memory:".parse()?, StoreOptions::default()).await?)
}

/// The store for a look at many rows; the gateway may run meanwhile. Changes nothing in it.
pub async fn open_to_read(config: &StoreConfig) -> anyhow::Result<Arc<dyn Store>> {
    let url = config.target().context("store.url")?;
    let options = StoreOptions {
        migrate: Migrate::Manual,
        read_timeout: READ_TIMEOUT,
        read_connections: 1,
        write_connections: 1,
        ..config.options().context("store.migration_url")?
    };
    let pending = antiphon_store::pending(&url).await?;
    anyhow::ensure!(pending.is_empty(), "{url} is no up-to-date store: `antiphon migrate` makes it one");
    Ok(antiphon_store::open(&url, options).await?)
}
