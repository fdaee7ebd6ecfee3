//! Account state and tokens, which replicas share and which survive restarts.

use async_trait::async_trait;
use uuid::Uuid;

use crate::sql::{
    Argument, Columns, Database, Kind, Query, Statement, bytes, id, number, optional_text, text,
};
use crate::{AuditEntry, StoreError, Timestamp};

/// The state of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAccount {
    pub name: String,
    /// Identifies the credential and the upstream. All other state but the pause belongs to them, not to the name.
    pub identity: String,
    pub changed_at: Timestamp,
    /// Until when the account is cooling down, and why.
    pub cooling: Option<(Timestamp, String)>,
    pub disabled_at: Option<Timestamp>,
    pub paused_at: Option<Timestamp>,
}

/// The tokens of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCredential {
    /// Identifies the configured refresh token that these tokens derive from.
    pub origin: String,
    /// Encrypted; `None` before the first refresh.
    pub sealed: Option<Vec<u8>>,
}

/// A lock on the tokens of an account: the process that holds it may refresh them.
#[derive(Debug, Clone, Copy)]
pub struct CredentialLock {
    pub holder: Uuid,
    pub now: Timestamp,
    /// When others may take the lock from a holder that is gone.
    pub until: Timestamp,
}

/// Account state and tokens.
///
/// # Errors
/// Methods that load or list fail with a [read error](StoreError#read-errors), the others with a
/// [write error](StoreError#write-errors).
#[async_trait]
pub trait Accounts: Send + Sync {
    /// Every account with known state, by name.
    async fn list_accounts(&self) -> Result<Vec<StoredAccount>, StoreError>;

    /// Writes the state of an account, except for the pause. What other replicas have learnt of the same identity stays if it is worse:
    /// that the account is disabled, and a limit of its upstream that lasts longer. Only [`resume_account`](Self::resume_account) ends these.
    async fn put_account(&self, account: StoredAccount) -> Result<(), StoreError>;

    /// Pauses an account for an operator.
    async fn pause_account(&self, name: &str, audit: AuditEntry) -> Result<(), StoreError>;

    /// Makes an account ready for an operator: ends its pause and its cooldown, and enables it. `false` if the account has no
    /// state.
    async fn resume_account(&self, name: &str, audit: AuditEntry) -> Result<bool, StoreError>;

    /// The tokens of an account.
    async fn load_credential(&self, account: &str) -> Result<Option<StoredCredential>, StoreError>;

    /// Takes the lock. `false` if another process holds it.
    async fn lock_credential(&self, account: &str, lock: CredentialLock) -> Result<bool, StoreError>;

    /// Replaces the tokens and releases the lock. `false`, and nothing is replaced, if the lock was lost.
    async fn put_credential(
        &self,
        account: &str,
        credential: StoredCredential,
        lock: CredentialLock,
    ) -> Result<bool, StoreError>;

    /// Releases the lock without touching the tokens.
    async fn unlock_credential(&self, account: &str, lock: CredentialLock) -> Result<(), StoreError>;
}

const LIST: &str = "SELECT name, identity, changed_at, cooling_until, cooling_reason, disabled_at, paused_at \
     FROM accounts ORDER BY name";

/// Whether what another replica has learnt from the upstream outlasts what is written now. Cooldowns after failures are replaced, as a
/// probe may end them. So are those that began more than ten seconds later than now: the clock was set back.
macro_rules! outlasts {
    () => {
        "accounts.identity = excluded.identity AND accounts.cooling_reason <> 'failures' \
         AND accounts.cooling_until > coalesce(excluded.cooling_until, 0) \
         AND accounts.cooling_until > excluded.changed_at \
         AND accounts.changed_at <= excluded.changed_at + 10000"
    };
}

const PUT: &str = concat!(
    "INSERT INTO accounts (name, identity, changed_at, cooling_until, cooling_reason, disabled_at) \
     VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (name) DO UPDATE SET identity = excluded.identity, \
     changed_at = excluded.changed_at, cooling_until = CASE WHEN ",
    outlasts!(),
    " THEN accounts.cooling_until ELSE excluded.cooling_until END, cooling_reason = CASE WHEN ",
    outlasts!(),
    " THEN accounts.cooling_reason ELSE excluded.cooling_reason END, \
     disabled_at = CASE WHEN accounts.identity = excluded.identity \
     THEN coalesce(excluded.disabled_at, accounts.disabled_at) ELSE excluded.disabled_at END"
);

const PAUSE: &str = "INSERT INTO accounts (name, identity, changed_at, paused_at) VALUES ($1, '', $2, $2) \
     ON CONFLICT (name) DO UPDATE SET changed_at = excluded.changed_at, paused_at = excluded.paused_at";

const RESUME: &str = "UPDATE accounts SET changed_at = $1, cooling_until = NULL, cooling_reason = NULL, \
     disabled_at = NULL, paused_at = NULL WHERE name = $2";

