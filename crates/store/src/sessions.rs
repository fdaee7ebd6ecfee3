//! Sessions of operators in the dashboard.

use async_trait::async_trait;
use uuid::Uuid;

use crate::admin::hold_token;
use crate::sql::{Columns, Database, Kind, Query, Statement, bytes, id, number, optional_text, text};
use crate::{AuditEntry, SecretHash, StoreError, Timestamp};

/// A session as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSession {
    pub id: Uuid,
    /// Of the cookie's secret.
    pub hash: SecretHash,
    /// The name of the admin token of the same role.
    pub role: String,
    /// Who signed in with an identity provider. `None` if the token was used.
    pub operator: Option<String>,
    /// Where it was opened from.
    pub address: Option<String>,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
}

/// Sessions. A change and its audit entry are one transaction.
///
/// # Errors
/// Methods that load or list fail with a [read error](StoreError#read-errors), the others with a
/// [write error](StoreError#write-errors).
#[async_trait]
pub trait Sessions: Send + Sync {
    /// Adds a session, and removes those that have expired by then.
    async fn add_session(&self, session: StoredSession, audit: AuditEntry) -> Result<(), StoreError>;

    /// Adds a session that was opened with the admin token of this hash. `false`, and nothing changes, if its role has another
    /// token by now.
    async fn add_token_session(
        &self,
        session: StoredSession,
        token: Vec<u8>,
        audit: AuditEntry,
    ) -> Result<bool, StoreError>;

    /// The session with this hash, unless it has expired.
    async fn load_session(
        &self,
        hash: SecretHash,
        now: Timestamp,
    ) -> Result<Option<StoredSession>, StoreError>;

    /// The newest sessions that have not expired, newest first.
    async fn list_sessions(&self, now: Timestamp, max_rows: u32) -> Result<Vec<StoredSession>, StoreError>;

    /// The sessions of an operator in a role beyond the newest [`SESSIONS_PER_OPERATOR`], as many again at most. All who use a
    /// token count as one operator, without a name.
    async fn list_surplus_sessions(
        &self,
        role: &str,
        operator: Option<&str>,
    ) -> Result<Vec<Uuid>, StoreError>;

    /// Ends a session. `false` if there is none with this id.
    async fn end_session(&self, session: Uuid, audit: AuditEntry) -> Result<bool, StoreError>;

    /// Ends all sessions. `false` if there are none.
    async fn end_sessions(&self, audit: AuditEntry) -> Result<bool, StoreError>;
}

/// More than one operator needs. Whoever signs in again and again ends their own sessions and no others.
pub const SESSIONS_PER_OPERATOR: u32 = 100;

const ADD: &str = "INSERT INTO sessions (id, hash, role, operator, address, created_at, expires_at) \
     VALUES ($1, $2, $3, $4, $5, $6, $7)";

const FORGET_EXPIRED: &str = "DELETE FROM sessions WHERE expires_at <= $1";

const LIST_SURPLUS: &str = "SELECT id FROM sessions WHERE role = $1 AND operator IS NOT DISTINCT FROM $2 \
     ORDER BY created_at DESC, id DESC LIMIT $3 OFFSET $3";

const LOAD: &str = "SELECT id, hash, role, operator, address, created_at, expires_at FROM sessions \
     WHERE hash = $1 AND expires_at > $2";

const LIST: &str = "SELECT id, hash, role, operator, address, created_at, expires_at FROM sessions \
     WHERE expires_at > $1 ORDER BY created_at DESC, id DESC LIMIT $2";

const END: &str = "DELETE FROM sessions WHERE id = $1";

const END_ALL: &str = "DELETE FROM sessions";

const END_OF_TOKEN: &str = "DELETE FROM sessions WHERE role = $1 AND operator IS NULL";

/// For the tests of both engines.
#[cfg(test)]
pub(crate) const STATEMENTS: [&str; 8] =
    [ADD, FORGET_EXPIRED, LIST_SURPLUS, LOAD, LIST, END, END_ALL, END_OF_TOKEN];

