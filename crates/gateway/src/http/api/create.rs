//! POST `/v1/responses`, collected or as server-sent events, with `/compact` and `/input_tokens` below it, and the endpoints
//! of other APIs that are passed through.

use antiphon_protocol::request::{CreateRequest, Operation, Wanted, missing};
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, post};
use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::http::app_state::AppState;
use crate::http::auth::Client;
use crate::http::body::{Received, discard_unread};
use crate::http::error::RequestError;
use crate::http::error_reply::ErrorReply;
use crate::http::parsing::parse;
use crate::turn::{Collected, Door, DrainOnDrop, Incoming, Queued};

/// Tells nginx and its like not to hold events back.
const PROXY_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Serves an operation: POST, at whatever path.
pub fn serve(operation: Operation) -> MethodRouter<AppState> {
    post(move |State(state): State<AppState>, client: Client, headers: HeaderMap, body: Body| {
        run(state, client, operation, headers, body)
    })
}

async fn run(
    state: AppState,
    client: Client,
    operation: Operation,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ErrorReply> {
    let incoming = match read_request(&state, client, operation, headers, body).await {
        Ok(incoming) => incoming,
        Err(error) => return Err(state.reject("request", &error).into()),
    };
    if incoming.create.background {
        return Ok(render_queued(state.turns.queue(incoming).await?));
    }
    Ok(match incoming.door {
        Door::Collected => render_collected(state.turns.collect(incoming).await?),
        Door::Sse | Door::WebSocket(_) | Door::Background(_) => {
            render_events(state.turns.stream(incoming).await?)
        }
    })
}

async fn read_request(
    state: &AppState,
    client: Client,
    operation: Operation,
    headers: HeaderMap,
    body: Body,
) -> Result<Incoming, RequestError> {
    if state.memory.refuses_turn() {
        discard_unread(&headers, body).await;
        return Err(RequestError::MemoryShort);
    }
    let Client { caller, share } = client;
    let Received { bytes, memory } = state.body_limits.receive(&headers, body, &share).await?;
    let size_bytes = bytes.len();
    let read = move |wanted: Wanted<'_>| CreateRequest::parse_while(operation, bytes, wanted);
    let (create, memory) = parse(size_bytes, memory, read).await?;
    let create = create?;
    // Only a creation has to name a model, but a key may be limited to some.
    if create.model.is_empty() && !caller.allows("") {
        return Err(missing("model").into());
    }
    let door = if create.stream { Door::Sse } else { Door::Collected };
    Ok(Incoming { create, headers, caller, door, memory })
}

fn render_collected(collected: Collected) -> Response {
    let mut reply = collected.body.into_response();
    let headers = reply.headers_mut();
    headers.extend(collected.headers);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}

fn render_queued(queued: Queued) -> Response {
    match queued.events {
        Some(events) => render_stream(Body::new(events), queued.headers),
        None => render_collected(Collected { headers: queued.headers, body: queued.response }),
    }
}

fn render_events(mut events: DrainOnDrop) -> Response {
    let upstream_headers = events.take_headers();
    render_stream(Body::new(events), upstream_headers)
}

pub(super) fn render_stream(events: Body, reply_headers: HeaderMap) -> Response {
    let mut reply = Response::new(events);
    let headers = reply.headers_mut();
    headers.extend(reply_headers);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(PROXY_BUFFERING, HeaderValue::from_static("no"));
    reply
}
