//! Which clients use a key, by the name that they give themselves.

use antiphon_protocol::id::KeyId;
use async_trait::async_trait;

use crate::sql::{Database, Kind, Query, Statement, id, number, text};
use crate::{StoreError, Timestamp};

/// How many clients of a key are kept: those that used it last.
const MAX_CLIENTS: i64 = 20;

/// A client of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyClient {
    pub name: String,
    pub used_at: Timestamp,
}

/// Clients of keys. They go with their key.
#[async_trait]
pub trait KeyClients: Send + Sync {
    /// Notes when a client last used a key, unless a later use is known, or the key is deleted. Of too many clients, those that
    /// used it last stay.
    ///
    /// # Errors
    /// A [write error](StoreError#write-errors).
    async fn note_key_client(&self, key: KeyId, client: KeyClient) -> Result<(), StoreError>;

    /// The clients of a key, the last one to use it first.
    ///
    /// # Errors
    /// A [read error](StoreError#read-errors).
    async fn list_key_clients(&self, key: KeyId) -> Result<Vec<KeyClient>, StoreError>;
}

const NOTE: &str = "INSERT INTO key_clients (key_id, client, used_at) \
     SELECT id, CAST($1 AS text), CAST($2 AS bigint) FROM keys WHERE id = $3 \
     ON CONFLICT (key_id, client) DO UPDATE SET used_at = excluded.used_at WHERE excluded.used_at > key_clients.used_at";

const FORGET: &str = "DELETE FROM key_clients WHERE key_id = $1 AND used_at <= \
     (SELECT used_at FROM key_clients WHERE key_id = $1 ORDER BY used_at DESC LIMIT 1 OFFSET $2)";

const LIST: &str = "SELECT client, used_at FROM key_clients WHERE key_id = $1 ORDER BY used_at DESC, client";

pub(crate) const DELETE: &str = "DELETE FROM key_clients WHERE key_id = $1";

/// For the tests of both engines.
#[cfg(test)]
pub(crate) const STATEMENTS: [&str; 4] = [NOTE, FORGET, LIST, DELETE];

#[async_trait]
impl<D: Database> KeyClients for D {
    async fn note_key_client(&self, key: KeyId, client: KeyClient) -> Result<(), StoreError> {
        let arguments = vec![text(client.name), number(client.used_at.unix_ms()), id(key.uuid())];
        let forget = Statement::new(FORGET, vec![id(key.uuid()), number(MAX_CLIENTS)]);
        self.group().execute(Statement::new(NOTE, arguments).then(forget)).await.map(|_| ())
    }

    async fn list_key_clients(&self, key: KeyId) -> Result<Vec<KeyClient>, StoreError> {
        let columns = &[Kind::Text, Kind::Number];
        let rows = self.query(Query { text: LIST, arguments: vec![id(key.uuid())], columns }).await?;
        let client = |mut row: crate::sql::Columns| {
            Ok(KeyClient { name: row.text()?, used_at: Timestamp::from_unix_ms(row.number()?) })
        };
        rows.into_iter().map(client).collect()
    }
}
