//! The admin API, from the document in which it describes itself.

use std::fmt::Write;

use antiphon_testkit::assert_reference;
use serde_json::{Map, Value};

use super::{cell, heading};
use crate::gateway;

const INTRODUCTION: &str = "The endpoints of the [admin API](../admin-api.md), as `GET /api/openapi.json` describes them to programs.
Every error is an `Error`, and every endpoint but `/api/openapi.json` needs an admin token.";

#[tokio::test]
async fn the_reference_of_the_admin_api_is_its_openapi_document() {
    let (_upstream, gateway) = gateway().await;
    let document = gateway.client.get("/api/openapi.json").await.ok();
    let mut page = heading("Admin API", INTRODUCTION);
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            endpoint(&mut page, &method.to_uppercase(), path, operation);
        }
    }
    page.push_str("\n## Objects\n");
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        object(&mut page, name, schema);
    }
    assert_reference("admin-api.md", &page);
}

fn endpoint(page: &mut String, method: &str, path: &str, operation: &Value) {
    write!(page, "\n## {method} {path}\n\n{}\n", text(operation, "summary")).unwrap();
    if let Some(description) = operation["description"].as_str() {
        write!(page, "\n{description}\n").unwrap();
    }
    let content = |content: &Value| {
        let types = content.as_object().into_iter().flatten();
        types
            .map(|(name, body)| format!("{} (`{name}`)", kind(&body["schema"])))
            .collect::<Vec<_>>()
            .join(" or ")
    };
    if let Some(parameters) = operation["parameters"].as_array() {
        page.push_str("\n| Parameter | In | Type | Meaning |\n| --- | --- | --- | --- |\n");
        for parameter in parameters {
            let name = parameter["name"].as_str().unwrap();
            let place = parameter["in"].as_str().unwrap();
            let meaning = text(parameter, "description");
            writeln!(page, "| `{name}` | {place} | {} | {meaning} |", kind(&parameter["schema"])).unwrap();
        }
    }
    if let Some(body) = operation["requestBody"].as_object() {
        write!(page, "\nBody: {}\n", content(&body["content"])).unwrap();
    }
    for (status, reply) in operation["responses"].as_object().unwrap() {
        if status != "default" {
            write!(page, "\nReply {status}: {}\n", content(&reply["content"])).unwrap();
        }
    }
}

fn object(page: &mut String, name: &str, schema: &Value) {
    write!(page, "\n### {name}\n").unwrap();
    let description = text(schema, "description");
    if !description.is_empty() {
        write!(page, "\n{description}\n").unwrap();
    }
    let mut members = Map::new();
    gather(schema, &mut members);
    if members.is_empty() {
        write!(page, "\n{}\n", kind(schema)).unwrap();
        return;
    }
    page.push_str("\n| Member | Type | Meaning |\n| --- | --- | --- |\n");
    for (name, member) in &members {
        writeln!(page, "| `{name}` | {} | {} |", kind(member), text(member, "description")).unwrap();
    }
}

/// The members of an object, those that it has from others included.
fn gather(schema: &Value, members: &mut Map<String, Value>) {
    for (name, member) in schema["properties"].as_object().into_iter().flatten() {
        members.insert(name.clone(), member.clone());
    }
    for part in schema["allOf"].as_array().into_iter().flatten() {
        gather(part, members);
    }
}

fn text(value: &Value, member: &str) -> String {
    cell(value[member].as_str().unwrap_or_default())
}

/// A type in words, with a link if it is an object of this page.
fn kind(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
        return format!("[{name}](#{})", name.to_lowercase());
    }
    if let Some(values) = schema["enum"].as_array() {
        let values: Vec<String> =
            values.iter().filter_map(Value::as_str).map(|value| format!("`{value}`")).collect();
        return values.join(", ");
    }
    for choice in ["oneOf", "anyOf", "allOf"] {
        if let Some(choices) = schema[choice].as_array() {
            return choices.iter().map(kind).collect::<Vec<_>>().join(" or ");
        }
    }
    let one = |name: &str| match name {
        "array" => format!("array of {}", kind(&schema["items"])),
        name => name.to_owned(),
    };
    match &schema["type"] {
        Value::String(name) => one(name),
        Value::Array(names) => {
            names.iter().filter_map(Value::as_str).map(one).collect::<Vec<_>>().join(" or ")
        }
        _ => "any".to_owned(),
    }
}
