//! The store on a PostgreSQL server.

mod connect;

use std::sync::Arc;

use self::connect::Connector;
use crate::url::PostgresTarget;
use crate::{Store, StoreError};

/// Logs in and says what is wrong, if anything is.
pub(crate) async fn open(target: &PostgresTarget) -> Result<Arc<dyn Store>, StoreError> {
    let opened = Connector::new(target)?.connect().await?;
    drop((opened.client, opened.driver));
    Err(StoreError::Unusable(format!(
        "{target} can be reached, and this build can't store anything there yet"
    )))
}
