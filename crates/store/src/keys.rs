//! Keys of clients. Every process keeps all of them in memory, and polls a version number to learn of changes.

use std::fmt;

use antiphon_protocol::id::{KeyId, ProjectId};
use async_trait::async_trait;

use crate::sql::{Columns, Database, Kind, Query, Statement, bytes, id, number, optional_text, text};
use crate::{AuditEntry, StoreError, Timestamp, key_clients};

/// SHA-256 of a secret. The secret itself is never stored.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SecretHash(pub [u8; 32]);

/// A key as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredKey {
    pub id: KeyId,
    pub name: String,
    pub project: ProjectId,
    pub hash: SecretHash,
    /// The secret's first characters.
    pub prefix: String,
    /// A JSON array.
    pub models: String,
    /// A JSON object.
    pub limits: String,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
    pub last_used_at: Option<Timestamp>,
    /// The secret before the latest rotation, and until when it is accepted.
    pub previous: Option<(SecretHash, Timestamp)>,
}

/// A new secret for a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    pub hash: SecretHash,
    pub prefix: String,
    /// The current secret. With another one, the key has been rotated meanwhile.
    pub previous: SecretHash,
    /// Until when that is still accepted.
    pub previous_until: Timestamp,
}

/// Changes to what a key allows. `None` leaves a part as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyTerms {
    /// A JSON array.
    pub models: Option<String>,
    /// A JSON object.
    pub limits: Option<String>,
    pub expiry: Option<Expiry>,
}

/// When a key ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    Never,
    At(Timestamp),
}

/// Keys. A change and its audit entry are one transaction.
///
/// # Errors
/// [`keys_version`](Self::keys_version) and methods that load or list fail with a [read error](StoreError#read-errors), the
/// others with a [write error](StoreError#write-errors).
#[async_trait]
pub trait Keys: Send + Sync {
    /// A number that changes whenever a key is added, changed or removed.
    async fn keys_version(&self) -> Result<i64, StoreError>;

    /// Every key, by name.
    async fn list_keys(&self) -> Result<Vec<StoredKey>, StoreError>;

    /// A page of keys: those whose names come after this one, by name.
    async fn list_keys_after(&self, after: &str, max_rows: u32) -> Result<Vec<StoredKey>, StoreError>;

    /// The key of this name.
    async fn load_key(&self, name: &str) -> Result<Option<StoredKey>, StoreError>;

    /// Adds a key. `false`, and nothing changes, if its name is taken.
    async fn add_key(&self, key: StoredKey, audit: AuditEntry) -> Result<bool, StoreError>;

    /// Gives a key a new secret. `false` if there is no such key, or it is revoked or has been rotated meanwhile.
    async fn rotate_key(&self, key: KeyId, rotation: Rotation, audit: AuditEntry)
    -> Result<bool, StoreError>;

    /// Changes what a key allows. `false` if there is no such key, or it is revoked.
    async fn change_key(&self, key: KeyId, terms: KeyTerms, audit: AuditEntry) -> Result<bool, StoreError>;

    /// Revokes a key. `false` if there is no such key, or it is revoked already.
    async fn revoke_key(&self, key: KeyId, audit: AuditEntry) -> Result<bool, StoreError>;

    /// Deletes a key. `false` if there is no such key.
    async fn delete_key(&self, key: KeyId, audit: AuditEntry) -> Result<bool, StoreError>;

    /// Notes when a key was last used, unless a later use is known.
    async fn note_key_use(&self, key: KeyId, at: Timestamp) -> Result<(), StoreError>;
}

const VERSION: &str = "SELECT number FROM changes WHERE topic = 'keys'";

const CHANGED: &str = "INSERT INTO changes (topic, number) VALUES ('keys', 1) \
     ON CONFLICT (topic) DO UPDATE SET number = changes.number + 1";

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, name, project, hash, prefix, models, limits, created_at, expires_at, revoked_at, ",
            "last_used_at, previous_hash, previous_until FROM keys ",
            $rest
        )
    };
}

const LIST: &str = select!("ORDER BY name");

const PAGE: &str = select!("WHERE name > $1 ORDER BY name LIMIT $2");

const LOAD: &str = select!("WHERE name = $1");

const ADD: &str = "INSERT INTO keys (id, name, project, hash, prefix, models, limits, created_at, expires_at) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING";

const ROTATE: &str = "UPDATE keys SET previous_hash = hash, previous_until = $1, hash = $2, prefix = $3 \
     WHERE id = $4 AND hash = $5 AND revoked_at IS NULL";

const CHANGE: &str = "UPDATE keys SET models = COALESCE($1, models), limits = COALESCE($2, limits), \
     expires_at = CASE WHEN $3 = 1 THEN $4 ELSE expires_at END WHERE id = $5 AND revoked_at IS NULL";

const REVOKE: &str = "UPDATE keys SET revoked_at = $1 WHERE id = $2 AND revoked_at IS NULL";

const DELETE: &str = "DELETE FROM keys WHERE id = $1";

const NOTE_USE: &str = "UPDATE keys SET last_used_at = $1 WHERE id = $2 \
     AND (last_used_at IS NULL OR last_used_at < $1)";

/// For the tests of both engines.
#[cfg(test)]
pub(crate) const STATEMENTS: [&str; 11] =
    [VERSION, CHANGED, LIST, PAGE, LOAD, ADD, ROTATE, CHANGE, REVOKE, DELETE, NOTE_USE];

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash")
    }
}

