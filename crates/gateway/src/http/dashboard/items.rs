//! What a response contains, for admins only. Each look is in the audit log.

use std::sync::Arc;

use antiphon_access::audit::entry;
use antiphon_protocol::id::ResponseId;
use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};
use serde_json::Value;

use super::chain::ChainPage;
use super::gate::{Change, Empty};
use super::page::Problem;
use crate::http::path_segment::PathSegment;
use crate::operations::{OperationError, Operations};

/// How much of an item is shown.
const MAX_CHARS: usize = 20_000;
/// Of an item in a line.
const PREVIEW_CHARS: usize = 160;

/// The items of one response.
pub struct ItemsOf {
    input: Vec<Value>,
    output: Vec<Value>,
    body: Value,
}

/// Shows the chain again, with the items of this response. It is a form's target because it writes to the audit log.
pub async fn show(
    State(operations): State<Arc<Operations>>,
    PathSegment(name): PathSegment,
    change: Change<Empty>,
) -> Result<Response, Problem> {
    let not_found = || Problem::from(crate::http::error::RequestError::ResponseNotFound(name.clone()));
    let response: ResponseId = name.parse().map_err(|_| not_found())?;
    let store = &operations.store;
    let project = store.find_project(response).await.map_err(OperationError::from)?.ok_or_else(not_found)?;
    let now = operations.clock.now();
    let stored =
        store.load(&project, response, now).await.map_err(OperationError::from)?.ok_or_else(not_found)?;
    let audit = entry(&*operations.clock, change.actor(), "response.viewed", &name);
    store.add_audit(audit).await.map_err(OperationError::from)?;
    let list = |json: &[u8]| serde_json::from_slice(json).unwrap_or_default();
    let items = ItemsOf {
        input: list(&stored.turn.input),
        output: list(&stored.turn.output),
        body: serde_json::from_slice(&stored.body).unwrap_or_default(),
    };
    let chain = ChainPage::read(&change.session, &operations, &project, response).await?;
    Ok(chain.reply(Some(&items)))
}

/// The items, or how to get to them.
pub fn show_items(response: ResponseId, items: Option<&ItemsOf>, may_look: bool) -> Markup {
    html! {
        div .items {
            @match items {
                Some(items) => {
                    (list("Input items", &items.input)) (list("Output items", &items.output))
                    @if let Some(metadata) = items.body["metadata"].as_object().filter(|metadata| !metadata.is_empty()) {
                        h3 { "Metadata" }
                        dl .facts { @for (name, value) in metadata { dt { (name) } dd { (text_of(value)) } } }
                    }
                }
                None if may_look => {
                    form method="post" action={ "/responses/" (response) } {
                        button type="submit" { "Show its items" }
                        span .hint { " This is noted in the audit log." }
                    }
                }
                None => { p .hint { "Only admins see what responses contain." } }
            }
        }
    }
}

fn list(title: &str, items: &[Value]) -> Markup {
    html! {
        h3 { (title) }
        @if items.is_empty() { p .hint { "none" } }
        @for item in items {
            details .item {
                summary { span .tag { (kind(item)) } span .preview { (shortened(&preview(item), PREVIEW_CHARS)) } }
                pre { code { (shortened(&serde_json::to_string_pretty(item).unwrap_or_default(), MAX_CHARS)) } }
            }
        }
    }
}

/// The type of an item, and the role of a message.
fn kind(item: &Value) -> String {
    let kind = item["type"].as_str().unwrap_or("message");
    match item["role"].as_str() {
        Some(role) => format!("{kind} ({role})"),
        None => kind.to_owned(),
    }
}

/// What an item says in a line.
fn preview(item: &Value) -> String {
    match &item["content"] {
        Value::String(text) => return text.clone(),
        Value::Array(parts) => {
            return parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join(" ");
        }
        _ => {}
    }
    let parts = [&item["name"], &item["arguments"], &item["output"], &item["summary"][0]["text"]];
    parts.iter().filter_map(|part| part.as_str()).collect::<Vec<_>>().join(" ")
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn shortened(text: &str, max_chars: usize) -> String {
    match text.char_indices().nth(max_chars) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
