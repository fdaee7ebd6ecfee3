//! Who calls: the key that a request brings.
//!
//! A door that needs to know whose responses it may touch takes a [`Caller`]; there is no other way to learn a project.

use std::net::IpAddr;

use axum::extract::FromRequestParts;
use http::request::Parts;
use http::{Extensions, HeaderMap, HeaderName, header};

use super::doors::Doors;
use super::error::RequestError;
use super::error_reply::ErrorReply;
use antiphon_access::keys::{Caller, Denied};

/// Where other clients than OpenAI's put their key.
pub const OTHER_HEADERS: [HeaderName; 2] =
    [HeaderName::from_static("x-api-key"), HeaderName::from_static("api-key")];

/// The address at the other end of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

impl FromRequestParts<Doors> for Caller {
    type Rejection = ErrorReply;

    async fn from_request_parts(parts: &mut Parts, doors: &Doors) -> Result<Self, ErrorReply> {
        identify(doors, &parts.headers, &parts.extensions).map_err(|error| {
            let row = error.row();
            doors.count_rejected(&row);
            row.into()
        })
    }
}

/// Who calls, by what the head of a request brings.
pub fn identify(doors: &Doors, headers: &HeaderMap, extensions: &Extensions) -> Result<Caller, RequestError> {
    let address = address(extensions);
    let caller = doors.keys.authenticate(presented(headers), address);
    if caller.as_ref().is_err_and(|denied| *denied == Denied::NoValidKey) {
        tracing::info!(client.address = address.map(tracing::field::display), "no valid key");
    }
    let caller = caller?;
    if let Some(local_only) = doors.local_only.as_ref().filter(|_| caller.key.is_none()) {
        local_only.check(headers)?;
    }
    Ok(caller)
}

/// Where a request comes from; a proxy between counts as the client.
pub fn address(extensions: &Extensions) -> Option<IpAddr> {
    extensions.get::<Peer>().map(|peer| peer.0)
}

/// The token that a request brings as `authorization: Bearer`.
pub fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked("bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

fn presented(headers: &HeaderMap) -> Option<&[u8]> {
    let other = || OTHER_HEADERS.iter().find_map(|name| headers.get(name));
    bearer(headers).or_else(|| other().map(|value| value.as_bytes().trim_ascii()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_comes_in_one_of_three_headers() {
        let of = |headers: &[(&'static str, &'static str)]| {
            let headers: HeaderMap = headers
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
                .collect();
            presented(&headers).map(|key| String::from_utf8(key.to_vec()).unwrap())
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
            assert_eq!(of(headers).as_deref(), Some("k"), "{headers:?}");
        }
        for headers in
            [&[][..], &[("authorization", "Basic k")], &[("authorization", "k")], &[("cookie", "k")]]
        {
            assert_eq!(of(headers), None, "{headers:?}");
        }
    }
}