const LOAD_CREDENTIAL: &str = "SELECT origin, sealed FROM credentials WHERE account = $1";

const LOCK_CREDENTIAL: &str = "INSERT INTO credentials (account, origin, locked_by, locked_until) \
     VALUES ($1, '', $2, $3) ON CONFLICT (account) DO UPDATE SET locked_by = excluded.locked_by, \
     locked_until = excluded.locked_until WHERE credentials.locked_until IS NULL \
     OR credentials.locked_until <= $4 OR credentials.locked_by = $2";

const PUT_CREDENTIAL: &str = "UPDATE credentials SET origin = $1, sealed = $2, refreshed_at = $3, locked_by = NULL, \
     locked_until = NULL WHERE account = $4 AND locked_by = $5";

const UNLOCK_CREDENTIAL: &str =
    "UPDATE credentials SET locked_by = NULL, locked_until = NULL WHERE account = $1 AND locked_by = $2";

/// For the tests of both engines.
#[cfg(test)]
pub(crate) const STATEMENTS: [&str; 8] =
    [LIST, PUT, PAUSE, RESUME, LOAD_CREDENTIAL, LOCK_CREDENTIAL, PUT_CREDENTIAL, UNLOCK_CREDENTIAL];

fn at(time: Option<Timestamp>) -> Argument {
    number(time.map(Timestamp::unix_ms))
}

#[async_trait]
impl<D: Database> Accounts for D {
    /// Every account with known state, by name.
    async fn list_accounts(&self) -> Result<Vec<StoredAccount>, StoreError> {
        const COLUMNS: [Kind; 7] =
            [Kind::Text, Kind::Text, Kind::Number, Kind::Number, Kind::Text, Kind::Number, Kind::Number];
        let rows = self.query(Query { text: LIST, arguments: Vec::new(), columns: &COLUMNS }).await?;
        let account = |mut row: Columns| {
            let time = |number: Option<i64>| number.map(Timestamp::from_unix_ms);
            Ok(StoredAccount {
                name: row.text()?,
                identity: row.text()?,
                changed_at: Timestamp::from_unix_ms(row.number()?),
                cooling: time(row.optional_number()).zip(row.optional_text()),
                disabled_at: time(row.optional_number()),
                paused_at: time(row.optional_number()),
            })
        };
        rows.into_iter().map(account).collect()
    }

    async fn put_account(&self, account: StoredAccount) -> Result<(), StoreError> {
        let (until, reason) = account.cooling.unzip();
        let arguments = vec![
            text(account.name),
            text(account.identity),
            at(Some(account.changed_at)),
            at(until),
            optional_text(reason),
            at(account.disabled_at),
        ];
        self.group().execute(Statement::new(PUT, arguments)).await.map(|_| ())
    }

    async fn pause_account(&self, name: &str, audit: AuditEntry) -> Result<(), StoreError> {
        let arguments = vec![text(name), at(Some(audit.at()))];
        self.group().execute(Statement::new(PAUSE, arguments).then(audit.insert())).await.map(|_| ())
    }

    async fn resume_account(&self, name: &str, audit: AuditEntry) -> Result<bool, StoreError> {
        let arguments = vec![at(Some(audit.at())), text(name)];
        self.group().execute(Statement::new(RESUME, arguments).then(audit.insert())).await
    }

    async fn load_credential(&self, account: &str) -> Result<Option<StoredCredential>, StoreError> {
        const COLUMNS: [Kind; 2] = [Kind::Text, Kind::Bytes];
        let query = Query { text: LOAD_CREDENTIAL, arguments: vec![text(account)], columns: &COLUMNS };
        let credential =
            |mut row: Columns| Ok(StoredCredential { origin: row.text()?, sealed: row.optional_bytes() });
        self.query(query).await?.into_iter().next().map(credential).transpose()
    }

    async fn lock_credential(&self, account: &str, lock: CredentialLock) -> Result<bool, StoreError> {
        let arguments = vec![text(account), id(lock.holder), at(Some(lock.until)), at(Some(lock.now))];
        self.group().execute(Statement::new(LOCK_CREDENTIAL, arguments)).await
    }

    async fn put_credential(
        &self,
        account: &str,
        credential: StoredCredential,
        lock: CredentialLock,
    ) -> Result<bool, StoreError> {
        let sealed = bytes(credential.sealed.unwrap_or_default());
        let arguments =
            vec![text(credential.origin), sealed, at(Some(lock.now)), text(account), id(lock.holder)];
        self.group().execute(Statement::new(PUT_CREDENTIAL, arguments)).await
    }

    async fn unlock_credential(&self, account: &str, lock: CredentialLock) -> Result<(), StoreError> {
        let arguments = vec![text(account), id(lock.holder)];
        self.group().execute(Statement::new(UNLOCK_CREDENTIAL, arguments)).await.map(|_| ())
    }
}
