//! Sessions of operators in the dashboard: opened with an admin token, by an identity provider or a proxy, stored as a hash.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use antiphon_runtime::hex;
use antiphon_store::{AuditEntry, Clock, SecretHash, Store, StoreError, StoredSession, Timestamp};
use rand::RngExt;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::audit::{Actor, entry};
use crate::role::Role;
pub use crate::session_id::SessionId;

/// How long a session lasts.
pub const SESSION_LIFETIME: Duration = Duration::from_hours(12);

/// A session that has not expired.
#[derive(Debug, Clone)]
pub struct Session {
    pub id: SessionId,
    pub role: Role,
    /// The name of whoever signed in with an identity provider or by a proxy.
    pub operator: Option<String>,
    /// Where it was opened from.
    pub address: Option<String>,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
}

/// Who somebody is, in the words of an identity provider or a proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Stays the same for as long as the provider knows them.
    pub subject: String,
    /// What other operators know them by.
    pub name: String,
}

/// What proves that a browser belongs to a session.
pub struct SessionSecret(SecretString);

// === impl Session ===

impl Session {
    /// Opens a session with a role, for somebody who has proven to have it.
    pub async fn open(
        store: &dyn Store,
        clock: &dyn Clock,
        (role, identity): (Role, &Identity),
        address: Option<IpAddr>,
    ) -> Result<(Self, SessionSecret), StoreError> {
        let (session, secret, stored) = Self::new(clock, (role, Some(identity)), address);
        let audit = session.opened(clock, Some(&identity.subject));
        store.add_session(stored, audit).await?;
        session.end_surplus(store, clock).await?;
        Ok((session, secret))
    }

    /// Opens a session with a role, for a holder of its admin token, which has this hash. `None` if the token is no longer valid.
    pub async fn open_with_token(
        store: &dyn Store,
        clock: &dyn Clock,
        (role, token): (Role, Vec<u8>),
        address: Option<IpAddr>,
    ) -> Result<Option<(Self, SessionSecret)>, StoreError> {
        let (session, secret, stored) = Self::new(clock, (role, None), address);
        let audit = session.opened(clock, None);
        if !store.add_token_session(stored, token, audit).await? {
            return Ok(None);
        }
        session.end_surplus(store, clock).await?;
        Ok(Some((session, secret)))
    }

    fn new(
        clock: &dyn Clock,
        (role, identity): (Role, Option<&Identity>),
        address: Option<IpAddr>,
    ) -> (Self, SessionSecret, StoredSession) {
        let now = clock.now();
        let (random, secret): ([u8; 10], [u8; 32]) = (rand::rng().random(), rand::rng().random());
        let id = uuid::Builder::from_unix_timestamp_millis(now.unix_ms().unsigned_abs(), &random).into_uuid();
        let session = Self {
            id: SessionId(id),
            role,
            operator: identity.map(|identity| identity.name.clone()),
            address: address.map(|address| address.to_canonical().to_string()),
            created_at: now,
            expires_at: now.plus(SESSION_LIFETIME),
        };
        let secret = SessionSecret(hex::encode(secret).into());
        let stored = StoredSession {
            id,
            hash: hash(secret.expose()),
            role: role.as_str().to_owned(),
            operator: session.operator.clone(),
            address: session.address.clone(),
            created_at: session.created_at,
            expires_at: session.expires_at,
        };
        (session, secret, stored)
    }

    /// Ends the oldest sessions of its operator, if they are too many now.
    async fn end_surplus(&self, store: &dyn Store, clock: &dyn Clock) -> Result<(), StoreError> {
        let surplus = store.list_surplus_sessions(self.role.as_str(), self.operator.as_deref()).await?;
        for id in surplus.into_iter().map(SessionId) {
            let audit = entry(clock, self.actor(), "session.ended", &id.to_string());
            store.end_session(id.0, audit.detail(&json!({ "reason": "too_many_sessions" }))).await?;
        }
        Ok(())
    }

    /// The audit entry of its beginning.
    fn opened(&self, clock: &dyn Clock, subject: Option<&str>) -> AuditEntry {
        let detail = json!({ "role": self.role.as_str(), "address": self.address, "subject": subject });
        entry(clock, self.actor(), "session.opened", &self.id.to_string()).detail(&detail)
    }

    /// The session with this secret.
    pub async fn find(
        store: &dyn Store,
        clock: &dyn Clock,
        secret: &str,
    ) -> Result<Option<Self>, StoreError> {
        let found = store.load_session(hash(secret), clock.now()).await?;
        Ok(found.and_then(Self::from_stored))
    }

    /// The newest sessions, newest first.
    pub async fn list(store: &dyn Store, clock: &dyn Clock, max_rows: u32) -> Result<Vec<Self>, StoreError> {
        let stored = store.list_sessions(clock.now(), max_rows).await?;
        Ok(stored.into_iter().filter_map(Self::from_stored).collect())
    }

    /// Ends a session. `false` if there is none with this id.
    pub async fn end(
        store: &dyn Store,
        clock: &dyn Clock,
        id: SessionId,
        actor: Actor<'_>,
    ) -> Result<bool, StoreError> {
        store.end_session(id.0, entry(clock, actor, "session.ended", &id.to_string())).await
    }

    /// Ends all sessions of all operators.
    pub async fn end_all(store: &dyn Store, clock: &dyn Clock, actor: Actor<'_>) -> Result<(), StoreError> {
        store.end_sessions(entry(clock, actor, "session.all_ended", "sessions")).await.map(|_| ())
    }

    /// Whoever changes something in this session.
    pub fn actor(&self) -> Actor<'_> {
        Actor::Session { id: self.id, operator: self.operator.as_deref() }
    }

    /// `None` for a role that this build does not know.
    fn from_stored(stored: StoredSession) -> Option<Self> {
        Some(Self {
            id: SessionId(stored.id),
            role: Role::from_name(&stored.role)?,
            operator: stored.operator,
            address: stored.address,
            created_at: stored.created_at,
            expires_at: stored.expires_at,
        })
    }
}

fn hash(secret: &str) -> SecretHash {
    SecretHash(Sha256::digest(secret).into())
}

// === impl SessionSecret ===

impl SessionSecret {
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for SessionSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionSecret")
    }
}
