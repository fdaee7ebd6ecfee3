//! Responses after their creation: reading, resuming, cancelling, input items, deletion.

use std::time::Duration;

use antiphon_protocol::id::{ItemId, ResponseId};
use antiphon_protocol::response::{array, with_output};
use antiphon_protocol::{item, json};
use antiphon_store::{Status, StoredResponse};
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::create::render_stream;
use crate::http::app_state::AppState;
use crate::http::error::RequestError;
use crate::http::error_reply::ErrorReply;
use crate::http::path_segment::PathSegment;
use crate::http::query::{parse_limit, query_pairs};
use crate::turn::{Cancelled, Found, ReplayRefused, is_background};
use antiphon_access::keys::Caller;

const DEFAULT_LIMIT: usize = 20;
/// Read by the helpers of the OpenAI SDKs.
const POLL_AFTER: HeaderName = HeaderName::from_static("openai-poll-after-ms");

/// Which part of a list to show.
struct ItemPage {
    limit: usize,
    descending: bool,
    after: Option<String>,
}

pub async fn get(
    State(state): State<AppState>,
    caller: Caller,
    PathSegment(name): PathSegment,
    RawQuery(query): RawQuery,
) -> Result<Response, ErrorReply> {
    if query_pairs(query.as_deref()).any(|(key, value)| key == "stream" && value == "true") {
        return resume(&state, &caller, &name, query.as_deref()).await;
    }
    Ok(match find(&state, &caller, &name).await? {
        Found::Stored(stored) => json_reply(whole_response(&stored)?),
        Found::Kept(response) => json_reply(response.into()),
        Found::Running { response, age } => {
            let mut reply = json_reply(response.into());
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
    query: Option<&str>,
) -> Result<Response, ErrorReply> {
    let after = query_pairs(query).find(|(key, _)| key == "starting_after");
    let after = after.map(|(_, value)| parse_starting_after(&value)).transpose()?;
    let not_found = || RequestError::ResponseNotFound(name.to_owned());
    let id: ResponseId = name.parse().map_err(|_| not_found())?;
    let events = state.turns.replay(&caller.project, id, after).await.map_err(|refused| match refused {
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
    Ok(json_reply(format!(r#"{{"id":"{id}","object":"response","deleted":true}}"#).into()))
}

pub async fn cancel(
    State(state): State<AppState>,
    caller: Caller,
    PathSegment(name): PathSegment,
) -> Result<Response, ErrorReply> {
    let not_found = || RequestError::ResponseNotFound(name.clone());
    let id: ResponseId = name.parse().map_err(|_| not_found())?;
    match state.turns.cancel(&caller.project, id).await.map_err(RequestError::from)? {
        Cancelled::Done(response) => Ok(json_reply(response.into())),
        Cancelled::Ended(status) => Err(RequestError::HasEnded(status).into()),
        Cancelled::NotInBackground => Err(RequestError::NotInBackground.into()),
        Cancelled::NotFound => Err(not_found().into()),
    }
}

pub async fn input_items(
    State(state): State<AppState>,
    caller: Caller,
    PathSegment(name): PathSegment,
    RawQuery(query): RawQuery,
) -> Result<Response, ErrorReply> {
    let page = ItemPage::parse(query.as_deref())?;
    let not_found = || RequestError::ResponseNotFound(name.clone());
    let id: ResponseId = name.parse().map_err(|_| not_found())?;
    let input = match find(&state, &caller, &name).await? {
        Found::Stored(stored) => Some(stored.turn.input),
        Found::Running { .. } | Found::Kept(_) => {
            state.turns.running_input(&caller.project, id).await.map_err(RequestError::from)?
        }
    };
    Ok(json_reply(page.render(id, &input.ok_or_else(not_found)?)?))
}

async fn find(state: &AppState, caller: &Caller, name: &str) -> Result<Found, RequestError> {
    let not_found = || RequestError::ResponseNotFound(name.to_owned());
    let id: ResponseId = name.parse().map_err(|_| not_found())?;
    state.turns.find(&caller.project, id).await?.ok_or_else(not_found)
}

/// A background response that was cancelled shows no output.
fn whole_response(stored: &StoredResponse) -> Result<Vec<u8>, RequestError> {
    let hides_output = stored.turn.status == Status::Cancelled && is_background(stored);
    let output: &[u8] = if hides_output { b"[]" } else { &stored.turn.output };
    with_output(&stored.body, output).map_err(|_| RequestError::Internal)
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

fn json_reply(body: Vec<u8>) -> Response {
    let mut reply = body.into_response();
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}

// === impl Page ===

impl ItemPage {
    fn parse(query: Option<&str>) -> Result<Self, RequestError> {
        let mut page = Self { limit: DEFAULT_LIMIT, descending: true, after: None };
        for (key, value) in query_pairs(query) {
            match key.as_str() {
                "limit" => page.limit = parse_limit(&value)?,
                "order" => page.descending = parse_order(&value)?,
                "after" => page.after = Some(value).filter(|after| !after.is_empty()),
                _ => {}
            }
        }
        Ok(page)
    }

    fn render(&self, response: ResponseId, input: &[u8]) -> Result<Vec<u8>, RequestError> {
        let derived_id = |position| ItemId::derived(response, position);
        let mut items: Vec<(String, &[u8], u32)> = (0..)
            .zip(json::elements(input).map_while(Result::ok))
            .map(|(position, range)| {
                let item = &input[range];
                let id = item::id(item).unwrap_or_else(|| derived_id(position));
                (id.as_str().to_owned(), item, position)
            })
            .collect();
        if self.descending {
            items.reverse();
        }
        let from = match &self.after {
            None => 0,
            Some(after) => {
                1 + items.iter().position(|(id, ..)| id == after).ok_or_else(|| unknown_cursor(after))?
            }
        };
        let shown = &items[from..items.len().min(from.saturating_add(self.limit))];
        let data =
            array(shown.iter().map(|(_, item, position)| item::listed(item, || derived_id(*position))));
        let id_of =
            |entry: Option<&(String, &[u8], u32)>| entry.map_or_else(String::new, |(id, ..)| id.clone());
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
}

fn parse_order(value: &str) -> Result<bool, RequestError> {
    match value {
        "desc" => Ok(true),
        "asc" => Ok(false),
        _ => {
            let message = format!("Invalid 'order': expected 'asc' or 'desc', but got '{value}'.");
            Err(RequestError::InvalidQuery { param: "order", message })
        }
    }
}

fn unknown_cursor(after: &str) -> RequestError {
    let message = format!("Invalid 'after': the response has no input item with id '{after}'.");
    RequestError::InvalidQuery { param: "after", message }
}
