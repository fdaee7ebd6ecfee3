//! What a request tells its upstream of a chain, line by line and the same for every API that upstreams speak.

use antiphon_simulator::upstream::Received;
use serde_json::Value;

/// The lines of a turn's history and input. Reasoning is `thought: …`, or `thought` if nothing but the upstream can read it.
pub fn said(request: &Received) -> Vec<String> {
    let body = request.json();
    match body["messages"].as_array() {
        Some(messages) => messages.iter().flat_map(of_message).collect(),
        None => request.input().iter().map(of_item).collect(),
    }
}

fn of_message(message: &Value) -> Vec<String> {
    let text = text(&message["content"]);
    let role = message["role"].as_str().unwrap_or_default();
    if role == "tool" {
        return vec![format!("output of {}: {text}", plain(&message["tool_call_id"]))];
    }
    let mut lines = Vec::new();
    lines.extend(message["reasoning_content"].as_str().map(|thought| format!("thought: {thought}")));
    lines.extend((!text.is_empty()).then(|| spoken(role, &text)));
    let calls = message["tool_calls"].as_array().into_iter().flatten();
    lines.extend(calls.map(|call| called(&call["id"], &call["function"])));
    lines
}

fn of_item(item: &Value) -> String {
    match item["type"].as_str().unwrap_or("message") {
        "function_call" => called(&item["call_id"], item),
        "function_call_output" => format!("output of {}: {}", plain(&item["call_id"]), text(&item["output"])),
        "reasoning" => match text(&item["summary"]) {
            summary if summary.is_empty() => "thought".to_owned(),
            summary => format!("thought: {summary}"),
        },
        _ => spoken(plain(&item["role"]), &text(&item["content"])),
    }
}

fn called(id: &Value, function: &Value) -> String {
    format!("call {}: {}({})", plain(id), plain(&function["name"]), plain(&function["arguments"]))
}

fn spoken(role: &str, text: &str) -> String {
    let role = if role == "developer" { "system" } else { role };
    format!("{role}: {text}")
}

/// A string, or the texts of parts.
fn text(content: &Value) -> String {
    match content {
        Value::Array(parts) => parts.iter().map(|part| plain(&part["text"])).collect(),
        content => plain(content).to_owned(),
    }
}

fn plain(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
