//! The handshake: from the upgrade request to an open socket.

use crate::upstream::body::{Cut, ReplyBody};
use crate::upstream::delivery;
use crate::upstream::exchange::{Shared, received};
use crate::upstream::headers::Headers;
use crate::upstream::received::{OpenSocket, Received, lock};
use crate::upstream::refusal::Refusal;
use crate::upstream::request::Endpoint;
use crate::upstream::script::{Close, Instead, Script};
use bytes::Bytes;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// A socket that becomes usable once its 101 has been sent.
pub(in crate::upstream) struct Accepted {
    pub(super) upgrade: OnUpgrade,
    pub(super) open: OpenSocket,
    pub(super) handshake: Option<Received>,
    pub(super) closing: watch::Receiver<Option<Close>>,
    pub(super) script: Script,
}

/// Whether a request asks for a WebSocket.
pub(in crate::upstream) fn asks(request: &Request<Incoming>) -> bool {
    let path = request.uri().path().trim_end_matches('/');
    request.method() == Method::GET
        && has_token(request.headers(), &UPGRADE, "websocket")
        && Endpoint::of(path) == Some(Endpoint::Create)
}

/// Replies to an upgrade request.
pub(in crate::upstream) async fn open(
    shared: &Arc<Shared>,
    mut request: Request<Incoming>,
) -> Result<(Response<ReplyBody>, Option<Accepted>), Cut> {
    let closing = shared.closing.subscribe();
    let upgrade = hyper::upgrade::on(&mut request);
    let (parts, _) = request.into_parts();
    let checked = shared.headers.check_bearer(&parts.headers).and_then(|()| accept(&parts.headers));
    let handshake = shared.options.record.then(|| received(parts, Bytes::new()));
    let number = shared.ledger.record_handshake(handshake.clone());
    let accept = match checked {
        Ok(accept) => accept,
        Err(refusal) => return Ok((refused(shared, number, shared.refuse(&refusal, None)), None)),
    };
    let script = script(shared);
    delivery::before_headers(&script.delivery).await?;
    if let Some(Instead::Body { status, content_type, bytes }) = &script.instead {
        let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = shared.respond(status, content_type, ReplyBody::whole(bytes.clone(), None));
        Headers::overwrite(&mut response, &script.headers);
        return Ok((refused(shared, number, response), None));
    }
    let mut response = switching(&accept, &shared.mint.request_id());
    Headers::overwrite(&mut response, &script.headers);
    let open = shared.ledger.open_socket(number);
    Ok((response, Some(Accepted { upgrade, open, handshake, closing, script })))
}

fn script(shared: &Shared) -> Script {
    let mut scripts = lock(&shared.scripts);
    let queued = scripts.handshakes.pop_front();
    queued.or_else(|| scripts.every_handshake.clone()).unwrap_or_default()
}

fn refused(shared: &Shared, number: u64, response: Response<ReplyBody>) -> Response<ReplyBody> {
    shared.ledger.change_socket(number, |socket| socket.status = Some(response.status().as_u16()));
    response
}

/// The `sec-websocket-accept` for the client's key. No extensions are accepted, so messages are not compressed.
fn accept(headers: &HeaderMap) -> Result<String, Refusal> {
    let version = headers.get(SEC_WEBSOCKET_VERSION).map(HeaderValue::as_bytes);
    match headers.get(SEC_WEBSOCKET_KEY) {
        Some(key) if version == Some(b"13") && has_token(headers, &CONNECTION, "upgrade") => {
            Ok(derive_accept_key(key.as_bytes()))
        }
        _ => Err(Refusal::invalid(String::from("Not a WebSocket handshake of version 13."))),
    }
}

fn switching(accept: &str, request_id: &str) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::new(VecDeque::new(), None, None));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    let texts = [(SEC_WEBSOCKET_ACCEPT, accept), (HeaderName::from_static("x-request-id"), request_id)];
    for (name, text) in texts {
        if let Ok(value) = HeaderValue::from_str(text) {
            headers.insert(name, value);
        }
    }
    response
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|given| given.trim().eq_ignore_ascii_case(token))
}