/// A change to a key, with its audit entry and the next version number.
fn change(text: &'static str, arguments: Vec<crate::sql::Argument>, audit: AuditEntry) -> Statement {
    Statement::new(text, arguments).then(audit.insert()).then(Statement::new(CHANGED, Vec::new()))
}

async fn select<D: Database>(
    database: &D,
    text: &'static str,
    arguments: Vec<crate::sql::Argument>,
) -> Result<Vec<StoredKey>, StoreError> {
    use Kind::{Bytes, Id, Number, Text};
    const COLUMNS: [Kind; 13] =
        [Id, Text, Text, Bytes, Text, Text, Text, Number, Number, Number, Number, Bytes, Number];
    let rows = database.query(Query { text, arguments, columns: &COLUMNS }).await?;
    rows.into_iter().map(key).collect()
}

fn key(mut row: Columns) -> Result<StoredKey, StoreError> {
    let time = |number: Option<i64>| number.map(Timestamp::from_unix_ms);
    Ok(StoredKey {
        id: KeyId::from_uuid(row.id()?),
        name: row.text()?,
        project: ProjectId::new(&row.text()?),
        hash: hash(&row.optional_bytes().unwrap_or_default())?,
        prefix: row.text()?,
        models: row.text()?,
        limits: row.text()?,
        created_at: Timestamp::from_unix_ms(row.number()?),
        expires_at: time(row.optional_number()),
        revoked_at: time(row.optional_number()),
        last_used_at: time(row.optional_number()),
        previous: match (row.optional_bytes(), time(row.optional_number())) {
            (Some(bytes), Some(until)) => Some((hash(&bytes)?, until)),
            _ => None,
        },
    })
}

fn hash(bytes: &[u8]) -> Result<SecretHash, StoreError> {
    let bytes =
        bytes.try_into().map_err(|_| StoreError::Corrupt("the hash of a key is not 32 bytes long".into()))?;
    Ok(SecretHash(bytes))
}

#[async_trait]
impl<D: Database> Keys for D {
    async fn keys_version(&self) -> Result<i64, StoreError> {
        let query = Query { text: VERSION, arguments: Vec::new(), columns: &[Kind::Number] };
        let mut rows = self.query(query).await?;
        Ok(rows.first_mut().and_then(Columns::optional_number).unwrap_or(0))
    }

    async fn list_keys(&self) -> Result<Vec<StoredKey>, StoreError> {
        select(self, LIST, Vec::new()).await
    }

    async fn list_keys_after(&self, after: &str, max_rows: u32) -> Result<Vec<StoredKey>, StoreError> {
        select(self, PAGE, vec![text(after), number(i64::from(max_rows))]).await
    }

    async fn load_key(&self, name: &str) -> Result<Option<StoredKey>, StoreError> {
        Ok(select(self, LOAD, vec![text(name)]).await?.pop())
    }

    async fn add_key(&self, key: StoredKey, audit: AuditEntry) -> Result<bool, StoreError> {
        let arguments = vec![
            id(key.id.uuid()),
            text(key.name),
            text(key.project.as_str()),
            bytes(key.hash.0.to_vec()),
            text(key.prefix),
            text(key.models),
            text(key.limits),
            number(key.created_at.unix_ms()),
            number(key.expires_at.map(Timestamp::unix_ms)),
        ];
        self.group().execute(change(ADD, arguments, audit)).await
    }

    async fn rotate_key(
        &self,
        key: KeyId,
        rotation: Rotation,
        audit: AuditEntry,
    ) -> Result<bool, StoreError> {
        let arguments = vec![
            number(rotation.previous_until.unix_ms()),
            bytes(rotation.hash.0.to_vec()),
            text(rotation.prefix),
            id(key.uuid()),
            bytes(rotation.previous.0.to_vec()),
        ];
        self.group().execute(change(ROTATE, arguments, audit)).await
    }

    async fn change_key(&self, key: KeyId, terms: KeyTerms, audit: AuditEntry) -> Result<bool, StoreError> {
        let expires_at = match terms.expiry {
            Some(Expiry::At(time)) => Some(time.unix_ms()),
            Some(Expiry::Never) | None => None,
        };
        let arguments = vec![
            optional_text(terms.models),
            optional_text(terms.limits),
            number(i64::from(terms.expiry.is_some())),
            number(expires_at),
            id(key.uuid()),
        ];
        self.group().execute(change(CHANGE, arguments, audit)).await
    }

    async fn revoke_key(&self, key: KeyId, audit: AuditEntry) -> Result<bool, StoreError> {
        let arguments = vec![number(audit.at().unix_ms()), id(key.uuid())];
        self.group().execute(change(REVOKE, arguments, audit)).await
    }

    async fn delete_key(&self, key: KeyId, audit: AuditEntry) -> Result<bool, StoreError> {
        let clients = Statement::new(key_clients::DELETE, vec![id(key.uuid())]);
        self.group().execute(change(DELETE, vec![id(key.uuid())], audit).then(clients)).await
    }

    async fn note_key_use(&self, key: KeyId, at: Timestamp) -> Result<(), StoreError> {
        let arguments = vec![number(at.unix_ms()), id(key.uuid())];
        self.group().execute(Statement::new(NOTE_USE, arguments)).await.map(|_| ())
    }
}
