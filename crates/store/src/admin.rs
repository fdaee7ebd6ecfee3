//! The token of the admin API.

use async_trait::async_trait;

use crate::sql::{Columns, Database, Kind, Query, Statement, bytes, number, text};
use crate::{AuditEntry, StoreError};

/// The only row's.
const NAME: &str = "admin";

/// The token of the admin API.
///
/// # Errors
/// Methods that load or list fail with a [read error](StoreError#read-errors), the others with a
/// [write error](StoreError#write-errors).
#[async_trait]
pub trait Admin: Send + Sync {
    /// The SHA-256 of the token, if there is one.
    async fn load_admin_token(&self) -> Result<Option<Vec<u8>>, StoreError>;

    /// Adds the first token. `false`, and nothing changes, if there is one.
    async fn add_admin_token(&self, hash: Vec<u8>, audit: AuditEntry) -> Result<bool, StoreError>;

    /// Replaces the token, or adds the first.
    async fn replace_admin_token(&self, hash: Vec<u8>, audit: AuditEntry) -> Result<(), StoreError>;
}

const LOAD: &str = "SELECT hash FROM admin_tokens WHERE name = $1";

const ADD: &str =
    "INSERT INTO admin_tokens (name, hash, created_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";

const REPLACE: &str = "INSERT INTO admin_tokens (name, hash, created_at) VALUES ($1, $2, $3) \
     ON CONFLICT (name) DO UPDATE SET hash = excluded.hash, created_at = excluded.created_at";

/// For the tests of both engines.
#[cfg(test)]
pub(crate) const STATEMENTS: [&str; 3] = [LOAD, ADD, REPLACE];

fn put(statement: &'static str, hash: Vec<u8>, audit: &AuditEntry) -> Statement {
    Statement::new(statement, vec![text(NAME), bytes(hash), number(audit.at().unix_ms())])
}

#[async_trait]
impl<D: Database> Admin for D {
    async fn load_admin_token(&self) -> Result<Option<Vec<u8>>, StoreError> {
        let query = Query { text: LOAD, arguments: vec![text(NAME)], columns: &[Kind::Bytes] };
        let mut rows = self.query(query).await?;
        Ok(rows.first_mut().and_then(Columns::optional_bytes))
    }

    async fn add_admin_token(&self, hash: Vec<u8>, audit: AuditEntry) -> Result<bool, StoreError> {
        self.group().execute(put(ADD, hash, &audit).then(audit.insert())).await
    }

    async fn replace_admin_token(&self, hash: Vec<u8>, audit: AuditEntry) -> Result<(), StoreError> {
        self.group().execute(put(REPLACE, hash, &audit).then(audit.insert())).await.map(|_| ())
    }
}
