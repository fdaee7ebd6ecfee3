//! Adds the name of a database to its errors, to tell source and target apart.

use async_trait::async_trait;

use super::{Bounds, Key, Row, Side, Table};
use crate::sql::{Columns, Query};
use crate::{StoreError, StoreUrl};

pub(super) struct Named {
    side: Box<dyn Side>,
    /// Its URL, without credentials.
    shown: String,
}

// === impl Named ===

impl Named {
    pub(super) fn new(side: Box<dyn Side>, url: &StoreUrl) -> Self {
        Self { side, shown: url.to_string() }
    }

    fn name(&self, error: StoreError) -> StoreError {
        let named = |text| format!("{}: {text}", self.shown);
        match error {
            StoreError::Unavailable(text) => StoreError::Unavailable(named(text)),
            StoreError::Corrupt(text) => StoreError::Corrupt(named(text)),
            error => error,
        }
    }
}

#[async_trait]
impl Side for Named {
    async fn count(&self, table: &'static Table) -> Result<u64, StoreError> {
        self.side.count(table).await.map_err(|error| self.name(error))
    }

    async fn page(
        &self,
        table: &'static Table,
        after: Option<Key>,
        bounds: Bounds,
    ) -> Result<Vec<Row>, StoreError> {
        self.side.page(table, after, bounds).await.map_err(|error| self.name(error))
    }

    async fn insert(&self, table: &'static Table, rows: Vec<Row>) -> Result<(), StoreError> {
        self.side.insert(table, rows).await.map_err(|error| self.name(error))
    }

    async fn select(&self, query: Query) -> Result<Vec<Columns>, StoreError> {
        self.side.select(query).await.map_err(|error| self.name(error))
    }

    async fn verify_pages(&self) -> Result<Vec<String>, StoreError> {
        self.side.verify_pages().await.map_err(|error| self.name(error))
    }

    async fn renew(&self) -> Result<(), StoreError> {
        self.side.renew().await.map_err(|error| self.name(error))
    }

    async fn close(&self) {
        self.side.close().await;
    }
}
