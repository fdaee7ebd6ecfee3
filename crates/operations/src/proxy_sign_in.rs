//! Signing in to the dashboard through an authenticating proxy, which names the operator in a header.

use std::net::IpAddr;

use antiphon_access::admin::Role;
use antiphon_access::sessions::{Identity, Session, SessionSecret};
use antiphon_config::ProxySignInConfig;
use http::HeaderMap;

use super::{Operations, SignInError};

/// Longer names are refused.
const MAX_NAME_BYTES: usize = 256;

/// The operator whom the proxy names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxiedOperator {
    name: String,
    /// `None` for somebody who may not sign in.
    role: Option<Role>,
}

// === impl ProxiedOperator ===

impl ProxiedOperator {
    /// Whether the session is theirs. One without a name was opened with a token, and belongs to whoever has it.
    pub fn owns(&self, session: &Session) -> bool {
        let is_theirs = |operator: &str| operator == self.name && Some(session.role) == self.role;
        session.operator.as_deref().is_none_or(is_theirs)
    }

    fn read(proxy: &ProxySignInConfig, headers: &HeaderMap) -> Result<Option<Self>, SignInError> {
        let Some(name) = single_value(&proxy.header, headers)? else {
            return Ok(None);
        };
        let invalid = |why| Err(SignInError::InvalidHeader { name: proxy.header.clone(), why });
        if name.is_empty() {
            return invalid("it is empty");
        }
        if name.len() > MAX_NAME_BYTES {
            return invalid("it is longer than 256 bytes");
        }
        let role = match &proxy.role_header {
            Some(header) => {
                let values = single_value(header, headers)?.unwrap_or_default();
                proxy.role(&values.split(',').map(str::trim).collect::<Vec<_>>())
            }
            None => proxy.role(&[name]),
        };
        Ok(Some(Self { name: name.to_owned(), role }))
    }
}

/// The value of a header. A second one may be a client's, which the proxy has not removed.
fn single_value<'a>(name: &str, headers: &'a HeaderMap) -> Result<Option<&'a str>, SignInError> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let invalid = |why| SignInError::InvalidHeader { name: name.to_owned(), why };
    if values.next().is_some() {
        return Err(invalid("there are two"));
    }
    let text = str::from_utf8(value.as_bytes()).ok().filter(|text| !text.contains(char::is_control));
    text.map(|text| Some(text.trim())).ok_or_else(|| invalid("it is not printable text"))
}

// === impl Operations ===

impl Operations {
    /// Whom the authenticating proxy names. `None` if the request does not come from it, whatever its headers say.
    pub fn proxied_operator(
        &self,
        headers: &HeaderMap,
        address: Option<IpAddr>,
    ) -> Result<Option<ProxiedOperator>, SignInError> {
        let is_from = |proxy: &&ProxySignInConfig| address.is_some_and(|address| proxy.is_proxy(address));
        let Some(proxy) = self.proxy_sign_in.as_deref().filter(is_from) else {
            return Ok(None);
        };
        let read = ProxiedOperator::read(proxy, headers);
        read.inspect_err(|error| tracing::warn!(%error, "sign-in failed"))
    }

    /// Opens a session for the operator whom the proxy names. It replaces that of somebody else.
    pub async fn open_proxied_session(
        &self,
        ProxiedOperator { name, role }: ProxiedOperator,
        replaced: Option<Session>,
        address: Option<IpAddr>,
    ) -> Result<SessionSecret, SignInError> {
        let Some(role) = role else {
            let error = SignInError::NoRole(name);
            tracing::warn!(%error, "sign-in failed");
            return Err(error);
        };
        let counted = self.process.proxied_sign_ins.count(name.clone(), self.clock.now());
        counted.map_err(|wait| SignInError::TooMany { of: "under this name", wait })?;
        let identity = Identity { subject: name.clone(), name };
        let opened = Session::open(&*self.store, &*self.clock, (role, &identity), address).await;
        let (session, secret) = opened?;
        if let Some(replaced) = replaced {
            Session::end(&*self.store, &*self.clock, replaced.id, session.actor()).await?;
        }
        tracing::info!(session.id = %session.id, operator = identity.name, "operator signed in");
        Ok(secret)
    }
}
