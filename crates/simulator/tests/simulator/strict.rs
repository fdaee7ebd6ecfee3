//! What a strict upstream rejects, and what it accepts.

use crate::support::{ask, post, post_bytes, simulator, user};
use antiphon_simulator::upstream::{Options, Script, Simulator};
use serde_json::{Value, json};

async fn strict() -> Simulator {
    simulator(Options::default()).await
}

async fn refused_items(items: Value, code: Option<&str>, param: Option<&str>, status: u16, message: &str) {
    post(&strict().await, &ask(items)).await.assert_refused(status, code, param, message);
}

fn call(call_id: &str) -> Value {
    json!({"type": "function_call", "id": format!("fc_{call_id}"), "call_id": call_id, "name": "f", "arguments": "{}"})
}

fn output(call_id: &str) -> Value {
    json!({"type": "function_call_output", "call_id": call_id, "output": "done"})
}

#[tokio::test]
async fn model_and_input_are_required() {
    let simulator = strict().await;
    for (body, field) in [(json!({"input": "x"}), "model"), (json!({"model": "sim"}), "input")] {
        let message = format!("Missing required parameter: '{field}'.");
        post(&simulator, &body).await.assert_refused(
            400,
            Some("missing_required_parameter"),
            Some(field),
            &message,
        );
    }
}

#[tokio::test]
async fn a_body_that_is_not_json_is_rejected() {
    let reply = post_bytes(&strict().await, "{\"model\":").await;
    assert_eq!(reply.status, 400);
    assert_eq!(reply.json()["error"]["type"], "invalid_request_error");
}

#[tokio::test]
async fn fields_of_a_wrong_type_are_refused() {
    let message = "Invalid type for 'input': expected one of a string or array of input items, but got a number instead.";
    let simulator = strict().await;
    post(&simulator, &ask(7)).await.assert_refused(400, Some("invalid_type"), Some("input"), message);
    let mut request = ask("x");
    request["previous_response_id"] = json!({});
    let message = "Invalid type for 'previous_response_id': expected a string, but got an object instead.";
    let param = Some("previous_response_id");
    post(&simulator, &request).await.assert_refused(400, Some("invalid_type"), param, message);
}

#[tokio::test]
async fn a_stateless_upstream_knows_no_previous_response() {
    let simulator = strict().await;
    let first = post(&simulator, &json!({"model": "sim", "store": true, "input": "x"})).await.json();
    assert_eq!(first["store"], true);
    let id = first["id"].as_str().unwrap();
    let mut request = ask("x");
    request["previous_response_id"] = json!(id);
    post(&simulator, &request).await.assert_refused(
        400,
        Some("previous_response_not_found"),
        Some("previous_response_id"),
        &format!("Previous response with id '{id}' not found."),
    );
}

#[tokio::test]
async fn a_stateless_upstream_knows_no_conversation() {
    let mut request = ask("x");
    request["conversation"] = json!({"id": "conv_1"});
    let reply = post(&strict().await, &request).await;
    reply.assert_refused(404, None, None, "Conversation with id 'conv_1' not found.");
}

#[tokio::test]
async fn fields_of_a_socket_frame_are_unknown_over_http() {
    let simulator = strict().await;
    for (field, value) in
        [("generate", json!(false)), ("stream_id", json!("a")), ("type", json!("response.create"))]
    {
        let mut request = ask("x");
        request[field] = value;
        let message = format!("Unknown parameter: '{field}'.");
        post(&simulator, &request).await.assert_refused(
            400,
            Some("unknown_parameter"),
            Some(field),
            &message,
        );
    }
}

