//! The errors of the real API, with its messages.

use super::chat;
use super::glance::Glance;
use super::options::Options;
use super::refusal::Refusal;
use super::request::{Endpoint, TurnRequest};
use super::seal::{abbreviate, is_readable};
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::HashSet;

/// Fields that are only valid in a WebSocket frame.
const SOCKET_ONLY: [&str; 3] = ["generate", "stream_id", "type"];
/// The other endpoints have few fields, and none for storing or streaming.
const OF_COMPACT: [&str; 9] = [
    "model",
    "input",
    "previous_response_id",
    "instructions",
    "prompt_cache_key",
    "prompt_cache_retention",
    "prompt_cache_options",
    "service_tier",
    "image",
];
const OF_INPUT_TOKENS: [&str; 12] = [
    "model",
    "input",
    "previous_response_id",
    "conversation",
    "instructions",
    "parallel_tool_calls",
    "personality",
    "reasoning",
    "text",
    "tool_choice",
    "tools",
    "truncation",
];

/// Checks everything except the items.
pub(super) fn check_request(request: &TurnRequest, options: &Options) -> Result<(), Refusal> {
    let (is_known, required): (fn(&str) -> bool, &[&str]) = match request.endpoint {
        Endpoint::Create => (|field| !SOCKET_ONLY.contains(&field), &["model", "input"]),
        Endpoint::Socket => (|_| true, &["model", "input"]),
        Endpoint::Compact => (|field| OF_COMPACT.contains(&field), &["model"]),
        Endpoint::InputTokens => (|field| OF_INPUT_TOKENS.contains(&field), &[]),
        Endpoint::Chat | Endpoint::Embeddings => return chat::check(request, options),
    };
    if let Some(field) = request.names().find(|field| !is_known(field)) {
        return Err(Refusal::invalid(format!("Unknown parameter: '{field}'."))
            .param(field)
            .code("unknown_parameter"));
    }
    if let Some(field) = required.iter().find(|field| request.raw(field).is_none()) {
        return Err(missing(field));
    }
    check_type(request, "input", "one of a string or array of input items", |value| {
        value.is_string() || value.is_array()
    })?;
    check_type(request, "previous_response_id", "a string", Value::is_string)?;
    check_model(request, options)?;
    if request.wants_background() && !(options.background && request.wants_storing()) {
        let message = String::from("Unsupported parameter: 'background' is not supported with this model.");
        return Err(Refusal::invalid(message).param("background").code("unsupported_parameter"));
    }
    if request.wants_encrypted_content() && options.no_encrypted_models.contains(&request.model()) {
        let message = String::from("Encrypted content is not supported with this model.");
        return Err(Refusal::invalid(message).param("include"));
    }
    if let Some(conversation) = request.get::<Value>("conversation") {
        let id = conversation.as_str().or_else(|| conversation["id"].as_str()).unwrap_or_default();
        return Err(Refusal::invalid(format!("Conversation with id '{id}' not found.")).status(404));
    }
    Ok(())
}

pub(super) fn check_model(request: &TurnRequest, options: &Options) -> Result<(), Refusal> {
    let model = request.model();
    if options.listed_models_only && !options.models.contains(&model) {
        let message = format!("The model '{model}' does not exist or you do not have access to it.");
        return Err(Refusal::invalid(message).status(404).param("model").code("model_not_found"));
    }
    Ok(())
}

pub(super) fn previous_response_not_found(id: &str) -> Refusal {
    Refusal::invalid(format!("Previous response with id '{id}' not found."))
        .param("previous_response_id")
        .code("previous_response_not_found")
}

/// Checks the items that the model would see, oldest first. The first `kept` of them come from memory, and `knows` says
/// whether an id is in it.
pub(super) fn check_items(
    items: &[Box<RawValue>],
    kept: usize,
    boundary: &str,
    knows: impl Fn(&str) -> bool,
) -> Result<(), Refusal> {
    let mut seen = HashSet::new();
    let mut glances = Vec::with_capacity(items.len());
    for (position, item) in items.iter().enumerate() {
        let index = position.saturating_sub(kept);
        let Some(glance) = Glance::at(item) else {
            let message = format!("Invalid type for 'input[{index}]': expected an input item.");
            return Err(Refusal::invalid(message).param(format!("input[{index}]")).code("invalid_type"));
        };
        if let Some(id) = &glance.id {
            if glance.kind() == "item_reference" {
                return Err(item_not_found(id));
            }
            if !seen.insert(id.clone()) {
                let advice = "Remove duplicate items from your input and try again.";
                return Err(
                    Refusal::invalid(format!("Duplicate item found with id {id}. {advice}")).param("input")
                );
            }
        }
        if !glance.id.as_deref().is_some_and(&knows) {
            check_encrypted(&glance, index, boundary)?;
        }
        glances.push(glance);
    }
    check_pairs(&glances, "function_call", "function call")?;
    check_pairs(&glances, "custom_tool_call", "custom tool call")
}

