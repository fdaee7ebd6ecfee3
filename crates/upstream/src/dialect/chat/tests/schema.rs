//! Checks events against the shapes that OpenAI publishes.

use std::sync::LazyLock;

use serde_json::Value;

static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../../../../../tests/schema/openai-responses.json")).unwrap()
});

/// Members of a response that are null until there is a value.
const UNSET: [&str; 3] = ["usage", "prompt_cache_key", "safety_identifier"];

pub fn check_event(event: &Value) {
    let all = SCHEMA["components"]["schemas"]["ResponseStreamEvent"]["anyOf"].as_array().unwrap();
    let of_type = |schema: &&Value| fits(&resolve(schema)["properties"]["type"], &event["type"]).is_ok();
    let schema = all.iter().find(of_type).unwrap_or_else(|| panic!("no such event: {event}"));
    if let Err(why) = fits(schema, event) {
        panic!("{why}: {event}");
    }
}

fn resolve(schema: &Value) -> &Value {
    match schema["$ref"].as_str() {
        Some(name) => resolve(SCHEMA.pointer(&name[1..]).unwrap()),
        None => schema,
    }
}

/// Looks at what tells one shape from another: types, enums, required members and their own shapes.
fn fits(schema: &Value, value: &Value) -> Result<(), String> {
    let schema = resolve(schema);
    for all in schema["allOf"].as_array().into_iter().flatten() {
        fits(all, value)?;
    }
    for any in ["anyOf", "oneOf"].into_iter().filter_map(|name| schema[name].as_array()) {
        if !any.iter().any(|schema| fits(schema, value).is_ok()) {
            return Err(format!("{value} fits none"));
        }
    }
    if schema["enum"].as_array().is_some_and(|values| !values.contains(value)) {
        return Err(format!("{value} is not in {}", schema["enum"]));
    }
    let is = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        Some("null") => value.is_null(),
        _ => true,
    };
    if !is {
        return Err(format!("{value} is not {}", schema["type"]));
    }
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        // The gateway puts its own members in later.
        if value.get(name).is_none() && !["store", "background", "previous_response_id"].contains(&name) {
            return Err(format!("{name} is missing"));
        }
    }
    for (name, member) in schema["properties"].as_object().into_iter().flatten() {
        // The real API sends null although its schema has none.
        let is_unset = |value: &&Value| value.is_null() && UNSET.contains(&name.as_str());
        if let Some(value) = value.get(name).filter(|value| !is_unset(value)) {
            fits(member, value).map_err(|why| format!("{name}: {why}"))?;
        }
    }
    for element in value.as_array().into_iter().flatten().filter(|_| schema["items"].is_object()) {
        fits(&schema["items"], element)?;
    }
    Ok(())
}
