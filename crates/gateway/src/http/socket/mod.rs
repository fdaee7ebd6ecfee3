//! GET `/v1/responses` with an Upgrade: the WebSocket door.
//!
//! The handshake is answered here. The connection then goes on in the task that has served it so far, on the same worker:
//! [`connection`] reads frames, writes events and keeps the time, [`lanes`] says which turn may begin, [`running`] is one
//! turn.

mod clock;
mod connection;
mod ending;
mod lanes;
mod metered;
pub mod metrics;
pub mod rules;
mod running;

use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Version, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto::upgrade::downcast;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use self::connection::Connection;
use super::auth::{OTHER_HEADERS, identify};
use super::doors::Doors;
use super::error::RequestError;
use super::error_reply::ErrorReply;
use super::fallback::wrong_method;
use super::stall::StallGuard;
use antiphon_access::keys::Caller;

const OPENAI_BETA: HeaderName = HeaderName::from_static("openai-beta");

/// Where a request leaves word for its connection that it becomes a socket.
#[derive(Clone, Default)]
pub struct Handover(Arc<Mutex<Option<Agreed>>>);

/// A handshake that has been answered.
pub struct Agreed {
    upgrade: OnUpgrade,
    doors: Doors,
    headers: HeaderMap,
    caller: Caller,
}

pub async fn open(State(doors): State<Doors>, mut request: Request<Body>) -> Response {
    if !is_upgrade(request.headers()) {
        let mut reply = wrong_method(request).await.into_response();
        reply.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        return reply;
    }
    match agree(&doors, &mut request) {
        Ok(accept) => switching(accept),
        Err(error) => {
            let row = error.row();
            doors.count_rejected(&row);
            tracing::info!(
                http.status = row.status.as_u16(),
                error.code = row.error.code.as_deref(),
                "WebSocket handshake rejected"
            );
            ErrorReply::from(row).into_response()
        }
    }
}

/// Holds the handshake against the standard, and leaves word for the connection. Extensions are declined by not naming them.
fn agree(doors: &Doors, request: &mut Request<Body>) -> Result<HeaderValue, RequestError> {
    let caller = identify(doors, request.headers(), request.extensions())?;
    if !doors.sockets.is_enabled {
        return Err(RequestError::SocketsOff);
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
        return Err(RequestError::BadHandshake("asks for another version than 13"));
    }
    if is_foreign(headers) {
        return Err(RequestError::BadHandshake("comes from a page of another origin"));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).ok_or(RequestError::BadHandshake("has no key"))?;
    let accept =
        HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(|_| RequestError::Internal)?;
    let handover = request.extensions().get::<Handover>().cloned();
    let handover = handover.ok_or(RequestError::BadHandshake("needs HTTP/1.1"))?;
    let upgrade = hyper::upgrade::on(&mut *request);
    let headers = of_turns(request.headers());
    handover.leave(Agreed { upgrade, doors: doors.clone(), headers, caller });
    Ok(accept)
}

fn is_upgrade(headers: &HeaderMap) -> bool {
    let names = |name: HeaderName, wanted: &str| {
        let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|value| value.trim().eq_ignore_ascii_case(wanted))
    };
    names(header::CONNECTION, "upgrade") && names(header::UPGRADE, "websocket")
}

/// Whether a page from elsewhere asks: browsers let any page open sockets and read them, unlike replies over HTTP.
fn is_foreign(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return false };
    let authority = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, rest)| rest);
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    match (authority, host) {
        (Some(authority), Some(host)) => !authority.eq_ignore_ascii_case(host),
        _ => true,
    }
}

fn switching(accept: HeaderValue) -> Response {
    let mut reply = Response::new(Body::empty());
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = reply.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    reply
}

/// The headers of the handshake that belong to each of its turns: not those about the socket itself. Copied, as they would
/// keep the whole buffer that the handshake was read into.
fn of_turns(headers: &HeaderMap) -> HeaderMap {
    const OF_THE_SOCKET: [HeaderName; 7] = [
        header::SEC_WEBSOCKET_KEY,
        header::SEC_WEBSOCKET_VERSION,
        header::SEC_WEBSOCKET_EXTENSIONS,
        header::SEC_WEBSOCKET_PROTOCOL,
        header::CONNECTION,
        header::UPGRADE,
        header::AUTHORIZATION,
    ];
    let is_about_sockets = |name: &HeaderName, value: &HeaderValue| {
        OF_THE_SOCKET.contains(name)
            || OTHER_HEADERS.contains(name)
            || (name == OPENAI_BETA && value.as_bytes().starts_with(b"responses_websockets"))
    };
    let mut copied = HeaderMap::new();
    for (name, value) in headers.iter().filter(|(name, value)| !is_about_sockets(name, value)) {
        let name = HeaderName::from_bytes(name.as_str().as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value.as_bytes())) {
            copied.append(name, value);
        }
    }
    copied
}

// === impl Handover ===

impl Handover {
    fn leave(&self, agreed: Agreed) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(agreed);
    }

    /// What a request has left, if one has.
    pub fn take(&self) -> Option<Agreed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

// === impl Agreed ===

impl Agreed {
    /// Serves the socket until it is closed. To be called when HTTP has let go of the connection.
    pub async fn serve(self) {
        let Self { upgrade, doors, headers, caller } = self;
        let Some((stream, early)) = take_over(upgrade).await else { return };
        Connection::open(stream, early, doors, headers, caller).run().await;
    }
}

/// The connection, and what came on it after the handshake.
async fn take_over(upgrade: OnUpgrade) -> Option<(StallGuard<TcpStream>, Bytes)> {
    let parts = downcast::<TokioIo<StallGuard<TcpStream>>>(upgrade.await.ok()?).ok()?;
    // Copied, as it would keep the whole buffer that the handshake was read into.
    Some((parts.io.into_inner(), Bytes::copy_from_slice(&parts.read_buf)))
}
