//! Authentication: from the key of a request to its caller.
//!
//! A handler that works on a project takes a [`Caller`]; there is no other way to obtain a project.

use std::net::IpAddr;
use std::sync::Arc;

use antiphon_operations::OperationError;
use axum::extract::FromRequestParts;
use http::request::Parts;
use http::{Extensions, HeaderMap, HeaderName, header};

use super::app_state::AppState;
use super::error::RequestError;
use super::error_reply::ErrorReply;
use crate::body_memory::{Share, Tenant};
use antiphon_access::keys::{Caller, Denied};

/// Headers in which other clients than OpenAI's send their key.
pub const ALTERNATIVE_KEY_HEADERS: [HeaderName; 2] =
    [HeaderName::from_static("x-api-key"), HeaderName::from_static("api-key")];

/// The address at the other end of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

impl FromRequestParts<AppState> for Caller {
    type Rejection = ErrorReply;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ErrorReply> {
        authenticate(state, &parts.headers, &parts.extensions).map_err(|error| {
            let row = error.row();
            state.count_rejected(&row);
            row.into()
        })
    }
}

/// A caller that may send a large body.
pub struct Client {
    pub caller: Caller,
    /// Of the memory for bodies.
    pub share: Arc<Share>,
}

impl FromRequestParts<AppState> for Client {
    type Rejection = ErrorReply;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ErrorReply> {
        let caller = Caller::from_request_parts(parts, state).await?;
        let share = share_of(state, &caller, &parts.extensions);
        Ok(Self { caller, share })
    }
}

/// The caller's share of the memory for bodies.
pub fn share_of(state: &AppState, caller: &Caller, extensions: &Extensions) -> Arc<Share> {
    state.body_limits.memory.share(Tenant::new(caller, client_address(extensions)))
}

/// The caller, by the headers of a request.
pub fn authenticate(
    state: &AppState,
    headers: &HeaderMap,
    extensions: &Extensions,
) -> Result<Caller, RequestError> {
    let address = client_address(extensions);
    let caller = state.keys.authenticate(presented_key(headers), address);
    if caller.as_ref().is_err_and(|denied| *denied == Denied::NoValidKey) {
        tracing::info!(
            client.address = address.map(tracing::field::display),
            "authentication failed: no valid key"
        );
    }
    let caller = caller?;
    if let Some(user_agent) = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()) {
        state.keys.note_client(&caller, user_agent);
    }
    if caller.key.is_none() && !state.lets_everybody_in {
        state.local_only.check(headers)?;
    }
    Ok(caller)
}

/// Counts and logs an attempt without a valid admin token. An error if there were too many from this address.
pub fn count_invalid_admin_token(state: &AppState, address: Option<IpAddr>) -> Result<(), RequestError> {
    if let Err(denied) = state.keys.count_failure(address) {
        let error = RequestError::from(denied);
        state.count_rejected(&error.row());
        return Err(error);
    }
    tracing::info!(
        client.address = address.map(tracing::field::display),
        "authentication failed: no valid admin token"
    );
    state.count_rejected(&OperationError::InvalidAdminToken.row());
    Ok(())
}

/// The peer's address. Behind a proxy it is that of the proxy.
pub fn client_address(extensions: &Extensions) -> Option<IpAddr> {
    extensions.get::<Peer>().map(|peer| peer.0)
}

/// The token in `authorization: Bearer`.
pub fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked("bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

fn presented_key(headers: &HeaderMap) -> Option<&[u8]> {
    let alternative = || ALTERNATIVE_KEY_HEADERS.iter().find_map(|name| headers.get(name));
    bearer(headers).or_else(|| alternative().map(|value| value.as_bytes().trim_ascii()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_accepted_in_three_headers() {
        let key_in = |headers: &[(&'static str, &'static str)]| {
            let headers: HeaderMap = headers
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
                .collect();
            presented_key(&headers).map(|key| String::from_utf8(key.to_vec()).unwrap())
        };
        for headers in [
            &[("authorization", "Bearer k")][..],
            &[("authorization", "bearer   k ")],
            &[("x-api-key", "k")],
            &[("api-key", " k")],
            &[("authorization", "Basic abc"), ("x-api-key", "k")],
            &[("authorization", "Bearer k"), ("x-api-key", "other")],
            &[("x-api-key", "k"), ("api-key", "other")],
        ] {
            assert_eq!(key_in(headers).as_deref(), Some("k"), "{headers:?}");
        }
        for headers in
            [&[][..], &[("authorization", "Basic k")], &[("authorization", "k")], &[("cookie", "k")]]
        {
            assert_eq!(key_in(headers), None, "{headers:?}");
        }
    }
}
