//! Responses after their creation: reading, resuming, cancelling, input items, deletion.

use std::collections::HashSet;
use std::time::Duration;

use antiphon_protocol::id::{ItemId, ResponseId};
use antiphon_protocol::include::HiddenParts;
use antiphon_protocol::response::{array, with_output};
use antiphon_protocol::{item, json};
use antiphon_store::{Status, StoredResponse};
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderName};

use super::create::render_stream;
use crate::http::app_state::AppState;
use crate::http::auth::Client;
use crate::http::error::RequestError;
use crate::http::error_reply::ErrorReply;
use crate::http::json_reply::{json_reply, rendered_reply};
use crate::http::path_segment::PathSegment;
use crate::http::query::{ListQuery, ResponseQuery};
use crate::turn::{Cancelled, Found, ReplayRefused, is_background};
use antiphon_access::keys::Caller;

/// Read by the helpers of the OpenAI SDKs.
const POLL_AFTER: HeaderName = HeaderName::from_static("openai-poll-after-ms");

pub async fn get(
    State(state): State<AppState>,
    Client { caller, share }: Client,
    PathSegment(name): PathSegment,
    query: ResponseQuery,
) -> Result<Response, ErrorReply> {
    if query.stream {
        return resume(&state, &caller, &name, &query).await;
    }
    let hidden = query.hidden;
    let load = || find(&state, &caller, &name);
    let (found, memory) = state.body_limits.load(&share, load, Found::size_bytes).await?;
    let size_bytes = found.size_bytes();
    Ok(match found {
        Found::Stored(stored) => {
            rendered_reply(size_bytes, memory, move || whole_response(&stored, hidden)).await?
        }
        Found::Kept(response) => {
            let shown = move || Ok(hidden.hide_in_response(&response).unwrap_or_else(|| response.into()));
            rendered_reply(size_bytes, memory, shown).await?
        }
        Found::Running { response, age } => {
            let mut reply = json_reply(response);
            reply.headers_mut().insert(POLL_AFTER, poll_after_ms(age).into());
            reply
        }
    })
}

/// The events of a background response.
async fn resume(
    state: &AppState,
    caller: &Caller,
    name: &str,
    query: &ResponseQuery,
) -> Result<Response, ErrorReply> {
    let after = query.starting_after.as_deref().map(parse_starting_after).transpose()?;
    let not_found = || RequestError::ResponseNotFound(name.to_owned());
    let id: ResponseId = name.parse().map_err(|_| not_found())?;
    let replay = state.turns.replay(&caller.project, id, after, query.hidden).await;
    let events = replay.map_err(|refused| match refused {
        ReplayRefused::NotFound => not_found(),
        ReplayRefused::NotStreamed => RequestError::NotStreamed,
        ReplayRefused::NotInBackground => RequestError::NotStreamedInBackground,
        ReplayRefused::Expired(age) => RequestError::LogExpired(age),
        ReplayRefused::Store(error) => error.into(),
    })?;
    Ok(render_stream(Body::new(events), HeaderMap::new()))
}

