//! Sign-ins of operators that wait for the identity provider.

use async_trait::async_trait;

use crate::sql::{Columns, Database, Kind, Query, Statement, bytes, number, optional_text, text};
use crate::{SecretHash, StoreError, Timestamp};

/// A sign-in as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSignIn {
    /// Of the cookie's secret.
    pub hash: SecretHash,
    pub state: String,
    pub nonce: String,
    pub verifier: String,
    /// The page to show afterwards.
    pub next: Option<String>,
    pub expires_at: Timestamp,
}

/// Sign-ins that have begun.
///
/// # Errors
/// [`load_sign_in`](Self::load_sign_in) fails with a [read error](StoreError#read-errors), the others with a
/// [write error](StoreError#write-errors).
#[async_trait]
pub trait SignIns: Send + Sync {
    /// Adds a sign-in, and removes those that have expired, and the oldest if there are more than `max_rows`.
    async fn add_sign_in(
        &self,
        sign_in: StoredSignIn,
        now: Timestamp,
        max_rows: u32,
    ) -> Result<(), StoreError>;

    /// The sign-in with this hash, unless it has expired.
    async fn load_sign_in(
        &self,
        hash: SecretHash,
        now: Timestamp,
    ) -> Result<Option<StoredSignIn>, StoreError>;

    /// Removes a sign-in. `true` for one of all callers.
    async fn end_sign_in(&self, hash: SecretHash) -> Result<bool, StoreError>;
}

const ADD: &str = "INSERT INTO sign_ins (hash, state, nonce, verifier, next, expires_at) \
     VALUES ($1, $2, $3, $4, $5, $6)";

const FORGET: &str = "DELETE FROM sign_ins WHERE expires_at <= $1 \
     OR expires_at <= (SELECT expires_at FROM sign_ins ORDER BY expires_at DESC LIMIT 1 OFFSET $2)";

const LOAD: &str = "SELECT hash, state, nonce, verifier, next, expires_at FROM sign_ins \
     WHERE hash = $1 AND expires_at > $2";

const END: &str = "DELETE FROM sign_ins WHERE hash = $1";

/// For the tests of both engines.
#[cfg(test)]
pub(crate) const STATEMENTS: [&str; 4] = [ADD, FORGET, LOAD, END];

#[async_trait]
impl<D: Database> SignIns for D {
    async fn add_sign_in(
        &self,
        sign_in: StoredSignIn,
        now: Timestamp,
        max_rows: u32,
    ) -> Result<(), StoreError> {
        let forget = Statement::new(FORGET, vec![number(now.unix_ms()), number(i64::from(max_rows))]);
        let arguments = vec![
            bytes(sign_in.hash.0.to_vec()),
            text(sign_in.state),
            text(sign_in.nonce),
            text(sign_in.verifier),
            optional_text(sign_in.next),
            number(sign_in.expires_at.unix_ms()),
        ];
        self.group().execute(Statement::new(ADD, arguments).then(forget)).await.map(|_| ())
    }

    async fn load_sign_in(
        &self,
        hash: SecretHash,
        now: Timestamp,
    ) -> Result<Option<StoredSignIn>, StoreError> {
        const COLUMNS: [Kind; 6] =
            [Kind::Bytes, Kind::Text, Kind::Text, Kind::Text, Kind::Text, Kind::Number];
        let arguments = vec![bytes(hash.0.to_vec()), number(now.unix_ms())];
        let mut rows = self.query(Query { text: LOAD, arguments, columns: &COLUMNS }).await?;
        rows.pop().map(sign_in).transpose()
    }

    async fn end_sign_in(&self, hash: SecretHash) -> Result<bool, StoreError> {
        self.group().execute(Statement::new(END, vec![bytes(hash.0.to_vec())])).await
    }
}

fn sign_in(mut row: Columns) -> Result<StoredSignIn, StoreError> {
    let corrupt = |_| StoreError::Corrupt("the hash of a sign-in is not 32 bytes long".into());
    Ok(StoredSignIn {
        hash: SecretHash(row.optional_bytes().unwrap_or_default().try_into().map_err(corrupt)?),
        state: row.text()?,
        nonce: row.text()?,
        verifier: row.text()?,
        next: row.optional_text(),
        expires_at: Timestamp::from_unix_ms(row.number()?),
    })
}