#[tokio::test]
async fn reasoning_without_encrypted_content_is_not_found() {
    let message = "Item with id 'rs_1' not found. Items are not persisted when `store` is set to false. Try again with \
                   `store` set to true, or remove this item from your input.";
    let items =
        json!([user("x"), {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": null}]);
    refused_items(items, None, Some("input"), 404, message).await;
    let items = json!([user("x"), {"type": "reasoning", "summary": []}]);
    let message = "Missing required parameter: 'input[1].id'.";
    refused_items(items, Some("missing_required_parameter"), Some("input[1].id"), 400, message).await;
}

#[tokio::test]
async fn reasoning_needs_its_summary() {
    let items = json!([{"type": "reasoning", "id": "rs_1", "encrypted_content": "x"}]);
    let message = "Missing required parameter: 'input[0].summary'.";
    refused_items(items, Some("missing_required_parameter"), Some("input[0].summary"), 400, message).await;
}

#[tokio::test]
async fn an_item_reference_is_not_found() {
    let message = "Item with id 'msg_1' not found. Items are not persisted when `store` is set to false. Try again with \
                   `store` set to true, or remove this item from your input.";
    refused_items(json!([{"type": "item_reference", "id": "msg_1"}]), None, Some("input"), 404, message)
        .await;
}

#[tokio::test]
async fn encrypted_content_is_read_inside_its_boundary_only() {
    let home = simulator(Options { boundary: String::from("home"), ..Options::default() }).await;
    home.always(Script::new().reasoning("Hm.").text("Yes."));
    let mut request = ask("x");
    request["include"] = json!(["reasoning.encrypted_content"]);
    let reasoning = post(&home, &request).await.json()["output"][0].clone();
    let replay = ask(json!([user("x"), reasoning, user("y")]));

    let neighbour = simulator(Options { boundary: String::from("home"), ..Options::default() }).await;
    assert_eq!(post(&neighbour, &replay).await.status, 200);

    let sealed = reasoning["encrypted_content"].as_str().unwrap();
    let shown = format!("{}...{}", &sealed[..4], &sealed[sealed.len() - 4..]);
    let message = format!(
        "The encrypted content {shown} could not be verified. Reason: Encrypted content could not be decrypted or parsed."
    );
    let reply = post(&strict().await, &replay).await;
    reply.assert_refused(400, Some("invalid_encrypted_content"), None, &message);
    let compaction = json!([{"type": "compaction", "id": "cmp_1", "encrypted_content": sealed}, user("x")]);
    assert_eq!(post(&home, &ask(compaction.clone())).await.status, 200);
    assert_eq!(post(&strict().await, &ask(compaction)).await.status, 400);
}

#[tokio::test]
async fn a_tool_output_requires_an_earlier_call() {
    let message = "No tool call found for function call output with call_id call_1.";
    refused_items(json!([output("call_1")]), None, Some("input"), 400, message).await;
    refused_items(json!([output("call_1"), call("call_1")]), None, Some("input"), 400, message).await;
}

#[tokio::test]
async fn a_call_needs_its_output() {
    let message = "No tool output found for function call call_1.";
    refused_items(json!([user("x"), call("call_1")]), None, Some("input"), 400, message).await;
    refused_items(json!([call("call_1"), user("x")]), None, Some("input"), 400, message).await;
    let items = json!([call("call_2"), output("call_2"), call("call_1")]);
    refused_items(items, None, Some("input"), 400, message).await;
}

#[tokio::test]
async fn parallel_calls_are_answered_in_any_order() {
    let items = json!([user("x"), call("call_1"), call("call_2"), output("call_2"), output("call_1")]);
    assert_eq!(post(&strict().await, &ask(items)).await.status, 200);
}

#[tokio::test]
async fn an_item_id_comes_once() {
    let item = json!({"type": "message", "role": "assistant", "id": "msg_1", "content": []});
    let message = "Duplicate item found with id msg_1. Remove duplicate items from your input and try again.";
    refused_items(json!([item, user("x"), item]), None, Some("input"), 400, message).await;
}

#[tokio::test]
async fn ids_of_output_items_and_unknown_items_pass() {
    let content = json!([{"type": "output_text", "text": "hi", "annotations": []}]);
    let message = json!({"type": "message", "role": "assistant", "id": "msg_x", "status": "completed", "content": content});
    let odd = json!({"type": "from_the_future", "id": "ff_1", "size": 1});
    let items = json!([user("x"), message, odd, {"role": "user", "content": "plain"}]);
    assert_eq!(post(&strict().await, &ask(items)).await.status, 200);
}

#[tokio::test]
async fn a_model_may_refuse_encrypted_content() {
    let options = Options { no_encrypted_models: vec![String::from("sim")], ..Options::default() };
    let simulator = simulator(options).await;
    let mut request = ask("x");
    request["include"] = json!(["reasoning.encrypted_content"]);
    let message = "Encrypted content is not supported with this model.";
    post(&simulator, &request).await.assert_refused(400, None, Some("include"), message);
    request["model"] = json!("gpt-5.4");
    assert_eq!(post(&simulator, &request).await.status, 200);
}

#[tokio::test]
async fn models_that_are_not_listed_may_be_refused() {
    let simulator = simulator(Options { listed_models_only: true, ..Options::default() }).await;
    let mut request = ask("x");
    assert_eq!(post(&simulator, &request).await.status, 200);
    request["model"] = json!("other");
    let message = "The model 'other' does not exist or you do not have access to it.";
    post(&simulator, &request).await.assert_refused(404, Some("model_not_found"), Some("model"), message);
}

#[tokio::test]
async fn a_wrong_key_is_refused_and_the_right_one_is_not() {
    let wrong = simulator(Options { api_key: Some(String::from("sk-other")), ..Options::default() }).await;
    let reply = post(&wrong, &ask("x")).await;
    let message = "Incorrect API key provided: sk-r****. You can find your API key at \
                   https://platform.openai.com/account/api-keys.";
    reply.assert_refused(401, Some("invalid_api_key"), None, message);
    let right = simulator(Options { api_key: Some(String::from("sk-right")), ..Options::default() }).await;
    assert_eq!(post(&right, &ask("x")).await.status, 200);
}

#[tokio::test]
async fn a_rejected_turn_uses_up_no_script() {
    let simulator = strict().await;
    simulator.script(Script::answer("kept"));
    assert_eq!(post(&simulator, &ask(json!([output("call_1")]))).await.status, 400);
    assert_eq!(post(&simulator, &ask("x")).await.output_text(), "kept");
}

#[tokio::test]
async fn a_lenient_upstream_rejects_none_of_them() {
    let simulator = simulator(Options { strict: false, ..Options::default() }).await;
    let request = json!({"input": [output("call_1")], "generate": true, "previous_response_id": "resp_1"});
    assert_eq!(post(&simulator, &request).await.status, 200);
}

#[tokio::test]
async fn items_written_by_a_test_can_carry_readable_content() {
    let simulator = strict().await;
    let compaction =
        json!({"type": "compaction", "id": "cmp_1", "encrypted_content": simulator.encrypted_content()});
    assert_eq!(post(&simulator, &ask(json!([compaction, user("x")]))).await.status, 200);
}
