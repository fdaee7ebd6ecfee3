//! What a response contains, for admins only. Each look is in the audit log.

use antiphon_operations::Bodies;
use antiphon_runtime::offload::offload_if_long;
use maud::{Markup, html};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::http::error::RequestError;

/// How many items of the input, and of the output, are shown.
const MAX_ITEMS: usize = 200;
/// How many characters of an item are shown.
const MAX_CHARS: usize = 20_000;
/// How many of them in a list.
const PREVIEW_CHARS: usize = 160;

/// The items. Many are rendered on another thread.
pub async fn show_items(bodies: Bodies) -> Result<Markup, RequestError> {
    let size_bytes = bodies.size_bytes();
    let items = move || {
        html! {
            div .items {
                (list("Input items", &bodies.input)) (list("Output items", &bodies.output))
                @if let Some(response) = &bodies.response { (metadata(response)) }
            }
        }
    };
    offload_if_long(size_bytes, items).await.map_err(|_| RequestError::Internal)
}

/// How to get to the items.
pub fn offer_items(id: &str, may_look: bool) -> Markup {
    html! {
        div .items {
            @if may_look {
                form method="post" action={ "/responses/" (id) } {
                    button type="submit" { "Show its items" }
                    span .hint { " This is noted in the audit log." }
                }
            } @else { p .hint { "Only admins see what responses contain." } }
        }
    }
}

fn list(title: &str, items: &RawValue) -> Markup {
    let items: Vec<&RawValue> = serde_json::from_str(items.get()).unwrap_or_default();
    html! {
        h2 .minor { (title) }
        @if items.is_empty() { p .hint { "none" } }
        @for item in items.iter().take(MAX_ITEMS) { (shown(item)) }
        @if let Some(more) = items.len().checked_sub(MAX_ITEMS).filter(|more| *more > 0) {
            p .hint { "and " (more) " more, which " code { "GET /api/responses/{id}?bodies=true" } " has" }
        }
    }
}

fn shown(item: &RawValue) -> Markup {
    let item: Value = serde_json::from_str(item.get()).unwrap_or_default();
    html! {
        details .item {
            summary { span .tag { (kind(&item)) } span .preview { (shortened(&preview(&item), PREVIEW_CHARS)) } }
            pre { code { (shortened(&serde_json::to_string_pretty(&item).unwrap_or_default(), MAX_CHARS)) } }
        }
    }
}

fn metadata(response: &RawValue) -> Markup {
    let response: Value = serde_json::from_str(response.get()).unwrap_or_default();
    html! {
        @if let Some(metadata) = response["metadata"].as_object().filter(|metadata| !metadata.is_empty()) {
            h2 .minor { "Metadata" }
            dl .facts { @for (name, value) in metadata { dt { (name) } dd { (text_of(value)) } } }
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
