//! POST `/v1/responses`, collected or as server-sent events, with `/compact` and `/input_tokens` below it.

use antiphon_protocol::request::{CreateRequest, Operation, Wanted};
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, header};

use crate::http::app_state::AppState;
use crate::http::body::Received;
use crate::http::error::RequestError;
use crate::http::error_reply::ErrorReply;
use crate::http::parsing::parse;
use crate::turn::{Collected, Door, DrainOnDrop, Incoming, Queued};
use antiphon_access::keys::Caller;

pub async fn create(
    State(state): State<AppState>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ErrorReply> {
    serve(state, caller, Operation::Create, headers, body).await
}

pub async fn compact(
    State(state): State<AppState>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ErrorReply> {
    serve(state, caller, Operation::Compact, headers, body).await
}

pub async fn count_input(
    State(state): State<AppState>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ErrorReply> {
    serve(state, caller, Operation::CountInput, headers, body).await
}

async fn serve(
    state: AppState,
    caller: Caller,
    operation: Operation,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ErrorReply> {
    let incoming = match read_request(&state, caller, operation, headers, body).await {
        Ok(incoming) => incoming,
        Err(error) => {
            let row = error.row();
            state.count_rejected(&row);
            tracing::info!(
                http.status = row.status.as_u16(),
                error.code = row.error.code.as_deref(),
                "request rejected before parsing"
            );
            return Err(row.into());
        }
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
    caller: Caller,
    operation: Operation,
    headers: HeaderMap,
    body: Body,
) -> Result<Incoming, RequestError> {
    let Received { bytes, permit } = state.body_limits.receive(&headers, body).await?;
    let size_bytes = bytes.len();
    let read = move |wanted: Wanted<'_>| CreateRequest::parse_while(operation, bytes, wanted);
    let (create, body_permit) = parse(size_bytes, permit, read).await?;
    let create = create?;
    let door = if create.stream { Door::Sse } else { Door::Collected };
    Ok(Incoming { create, headers, caller, door, body_permit })
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
    reply
}
