//! Sessions of operators in the dashboard.

use std::net::{IpAddr, Ipv6Addr};

use antiphon_access::admin::{self, Role};
use antiphon_access::audit::Actor;
use antiphon_access::keys::FailedAttempts;
use antiphon_access::sessions::{Session, SessionId, SessionSecret};
use antiphon_runtime::rfc3339;
use antiphon_store::SESSIONS_PER_OPERATOR;
use serde::Serialize;
use utoipa::ToSchema;

use super::{OperationError, Operations, SignInError};

/// How many sessions are listed: several times as many as one operator can have, whose sessions hide no others.
const MAX_SESSIONS: u32 = 10 * SESSIONS_PER_OPERATOR;

#[derive(Debug, Serialize, ToSchema)]
pub struct SessionList {
    /// Newest first, at most 1,000. An operator has at most 100 in a role.
    pub sessions: Vec<SessionView>,
}

/// A session of an operator in the dashboard. Times are RFC 3339 in UTC.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Session)]
pub struct SessionView {
    #[schema(example = "session_0199a1b2c3d47e5f8a9b0c1d2e3f4a5b")]
    pub id: String,
    pub role: Role,
    /// The name of whoever signed in with an identity provider or by a proxy.
    pub operator: Option<String>,
    /// The address that it was opened from.
    pub address: Option<String>,
    pub created_at: String,
    pub expires_at: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct EndedSession {
    pub id: String,
    pub ended: bool,
}

/// How often each address has signed in with a token of each role lately. Every sign-in is kept in the audit log forever.
#[derive(Debug, Default)]
pub(super) struct TokenSignIns {
    admins: FailedAttempts,
    viewers: FailedAttempts,
}

// === impl TokenSignIns ===

impl TokenSignIns {
    fn of(&self, role: Role) -> &FailedAttempts {
        match role {
            Role::Admin => &self.admins,
            Role::Viewer => &self.viewers,
        }
    }
}

// === impl Operations ===

impl Operations {
    /// Opens a session for the holder of an admin token.
    pub async fn open_session(
        &self,
        token: &str,
        address: Option<IpAddr>,
    ) -> Result<(Session, SessionSecret), SignInError> {
        let role = admin::verify(&*self.store, token).await?.ok_or(SignInError::InvalidToken)?;
        let sign_ins = self.process.token_sign_ins.of(role);
        let counted_address = address.unwrap_or(Ipv6Addr::UNSPECIFIED.into());
        let counted = sign_ins.count(counted_address, self.clock.now());
        counted.map_err(SignInError::too_many_from_address)?;
        let token = (role, admin::hash(token));
        let opened = Session::open_with_token(&*self.store, &*self.clock, token, address).await?;
        opened.ok_or(SignInError::InvalidToken)
    }

    /// The session with this secret.
    pub async fn find_session(&self, secret: &str) -> Result<Option<Session>, OperationError> {
        Ok(Session::find(&*self.store, &*self.clock, secret).await?)
    }

    pub async fn list_sessions(&self) -> Result<SessionList, OperationError> {
        let sessions = Session::list(&*self.store, &*self.clock, MAX_SESSIONS).await?;
        Ok(SessionList { sessions: sessions.iter().map(SessionView::new).collect() })
    }

    pub async fn end_session(&self, id: &str, actor: Actor<'_>) -> Result<EndedSession, OperationError> {
        let not_found = || OperationError::SessionNotFound(id.to_owned());
        let session = SessionId::parse(id).ok_or_else(not_found)?;
        if !Session::end(&*self.store, &*self.clock, session, actor).await? {
            return Err(not_found());
        }
        Ok(EndedSession { id: id.to_owned(), ended: true })
    }

    /// Ends the sessions of all operators.
    pub async fn end_all_sessions(&self, actor: Actor<'_>) -> Result<SessionList, OperationError> {
        Session::end_all(&*self.store, &*self.clock, actor).await?;
        self.list_sessions().await
    }
}

// === impl SessionView ===

impl SessionView {
    fn new(session: &Session) -> Self {
        Self {
            id: session.id.to_string(),
            role: session.role,
            operator: session.operator.clone(),
            address: session.address.clone(),
            created_at: rfc3339(session.created_at),
            expires_at: rfc3339(session.expires_at),
        }
    }
}