/// Ends the sessions that were opened with the admin token of this name.
pub(crate) fn end_of_token(role: &str) -> Statement {
    Statement::new(END_OF_TOKEN, vec![text(role)])
}

/// Adds a session, and removes expired ones.
fn add(session: StoredSession, audit: AuditEntry) -> Statement {
    let forget_expired = Statement::new(FORGET_EXPIRED, vec![number(session.created_at.unix_ms())]);
    let arguments = vec![
        id(session.id),
        bytes(session.hash.0.to_vec()),
        text(session.role),
        optional_text(session.operator),
        optional_text(session.address),
        number(session.created_at.unix_ms()),
        number(session.expires_at.unix_ms()),
    ];
    Statement::new(ADD, arguments).then(audit.insert()).then(forget_expired)
}

async fn select<D: Database>(
    database: &D,
    text: &'static str,
    arguments: Vec<crate::sql::Argument>,
) -> Result<Vec<StoredSession>, StoreError> {
    use Kind::{Bytes, Id, Number, Text};
    let columns = &[Id, Bytes, Text, Text, Text, Number, Number];
    let rows = database.query(Query { text, arguments, columns }).await?;
    rows.into_iter().map(session).collect()
}

fn session(mut row: Columns) -> Result<StoredSession, StoreError> {
    let corrupt = |_| StoreError::Corrupt("the hash of a session is not 32 bytes long".into());
    Ok(StoredSession {
        id: row.id()?,
        hash: SecretHash(row.optional_bytes().unwrap_or_default().try_into().map_err(corrupt)?),
        role: row.text()?,
        operator: row.optional_text(),
        address: row.optional_text(),
        created_at: Timestamp::from_unix_ms(row.number()?),
        expires_at: Timestamp::from_unix_ms(row.number()?),
    })
}

#[async_trait]
impl<D: Database> Sessions for D {
    async fn add_session(&self, session: StoredSession, audit: AuditEntry) -> Result<(), StoreError> {
        self.group().execute(add(session, audit)).await.map(|_| ())
    }

    async fn add_token_session(
        &self,
        session: StoredSession,
        token: Vec<u8>,
        audit: AuditEntry,
    ) -> Result<bool, StoreError> {
        self.group().execute(hold_token(&session.role, token).then(add(session, audit))).await
    }

    async fn load_session(
        &self,
        hash: SecretHash,
        now: Timestamp,
    ) -> Result<Option<StoredSession>, StoreError> {
        let arguments = vec![bytes(hash.0.to_vec()), number(now.unix_ms())];
        Ok(select(self, LOAD, arguments).await?.pop())
    }

    async fn list_sessions(&self, now: Timestamp, max_rows: u32) -> Result<Vec<StoredSession>, StoreError> {
        select(self, LIST, vec![number(now.unix_ms()), number(i64::from(max_rows))]).await
    }

    async fn list_surplus_sessions(
        &self,
        role: &str,
        operator: Option<&str>,
    ) -> Result<Vec<Uuid>, StoreError> {
        let operator = optional_text(operator.map(str::to_owned));
        let arguments = vec![text(role), operator, number(i64::from(SESSIONS_PER_OPERATOR))];
        let rows = self.query(Query { text: LIST_SURPLUS, arguments, columns: &[Kind::Id] }).await?;
        rows.into_iter().map(|mut row| row.id()).collect()
    }

    async fn end_session(&self, session: Uuid, audit: AuditEntry) -> Result<bool, StoreError> {
        self.group().execute(Statement::new(END, vec![id(session)]).then(audit.insert())).await
    }

    async fn end_sessions(&self, audit: AuditEntry) -> Result<bool, StoreError> {
        self.group().execute(Statement::new(END_ALL, Vec::new()).then(audit.insert())).await
    }
}
