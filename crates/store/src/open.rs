//! The one place that chooses an engine, by the scheme of the URL.

use std::sync::Arc;

use crate::{Store, StoreError, StoreOptions, StoreUrl, postgres, sqlite};

/// Opens the store at this URL, and brings its schema up to date.
///
/// # Errors
/// [`StoreError::Unusable`] when an operator has to act first. A PostgreSQL server that can't be reached is no error: the
/// store opens and is unavailable until the server is back.
pub async fn open(url: &StoreUrl, options: StoreOptions) -> Result<Arc<dyn Store>, StoreError> {
    match url {
        StoreUrl::Sqlite(target) => Ok(Arc::new(sqlite::SqliteStore::open(target, options).await?)),
        StoreUrl::Postgres(target) => Ok(Arc::new(postgres::PostgresStore::open(target, options).await?)),
    }
}

/// Brings the schema of a database up to date, and returns the names of the applied migrations.
///
/// # Errors
/// [`StoreError::Unusable`] when an operator has to act first, [`StoreError::Unavailable`] when the server can't be reached.
pub async fn migrate(url: &StoreUrl) -> Result<Vec<String>, StoreError> {
    match url {
        StoreUrl::Sqlite(target) => sqlite::migrate(target).await,
        StoreUrl::Postgres(target) => postgres::migrate(target).await,
    }
}

/// The names of the migrations that the schema of a database lacks.
///
/// # Errors
/// Those of [`migrate`].
pub async fn pending(url: &StoreUrl) -> Result<Vec<String>, StoreError> {
    match url {
        StoreUrl::Sqlite(target) => sqlite::pending(target).await,
        StoreUrl::Postgres(target) => postgres::pending(target).await,
    }
}
