//! Stored responses: reading, input items, deletion.

use antiphon_protocol::id::{ItemId, ResponseId};
use antiphon_protocol::response::{array, with_output};
use antiphon_protocol::{item, json};
use antiphon_store::StoredResponse;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};

use crate::http::app_state::AppState;
use crate::http::error::RequestError;
use crate::http::error_reply::ErrorReply;
use crate::http::path_segment::PathSegment;
use crate::http::query::{ListQuery, ResponseQuery};
use antiphon_access::keys::Caller;

pub async fn get(
    State(state): State<AppState>,
    caller: Caller,
    PathSegment(name): PathSegment,
    query: ResponseQuery,
) -> Result<Response, ErrorReply> {
    if query.stream {
        let message = "Only a background response can be streamed again: leave 'stream' out.".to_owned();
        return Err(RequestError::InvalidQuery { param: "stream", message }.into());
    }
    let stored = load(&state, &caller, &name).await?;
    let output = query.hidden.hide_in_array(&stored.turn.output);
    let response = with_output(&stored.body, &output).map_err(|_| RequestError::Internal)?;
    Ok(json_reply(response))
}

pub async fn delete(
    State(state): State<AppState>,
    caller: Caller,
    PathSegment(name): PathSegment,
) -> Result<Response, ErrorReply> {
    let not_found = || RequestError::ResponseNotFound(name.clone());
    let id: ResponseId = name.parse().map_err(|_| not_found())?;
    let turns = &state.turns;
    let deleted =
        turns.chains.delete(&caller.project, id, turns.env.clock.now()).await.map_err(RequestError::from)?;
    if !deleted {
        return Err(not_found().into());
    }
    Ok(json_reply(format!(r#"{{"id":"{id}","object":"response","deleted":true}}"#).into()))
}

/// No response runs in the background yet, so there is none to cancel.
pub async fn cancel(
    State(state): State<AppState>,
    caller: Caller,
    PathSegment(name): PathSegment,
) -> Result<Response, ErrorReply> {
    load(&state, &caller, &name).await?;
    Err(RequestError::NotInBackground.into())
}

pub async fn input_items(
    State(state): State<AppState>,
    caller: Caller,
    PathSegment(name): PathSegment,
    query: ListQuery,
) -> Result<Response, ErrorReply> {
    let stored = load(&state, &caller, &name).await?;
    Ok(json_reply(render_items(&query, &stored)?))
}

async fn load(state: &AppState, caller: &Caller, name: &str) -> Result<StoredResponse, RequestError> {
    let not_found = || RequestError::ResponseNotFound(name.to_owned());
    let id: ResponseId = name.parse().map_err(|_| not_found())?;
    let turns = &state.turns;
    turns.chains.store().load(&caller.project, id, turns.env.clock.now()).await?.ok_or_else(not_found)
}

fn json_reply(body: Vec<u8>) -> Response {
    let mut reply = body.into_response();
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}

/// The response's input items, as the page of a list.
fn render_items(query: &ListQuery, stored: &StoredResponse) -> Result<Vec<u8>, RequestError> {
    let input = &stored.turn.input;
    let derived_id = |position| ItemId::derived(stored.turn.id, position);
    let mut items: Vec<(String, &[u8], u32)> = (0..)
        .zip(json::elements(input).map_while(Result::ok))
        .map(|(position, range)| {
            let item = &input[range];
            let id = item::id(item).unwrap_or_else(|| derived_id(position));
            (id.as_str().to_owned(), item, position)
        })
        .collect();
    if query.descending {
        items.reverse();
    }
    let from = match &query.after {
        None => 0,
        Some(after) => {
            1 + items.iter().position(|(id, ..)| id == after).ok_or_else(|| unknown_cursor(after))?
        }
    };
    let shown = &items[from..items.len().min(from.saturating_add(query.limit))];
    let listed = |item, position| item::listed(&query.hidden.hide(item), || derived_id(position));
    let data = array(shown.iter().map(|(_, item, position)| listed(item, *position)));
    let id_of = |entry: Option<&(String, &[u8], u32)>| entry.map_or_else(String::new, |(id, ..)| id.clone());
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
