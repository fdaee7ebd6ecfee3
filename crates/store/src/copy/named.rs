//! A database whose errors say which of the two it is.

use async_trait::async_trait;

use super::{Bounds, Key, Row, Side, Table};
use crate::{StoreError, StoreUrl};

pub(super) struct Named {
    side: Box<dyn Side>,
    /// What an operator calls it.
    shown: String,
}

// === impl Named ===

impl Named {
    pub(super) fn new(side: Box<dyn Side>, url: &StoreUrl) -> Self {
        Self { side, shown: url.to_string() }
    }

    fn name(&self, error: StoreError) -> StoreError {
        let of_this = |text| format!("{}: {text}", self.shown);
        match error {
            StoreError::Unavailable(text) => StoreError::Unavailable(of_this(text)),
            StoreError::Corrupt(text) => StoreError::Corrupt(of_this(text)),
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

    async fn renew(&self) -> Result<(), StoreError> {
        self.side.renew().await.map_err(|error| self.name(error))
    }

    async fn close(&self) {
        self.side.close().await;
    }
}
