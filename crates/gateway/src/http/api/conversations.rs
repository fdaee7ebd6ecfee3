//! Conversations and their items.

use antiphon_access::keys::Caller;
use antiphon_protocol::conversation::{NewConversation, PostedItems, parse_update};
use antiphon_protocol::request::Wanted;
use antiphon_store::StoredConversation;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, header};
use tokio::sync::OwnedSemaphorePermit;

use crate::conversations::{Conversations, ItemQuery, PostRequest, item_to_json};
use crate::http::app_state::AppState;
use crate::http::body::Received;
use crate::http::error::RequestError;
use crate::http::error_reply::ErrorReply;
use crate::http::parsing::parse;
use crate::http::path_segment::{PathSegment, PathSegments};
use crate::http::query::{parse_item_limit, parse_order, query_pairs};

const DEFAULT_LIMIT: u32 = 20;
const ENCRYPTED_CONTENT: &str = "reasoning.encrypted_content";

pub async fn create(
    State(state): State<AppState>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ErrorReply> {
    let (request, _permit) = receive(&state, &headers, body, NewConversation::parse).await?;
    Ok(shown(&conversations(&state).create(&caller.project, request).await.map_err(RequestError::from)?))
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
    caller: Caller,
    PathSegment(name): PathSegment,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ErrorReply> {
    let (metadata, _permit) = receive(&state, &headers, body, |body, _| parse_update(body)).await?;
    let updated = conversations(&state).update(&caller.project, &name, metadata).await;
    Ok(shown(&updated.map_err(RequestError::from)?))
}

pub async fn delete(
    State(state): State<AppState>,
    caller: Caller,
    PathSegment(name): PathSegment,
) -> Result<Response, ErrorReply> {
    let id = conversations(&state).delete(&caller.project, &name).await.map_err(RequestError::from)?;
    Ok(json_reply(format!(r#"{{"id":"{id}","object":"conversation.deleted","deleted":true}}"#).into()))
}

pub async fn add_items(
    State(state): State<AppState>,
    caller: Caller,
    PathSegment(conversation): PathSegment,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ErrorReply> {
    let (items, _permit) = receive(&state, &headers, body, PostedItems::parse).await?;
    let request = PostRequest { project: caller.project, conversation, items };
    let posted = conversations(&state).post(request).await.map_err(RequestError::from)?;
    Ok(json_reply(posted.to_json(includes_encrypted_content(query.as_deref()))))
}

pub async fn list_items(
    State(state): State<AppState>,
    caller: Caller,
    PathSegment(name): PathSegment,
    RawQuery(query): RawQuery,
) -> Result<Response, ErrorReply> {
    let page = parse_item_query(query.as_deref())?;
    let conversation = load(&state, &caller, &name).await?;
    let items = conversations(&state).list(&conversation, &page).await.map_err(RequestError::from)?;
    Ok(json_reply(items.to_json(includes_encrypted_content(query.as_deref()))))
}

pub async fn get_item(
    State(state): State<AppState>,
    caller: Caller,
    PathSegments(name, item): PathSegments,
    RawQuery(query): RawQuery,
) -> Result<Response, ErrorReply> {
    let conversation = load(&state, &caller, &name).await?;
    let item = conversations(&state).item(&conversation, &item).await.map_err(RequestError::from)?;
    Ok(json_reply(item_to_json(&item, includes_encrypted_content(query.as_deref()))))
}

pub async fn delete_item(
    State(state): State<AppState>,
    caller: Caller,
    PathSegments(name, item): PathSegments,
) -> Result<Response, ErrorReply> {
    let conversation = conversations(&state).delete_item(&caller.project, &name, &item).await;
    Ok(shown(&conversation.map_err(RequestError::from)?))
}

fn conversations(state: &AppState) -> &Conversations {
    &state.turns.conversations
}

async fn load(state: &AppState, caller: &Caller, name: &str) -> Result<StoredConversation, RequestError> {
    Ok(conversations(state).load(&caller.project, name).await?)
}

/// Reads and parses a body. The permit holds its memory.
async fn receive<T: Send + 'static>(
    state: &AppState,
    headers: &HeaderMap,
    body: Body,
    read: fn(&bytes::Bytes, Wanted<'_>) -> Result<T, antiphon_protocol::error::ApiError>,
) -> Result<(T, OwnedSemaphorePermit), RequestError> {
    let Received { bytes, permit } = state.body_limits.receive(headers, body).await?;
    let size_bytes = bytes.len();
    let (parsed, permit) = parse(size_bytes, permit, move |wanted: Wanted<'_>| read(&bytes, wanted)).await?;
    Ok((parsed?, permit))
}

fn parse_item_query(query: Option<&str>) -> Result<ItemQuery, RequestError> {
    let mut page = ItemQuery { limit: DEFAULT_LIMIT, descending: true, after: None };
    for (key, value) in query_pairs(query) {
        match key.as_str() {
            "limit" => page.limit = parse_item_limit(&value)?,
            "order" => page.descending = parse_order(&value)?,
            "after" => page.after = Some(value).filter(|after| !after.is_empty()),
            _ => {}
        }
    }
    Ok(page)
}

/// The SDKs write a list as `include[]=…` or repeat `include=…`.
fn includes_encrypted_content(query: Option<&str>) -> bool {
    query_pairs(query).any(|(key, value)| key.starts_with("include") && value == ENCRYPTED_CONTENT)
}

fn shown(conversation: &StoredConversation) -> Response {
    let StoredConversation { id, created_at, metadata, .. } = conversation;
    let head = format!(
        r#"{{"id":"{id}","object":"conversation","created_at":{},"metadata":"#,
        created_at.unix_seconds()
    );
    json_reply([head.as_bytes(), metadata, b"}"].concat())
}

fn json_reply(body: Vec<u8>) -> Response {
    let mut reply = body.into_response();
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}
