//! The tokens of the admin API.

use async_trait::async_trait;

use crate::sessions::end_of_token;
use crate::sql::{Columns, Database, Kind, Query, Statement, bytes, number, text};
use crate::{AuditEntry, StoreError, Timestamp};

/// The tokens of the admin API, by name.
///
/// # Errors
/// Methods that load or list fail with a [read error](StoreError#read-errors), the others with a
/// [write error](StoreError#write-errors).
#[async_trait]
pub trait Admin: Send + Sync {
    /// The SHA-256 of the token of this name, if there is one.
    async fn load_admin_token(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError>;

    /// The names of the tokens, and when each was created.
    async fn list_admin_tokens(&self) -> Result<Vec<(String, Timestamp)>, StoreError>;

    /// Adds the first token of this name. `false`, and nothing changes, if there is one.
    async fn add_admin_token(&self, name: &str, hash: Vec<u8>, audit: AuditEntry)
    -> Result<bool, StoreError>;

    /// Replaces the token of this name, or adds the first, and ends the sessions that were opened with it.
    async fn replace_admin_token(
        &self,
        name: &str,
        hash: Vec<u8>,
        audit: AuditEntry,
    ) -> Result<(), StoreError>;
}

const LOAD: &str = "SELECT hash FROM admin_tokens WHERE name = $1";

const LIST: &str = "SELECT name, created_at FROM admin_tokens ORDER BY name";

const ADD: &str =
    "INSERT INTO admin_tokens (name, hash, created_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";

const REPLACE: &str = "INSERT INTO admin_tokens (name, hash, created_at) VALUES ($1, $2, $3) \
     ON CONFLICT (name) DO UPDATE SET hash = excluded.hash, created_at = excluded.created_at";

/// Writes what is there, because that locks the row: a replacement waits for the end of the transaction.
const HOLD: &str = "UPDATE admin_tokens SET hash = $1 WHERE hash = $1 AND name = $2";

/// For the tests of both engines.
#[cfg(test)]
pub(crate) const STATEMENTS: [&str; 5] = [LOAD, LIST, ADD, REPLACE, HOLD];

/// Keeps the token of this name from being replaced while the statements that follow run. They do not run if it has another
/// hash.
pub(crate) fn hold_token(name: &str, hash: Vec<u8>) -> Statement {
    Statement::new(HOLD, vec![bytes(hash), text(name)])
}

fn put(statement: &'static str, name: &str, hash: Vec<u8>, audit: AuditEntry) -> Statement {
    let arguments = vec![text(name), bytes(hash), number(audit.at().unix_ms())];
    Statement::new(statement, arguments).then(audit.insert())
}

#[async_trait]
impl<D: Database> Admin for D {
    async fn load_admin_token(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let query = Query { text: LOAD, arguments: vec![text(name)], columns: &[Kind::Bytes] };
        let mut rows = self.query(query).await?;
        Ok(rows.first_mut().and_then(Columns::optional_bytes))
    }

    async fn list_admin_tokens(&self) -> Result<Vec<(String, Timestamp)>, StoreError> {
        let query = Query { text: LIST, arguments: Vec::new(), columns: &[Kind::Text, Kind::Number] };
        let token = |mut row: Columns| Ok((row.text()?, Timestamp::from_unix_ms(row.number()?)));
        self.query(query).await?.into_iter().map(token).collect()
    }

    async fn add_admin_token(
        &self,
        name: &str,
        hash: Vec<u8>,
        audit: AuditEntry,
    ) -> Result<bool, StoreError> {
        self.group().execute(put(ADD, name, hash, audit)).await
    }

    async fn replace_admin_token(
        &self,
        name: &str,
        hash: Vec<u8>,
        audit: AuditEntry,
    ) -> Result<(), StoreError> {
        let replace = put(REPLACE, name, hash, audit).then(end_of_token(name));
        self.group().execute(replace).await.map(|_| ())
    }
}
