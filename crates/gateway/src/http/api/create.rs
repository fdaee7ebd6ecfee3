//! POST `/v1/responses`: the collected door and the server-sent events door. What lies below it goes through the first.

use antiphon_protocol::request::{CreateRequest, Operation, Wanted};
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, header};

use crate::http::body::Received;
use crate::http::doors::Doors;
use crate::http::error::Refused;
use crate::http::parsing::parse;
use crate::turn::{Collected, Door, DrainOnDrop, Failure, Incoming};
use antiphon_access::keys::Caller;

pub async fn create(
    State(doors): State<Doors>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    serve(doors, caller, Operation::Create, headers, body).await
}

pub async fn compact(
    State(doors): State<Doors>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    serve(doors, caller, Operation::Compact, headers, body).await
}

pub async fn count_input(
    State(doors): State<Doors>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    serve(doors, caller, Operation::CountInput, headers, body).await
}

async fn serve(
    doors: Doors,
    caller: Caller,
    operation: Operation,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let incoming = match read(&doors, caller, operation, headers, body).await {
        Ok(incoming) => incoming,
        Err(failure) => {
            doors.turns.metrics.turn_failed(failure.fault().as_str(), failure.api_error().code.as_deref());
            tracing::info!(
                http.status = failure.status().as_u16(),
                error.code = failure.api_error().code.as_deref(),
                "a request was refused unread"
            );
            return Err(failure.into());
        }
    };
    Ok(match incoming.door {
        Door::Collected => render_collected(doors.turns.collect(incoming).await?),
        Door::Sse | Door::WebSocket(_) => render_events(doors.turns.stream(incoming).await?),
    })
}

async fn read(
    doors: &Doors,
    caller: Caller,
    operation: Operation,
    headers: HeaderMap,
    body: Body,
) -> Result<Incoming, Failure> {
    let Received { bytes, permit } = doors.body_limits.receive(&headers, body).await?;
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

fn render_events(mut events: DrainOnDrop) -> Response {
    let upstream_headers = events.take_headers();
    let mut reply = Response::new(Body::new(events));
    let headers = reply.headers_mut();
    headers.extend(upstream_headers);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    reply
}
