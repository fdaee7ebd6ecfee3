//! Stored responses: reading, input items, deletion.

use antiphon_protocol::id::{ItemId, ResponseId};
use antiphon_protocol::response::{array, with_output};
use antiphon_protocol::{item, json};
use antiphon_store::StoredResponse;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};

use crate::http::app_state::AppState;
use crate::http::error::RequestError;
use crate::http::error_reply::ErrorReply;
use crate::http::path_segment::PathSegment;
use crate::http::query::{parse_limit, parse_order, query_pairs};
use antiphon_access::keys::Caller;

const DEFAULT_LIMIT: usize = 20;

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
        let message = "Only a background response can be streamed again: leave 'stream' out.".to_owned();
        return Err(RequestError::InvalidQuery { param: "stream", message }.into());
    }
    let stored = load(&state, &caller, &name).await?;
    let response = with_output(&stored.body, &stored.turn.output).map_err(|_| RequestError::Internal)?;
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
    RawQuery(query): RawQuery,
) -> Result<Response, ErrorReply> {
    let page = ItemPage::parse(query.as_deref())?;
    let stored = load(&state, &caller, &name).await?;
    Ok(json_reply(page.render(&stored)?))
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

    fn render(&self, stored: &StoredResponse) -> Result<Vec<u8>, RequestError> {
        let input = &stored.turn.input;
        let mut items: Vec<(ItemId, &[u8])> = (0..)
            .zip(json::elements(input).map_while(Result::ok))
            .map(|(position, range)| {
                let item = &input[range];
                let id = item::id(item).unwrap_or_else(|| item::derived_id(item, stored.turn.id, position));
                (id, item)
            })
            .collect();
        if self.descending {
            items.reverse();
        }
        let from = match &self.after {
            None => 0,
            Some(after) => {
                1 + items
                    .iter()
                    .position(|(id, _)| id.as_str() == after)
                    .ok_or_else(|| unknown_cursor(after))?
            }
        };
        let shown = &items[from..items.len().min(from.saturating_add(self.limit))];
        let data = array(shown.iter().map(|(id, item)| item::listed(item, id)));
        let id_of = |entry: Option<&(ItemId, &[u8])>| {
            entry.map_or_else(String::new, |(id, _)| id.as_str().to_owned())
        };
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

fn unknown_cursor(after: &str) -> RequestError {
    let message = format!("Invalid 'after': the response has no input item with id '{after}'.");
    RequestError::InvalidQuery { param: "after", message }
}
