//! GET `/v1/responses` with an Upgrade: the WebSocket door.
//!
//! This file answers the handshake. The connection stays in its task, on its worker: [`connection`] reads frames and writes
//! events, [`lanes`] decides which turn may begin, [`turn`] is one running turn, [`timers`] and [`close`] are when and how
//! a connection ends.

mod close;
mod connection;
mod lanes;
mod metered;
pub mod metrics;
pub mod settings;
mod timers;
mod turn;

use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Version, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto::upgrade::downcast;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use self::connection::Connection;
use super::app_state::AppState;
use super::auth::{ALTERNATIVE_KEY_HEADERS, authenticate, share_of};
use super::error::RequestError;
use super::error_reply::ErrorReply;
use super::fallback::method_not_allowed;
use super::stall::ClientStream;
use crate::body_memory::Share;
use antiphon_access::keys::Caller;
use antiphon_upstream::transport::headers::remove_named_by_connection;

const OPENAI_BETA: HeaderName = HeaderName::from_static("openai-beta");

/// Where the handler of a handshake leaves the upgrade for the task of the connection.
#[derive(Clone, Default)]
pub struct UpgradeSlot(Arc<Mutex<Option<AcceptedUpgrade>>>);

/// An accepted handshake, whose connection is to be upgraded.
pub struct AcceptedUpgrade {
    upgrade: OnUpgrade,
    state: AppState,
    headers: HeaderMap,
    caller: Caller,
    /// Of the memory for messages.
    share: Arc<Share>,
}

pub async fn open(State(state): State<AppState>, mut request: Request<Body>) -> Response {
    if !is_upgrade(request.headers()) {
        let mut reply = method_not_allowed(request).await.into_response();
        reply.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        return reply;
    }
    match accept_handshake(&state, &mut request) {
        Ok(accept) => switching_protocols(accept),
        Err(error) => {
            let row = error.row();
            state.count_rejected(&row);
            tracing::info!(
                http.status = row.status.as_u16(),
                error.code = row.error.code.as_deref(),
                "WebSocket handshake rejected"
            );
            ErrorReply::from(row).into_response()
        }
    }
}

/// Checks the handshake and leaves the upgrade in the connection's slot. Extensions are declined by not naming them.
fn accept_handshake(state: &AppState, request: &mut Request<Body>) -> Result<HeaderValue, RequestError> {
    let caller = authenticate(state, request.headers(), request.extensions())?;
    if !state.sockets.is_enabled {
        return Err(RequestError::SocketsDisabled);
    }
    if request.version() != Version::HTTP_11 {
        return Err(RequestError::BadHandshake("needs HTTP/1.1"));
    }
    let headers = request.headers();
    let has_length = headers.get(header::CONTENT_LENGTH).is_some_and(|length| length != "0");
    if has_length || headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(RequestError::BadHandshake("has a body"));
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(RequestError::BadHandshake("must use version 13"));
    }
    if is_cross_origin(headers) {
        return Err(RequestError::BadHandshake("comes from a different origin"));
    }
    let key = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .ok_or(RequestError::BadHandshake("has no Sec-WebSocket-Key"))?;
    let accept =
        HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(|_| RequestError::Internal)?;
    let upgrade_slot = request.extensions().get::<UpgradeSlot>().cloned();
    let upgrade_slot = upgrade_slot.ok_or(RequestError::BadHandshake("requires HTTP/1.1"))?;
    let upgrade = hyper::upgrade::on(&mut *request);
    let headers = turn_headers(request.headers());
    let share = share_of(state, &caller, request.extensions());
    upgrade_slot.put(AcceptedUpgrade { upgrade, state: state.clone(), headers, caller, share });
    Ok(accept)
}

fn is_upgrade(headers: &HeaderMap) -> bool {
    let names = |name: HeaderName, wanted: &str| {
        let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|value| value.trim().eq_ignore_ascii_case(wanted))
    };
    names(header::CONNECTION, "upgrade") && names(header::UPGRADE, "websocket")
}

/// Whether a page of another origin asks. Browsers let any page open WebSockets and read them, unlike replies over HTTP.
fn is_cross_origin(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return false };
    let authority = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, rest)| rest);
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    match (authority, host) {
        (Some(authority), Some(host)) => !authority.eq_ignore_ascii_case(host),
        _ => true,
    }
}

fn switching_protocols(accept: HeaderValue) -> Response {
    let mut reply = Response::new(Body::empty());
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = reply.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    reply
}

/// The headers of the handshake without those about the socket itself: they apply to every turn. Copied, as they would keep
/// the whole buffer of the handshake in memory.
fn turn_headers(headers: &HeaderMap) -> HeaderMap {
    const HANDSHAKE_HEADERS: [HeaderName; 7] = [
        header::SEC_WEBSOCKET_KEY,
        header::SEC_WEBSOCKET_VERSION,
        header::SEC_WEBSOCKET_EXTENSIONS,
        header::SEC_WEBSOCKET_PROTOCOL,
        header::CONNECTION,
        header::UPGRADE,
        header::AUTHORIZATION,
    ];
    let is_about_sockets = |name: &HeaderName, value: &HeaderValue| {
        HANDSHAKE_HEADERS.contains(name)
            || ALTERNATIVE_KEY_HEADERS.contains(name)
            || (name == OPENAI_BETA && value.as_bytes().starts_with(b"responses_websockets"))
    };
    let mut copied = HeaderMap::new();
    for (name, value) in headers.iter().filter(|(name, value)| !is_about_sockets(name, value)) {
        let name = HeaderName::from_bytes(name.as_str().as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value.as_bytes())) {
            copied.append(name, value);
        }
    }
    remove_named_by_connection(&mut copied, headers);
    copied
}

// === impl UpgradeSlot ===

impl UpgradeSlot {
    fn put(&self, accepted: AcceptedUpgrade) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(accepted);
    }

    /// Takes the upgrade, if a request has left one.
    pub fn take(&self) -> Option<AcceptedUpgrade> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

// === impl AcceptedUpgrade ===

impl AcceptedUpgrade {
    /// Serves the WebSocket until it is closed. To be called after HTTP has released the connection.
    pub async fn serve(self) {
        let Self { upgrade, state, headers, caller, share } = self;
        let Some((stream, early)) = take_upgraded_stream(upgrade).await else { return };
        Connection::open(stream, early, state, headers, caller, &share).run().await;
    }
}

/// The connection, and the bytes that arrived right after the handshake.
async fn take_upgraded_stream(upgrade: OnUpgrade) -> Option<(ClientStream, Bytes)> {
    let parts = downcast::<TokioIo<ClientStream>>(upgrade.await.ok()?).ok()?;
    // Copied, as it would keep the whole buffer of the handshake in memory.
    Some((parts.io.into_inner(), Bytes::copy_from_slice(&parts.read_buf)))
}