pub async fn delete(
    State(state): State<AppState>,
    caller: Caller,
    PathSegment(name): PathSegment,
) -> Result<Response, ErrorReply> {
    let not_found = || RequestError::ResponseNotFound(name.clone());
    let id: ResponseId = name.parse().map_err(|_| not_found())?;
    if !state.turns.delete(&caller.project, id).await.map_err(RequestError::from)? {
        return Err(not_found().into());
    }
    Ok(json_reply(format!(r#"{{"id":"{id}","object":"response","deleted":true}}"#)))
}

pub async fn cancel(
    State(state): State<AppState>,
    caller: Caller,
    PathSegment(name): PathSegment,
) -> Result<Response, ErrorReply> {
    let not_found = || RequestError::ResponseNotFound(name.clone());
    let id: ResponseId = name.parse().map_err(|_| not_found())?;
    match state.turns.cancel(&caller.project, id).await.map_err(RequestError::from)? {
        Cancelled::Done(response) => Ok(json_reply(response)),
        Cancelled::Ended(status) => Err(RequestError::HasEnded(status).into()),
        Cancelled::NotInBackground => Err(RequestError::NotInBackground.into()),
        Cancelled::NotFound => Err(not_found().into()),
    }
}

pub async fn input_items(
    State(state): State<AppState>,
    Client { caller, share }: Client,
    PathSegment(name): PathSegment,
    query: ListQuery,
) -> Result<Response, ErrorReply> {
    let not_found = || RequestError::ResponseNotFound(name.clone());
    let id: ResponseId = name.parse().map_err(|_| not_found())?;
    let load = async || state.turns.input_items(&caller.project, id).await?.ok_or_else(not_found);
    let (input, memory) = state.body_limits.load(&share, load, Bytes::len).await?;
    Ok(rendered_reply(input.len(), memory, move || render_items(&query, id, &input)).await?)
}

async fn find(state: &AppState, caller: &Caller, name: &str) -> Result<Found, RequestError> {
    let not_found = || RequestError::ResponseNotFound(name.to_owned());
    let id: ResponseId = name.parse().map_err(|_| not_found())?;
    state.turns.find(&caller.project, id).await?.ok_or_else(not_found)
}

/// A background response that was cancelled shows no output.
fn whole_response(stored: &StoredResponse, hidden: HiddenParts) -> Result<Vec<u8>, RequestError> {
    let hides_output = stored.turn.status == Status::Cancelled && is_background(stored);
    let output: &[u8] = if hides_output { b"[]" } else { &stored.turn.output };
    with_output(&stored.body, &hidden.hide_in_array(output)).map_err(|_| RequestError::Internal)
}

/// When a client should look again: the longer it has waited, the later.
fn poll_after_ms(age: Duration) -> u64 {
    match age.as_secs() {
        0..10 => 1_000,
        10..60 => 2_000,
        _ => 5_000,
    }
}

fn parse_starting_after(value: &str) -> Result<u64, RequestError> {
    value.parse().map_err(|_| {
        let message = format!("Invalid 'starting_after': expected a sequence number, but got '{value}'.");
        RequestError::InvalidQuery { param: "starting_after", message }
    })
}

/// The response's input items, as the page of a list. Of several with the same id the first one keeps it: a cursor has to name
/// one item.
fn render_items(query: &ListQuery, response: ResponseId, input: &[u8]) -> Result<Vec<u8>, RequestError> {
    let mut taken = HashSet::new();
    let mut items: Vec<(ItemId, &[u8])> = (0..)
        .zip(json::elements(input).map_while(Result::ok))
        .map(|(position, range)| {
            let item = &input[range];
            let own = item::id(item).filter(|id| taken.insert(id.clone()));
            (own.unwrap_or_else(|| item::derived_id(item, response, position)), item)
        })
        .collect();
    if query.descending {
        items.reverse();
    }
    let from = match &query.after {
        None => 0,
        Some(after) => {
            1 + items.iter().position(|(id, _)| id.as_str() == after).ok_or_else(|| unknown_cursor(after))?
        }
    };
    let shown = &items[from..items.len().min(from.saturating_add(query.limit as usize))];
    let data = array(shown.iter().map(|(id, item)| item::listed(&query.hidden.hide(item), id)));
    let id_of =
        |entry: Option<&(ItemId, &[u8])>| entry.map_or_else(String::new, |(id, _)| id.as_str().to_owned());
    let mut out = br#"{"object":"list","data":"#.to_vec();
    out.extend(data);
    out.extend(br#","first_id":"#);
    json::write_string(&mut out, &id_of(shown.first()));
    out.extend(br#","last_id":"#);
    json::write_string(&mut out, &id_of(shown.last()));
    let has_more = from + shown.len() < items.len();
    out.extend(format!(r#","has_more":{has_more}}}"#).into_bytes());
    Ok(out)
}

fn unknown_cursor(after: &str) -> RequestError {
    let message = format!("Invalid 'after': the response has no input item with id '{after}'.");
    RequestError::InvalidQuery { param: "after", message }
}