/// Checks that no stored item comes by its id without the reasoning that it was made after. `reasoning_of` knows that.
pub(super) fn check_reasoning(
    items: &[Box<RawValue>],
    reasoning_of: impl Fn(&str) -> Option<String>,
) -> Result<(), Refusal> {
    let glances: Vec<Glance> = items.iter().filter_map(|item| Glance::at(item)).collect();
    let given: HashSet<&str> = glances.iter().filter_map(|glance| glance.id.as_deref()).collect();
    for glance in &glances {
        let Some(id) = &glance.id else { continue };
        if let Some(reasoning) = reasoning_of(id).filter(|reasoning| !given.contains(reasoning.as_str())) {
            let kind = glance.kind();
            let message = format!(
                "Item '{id}' of type '{kind}' was provided without its required 'reasoning' item: '{reasoning}'."
            );
            return Err(Refusal::invalid(message).param("input"));
        }
    }
    Ok(())
}

fn check_type(
    request: &TurnRequest,
    field: &str,
    expected: &str,
    fits: impl Fn(&Value) -> bool,
) -> Result<(), Refusal> {
    let Some(value) = request.get::<Value>(field).filter(|value| !fits(value)) else { return Ok(()) };
    let got = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    let message = format!("Invalid type for '{field}': expected {expected}, but got {got} instead.");
    Err(Refusal::invalid(message).param(field).code("invalid_type"))
}

fn check_encrypted(glance: &Glance, index: usize, boundary: &str) -> Result<(), Refusal> {
    let is_reasoning = glance.kind() == "reasoning";
    if is_reasoning && glance.summary.is_none() {
        return Err(missing(&format!("input[{index}].summary")));
    }
    match (&glance.encrypted_content, &glance.id) {
        (Some(sealed), _) if !is_readable(boundary, sealed) => {
            let reason = "Reason: Encrypted content could not be decrypted or parsed.";
            let message =
                format!("The encrypted content {} could not be verified. {reason}", abbreviate(sealed));
            Err(Refusal::invalid(message).code("invalid_encrypted_content"))
        }
        (None, Some(id)) if is_reasoning => Err(item_not_found(id)),
        (None, None) if is_reasoning => Err(missing(&format!("input[{index}].id"))),
        _ => Ok(()),
    }
}

/// Checks that every output belongs to an earlier call, and every call has an output.
fn check_pairs(glances: &[Glance], call: &str, name: &str) -> Result<(), Refusal> {
    let output = format!("{call}_output");
    let mut open: Vec<&str> = Vec::new();
    let mut called: HashSet<&str> = HashSet::new();
    for glance in glances {
        let Some(call_id) = glance.call_id.as_deref() else { continue };
        if glance.kind() == call {
            open.push(call_id);
            called.insert(call_id);
        } else if glance.kind() == output {
            if !called.contains(call_id) {
                let message = format!("No tool call found for {name} output with call_id {call_id}.");
                return Err(Refusal::invalid(message).param("input"));
            }
            open.retain(|waiting| *waiting != call_id);
        }
    }
    match open.first() {
        Some(call_id) => {
            Err(Refusal::invalid(format!("No tool output found for {name} {call_id}.")).param("input"))
        }
        None => Ok(()),
    }
}

pub(super) fn missing(field: &str) -> Refusal {
    Refusal::invalid(format!("Missing required parameter: '{field}'."))
        .param(field)
        .code("missing_required_parameter")
}

fn item_not_found(id: &str) -> Refusal {
    let advice = "Items are not persisted when `store` is set to false. Try again with `store` set to true, or remove \
                  this item from your input.";
    Refusal::invalid(format!("Item with id '{id}' not found. {advice}")).status(404).param("input")
}
