//! Conversations and their items.

use std::sync::Arc;

use antiphon_access::keys::Caller;
use antiphon_protocol::conversation::{NewConversation, PostedItems, parse_update};
use antiphon_protocol::request::Wanted;
use antiphon_store::StoredConversation;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;

use super::counted::Counted;
use crate::body_memory::{Reservation, Share};
use crate::conversations::{Conversations, PostRequest, ShownItems, item_to_json};
use crate::http::app_state::AppState;
use crate::http::auth::Client;
use crate::http::body::Received;
use crate::http::error::RequestError;
use crate::http::error_reply::ErrorReply;
use crate::http::json_reply::{json_reply, rendered_reply};
use crate::http::parsing::parse;
use crate::http::path_segment::{PathSegment, PathSegments};
use crate::http::query::{ItemsQuery, Shown};

pub async fn create(
    State(state): State<AppState>,
    Client { caller, share }: Client,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ErrorReply> {
    let (request, _memory) = receive(&state, &share, &headers, body, NewConversation::parse).await?;
    let mut counted = Counted::reserve(&state, &caller).await?;
    let created = counted.change(conversations(&state).create(&caller.project, request)).await?;
    Ok(counted.settle(shown(&created)))
}

pub async fn get(
    State(state): State<AppState>,
    caller: Caller,
    PathSegment(name): PathSegment,
) -> Result<Response, ErrorReply> {
    Ok(shown(&load(&state, &caller, &name).await?))
}

pub async fn update(
    State(state): State<AppState>,
    Client { caller, share }: Client,
    PathSegment(name): PathSegment,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ErrorReply> {
    let (metadata, _memory) = receive(&state, &share, &headers, body, |body, _| parse_update(body)).await?;
    let mut counted = Counted::reserve(&state, &caller).await?;
    let updated = counted.change(conversations(&state).update(&caller.project, &name, metadata)).await?;
    Ok(counted.settle(shown(&updated)))
}

pub async fn delete(
    State(state): State<AppState>,
    caller: Caller,
    PathSegment(name): PathSegment,
) -> Result<Response, ErrorReply> {
    let id = conversations(&state).delete(&caller.project, &name).await.map_err(RequestError::from)?;
    Ok(json_reply(format!(r#"{{"id":"{id}","object":"conversation.deleted","deleted":true}}"#)))
}

pub async fn add_items(
    State(state): State<AppState>,
    Client { caller, share }: Client,
    PathSegment(conversation): PathSegment,
    Shown { hidden }: Shown,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ErrorReply> {
    let (items, memory) = receive(&state, &share, &headers, body, PostedItems::parse).await?;
    let mut counted = Counted::reserve(&state, &caller).await?;
    let request = PostRequest { project: caller.project, conversation, items };
    let posted = counted.change(conversations(&state).post(request)).await?;
    Ok(counted.settle(rendered_reply(posted.size_bytes(), memory, move || Ok(posted.to_json(hidden))).await?))
}

pub async fn list_items(
    State(state): State<AppState>,
    Client { caller, share }: Client,
    PathSegment(name): PathSegment,
    ItemsQuery { page, hidden }: ItemsQuery,
) -> Result<Response, ErrorReply> {
    let conversation = load(&state, &caller, &name).await?;
    let list = async || Ok(conversations(&state).list(&conversation, &page).await?);
    let (items, memory) = state.body_limits.load(&share, list, ShownItems::size_bytes).await?;
    Ok(rendered_reply(items.size_bytes(), memory, move || Ok(items.to_json(hidden))).await?)
}

pub async fn get_item(
    State(state): State<AppState>,
    Client { caller, share }: Client,
    PathSegments(name, item): PathSegments,
    Shown { hidden }: Shown,
) -> Result<Response, ErrorReply> {
    let conversation = load(&state, &caller, &name).await?;
    let find = async || Ok(conversations(&state).item(&conversation, &item).await?);
    let (item, memory) = state.body_limits.load(&share, find, |item| item.item.len()).await?;
    Ok(rendered_reply(item.item.len(), memory, move || Ok(item_to_json(&item, hidden))).await?)
}

pub async fn delete_item(
    State(state): State<AppState>,
    caller: Caller,
    PathSegments(name, item): PathSegments,
) -> Result<Response, ErrorReply> {
    let mut counted = Counted::reserve(&state, &caller).await?;
    let deletion = conversations(&state).delete_item(&caller.project, &name, &item);
    let conversation = counted.change(deletion).await?;
    Ok(counted.settle(shown(&conversation)))
}

fn conversations(state: &AppState) -> &Conversations {
    &state.turns.conversations
}

async fn load(state: &AppState, caller: &Caller, name: &str) -> Result<StoredConversation, RequestError> {
    Ok(conversations(state).load(&caller.project, name).await?)
}

/// Reads and parses a body. The reservation holds its memory.
async fn receive<T: Send + 'static>(
    state: &AppState,
    share: &Arc<Share>,
    headers: &HeaderMap,
    body: Body,
    read: fn(&bytes::Bytes, Wanted<'_>) -> Result<T, antiphon_protocol::error::ApiError>,
) -> Result<(T, Reservation), RequestError> {
    let Received { bytes, memory } = state.body_limits.receive(headers, body, share).await?;
    let size_bytes = bytes.len();
    let (parsed, memory) = parse(size_bytes, memory, move |wanted: Wanted<'_>| read(&bytes, wanted)).await?;
    Ok((parsed?, memory))
}

fn shown(conversation: &StoredConversation) -> Response {
    let StoredConversation { id, created_at, metadata, .. } = conversation;
    let head = format!(
        r#"{{"id":"{id}","object":"conversation","created_at":{},"metadata":"#,
        created_at.unix_seconds()
    );
    json_reply([head.as_bytes(), metadata, b"}"].concat())
}
