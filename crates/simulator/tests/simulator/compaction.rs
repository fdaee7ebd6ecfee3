//! The endpoints below `…/responses`: compacting a context, and counting its tokens.

use crate::support::{post, post_below, simulator, user};
use antiphon_simulator::upstream::{Options, Script};
use serde_json::json;

#[tokio::test]
async fn a_compacted_context_has_the_users_messages_and_can_be_sent_back() {
    let simulator = simulator(Options::default()).await;
    let request = json!({"model": "sim", "input": [user("one"), {"role": "assistant", "content": "two"}]});
    let compacted = post_below(&simulator, "compact", &request).await.json();
    assert_eq!(compacted["object"], "response.compaction");
    assert!(compacted["id"].as_str().unwrap().starts_with("resp_") && compacted["created_at"].is_u64());
    assert!(compacted["usage"]["total_tokens"].as_u64().unwrap() > 0);
    let output = compacted["output"].as_array().unwrap();
    assert_eq!(output.len(), 2);
    assert_eq!(output[0]["content"][0]["text"], "one");
    assert_eq!(output[1]["type"], "compaction");
    assert!(output[1]["id"].as_str().unwrap().starts_with("cmp_"));
    let next = json!({"model": "sim", "store": false, "input": [output[0], output[1], user("on")]});
    assert_eq!(post(&simulator, &next).await.status, 200);
}

#[tokio::test]
async fn compaction_items_are_read_inside_their_boundary_only() {
    let elsewhere = simulator(Options { boundary: "org-2".to_owned(), ..Options::default() }).await;
    let here = simulator(Options::default()).await;
    let request = json!({"model": "sim", "input": "one"});
    let compacted = post_below(&elsewhere, "compact", &request).await.json();
    let next = json!({"model": "sim", "store": false, "input": compacted["output"]});
    let refused = post(&here, &next).await;
    assert_eq!(refused.json()["error"]["code"], "invalid_encrypted_content");
}

#[tokio::test]
async fn tokens_are_counted_over_all_items() {
    let simulator = simulator(Options::default()).await;
    let count = async |input: serde_json::Value| {
        let counted = post_below(&simulator, "input_tokens", &json!({"model": "sim", "input": input})).await;
        assert_eq!(counted.json()["object"], "response.input_tokens");
        counted.json()["input_tokens"].as_u64().unwrap()
    };
    let one = count(json!([user("one")])).await;
    assert!(one > 0 && count(json!([user("one"), user("two")])).await == 2 * one);
    simulator.script(Script::new().usage(42, 0));
    assert_eq!(count(json!("x")).await, 42);
}

#[tokio::test]
async fn members_of_other_endpoints_are_refused() {
    let simulator = simulator(Options::default()).await;
    for endpoint in ["compact", "input_tokens"] {
        for field in ["store", "stream", "background", "include", "generate", "stream_id"] {
            let mut request = json!({"model": "sim", "input": "x"});
            request[field] = json!(true);
            let message = format!("Unknown parameter: '{field}'.");
            let refused = post_below(&simulator, endpoint, &request).await;
            refused.assert_refused(400, Some("unknown_parameter"), Some(field), &message);
        }
    }
    let message = "Missing required parameter: 'model'.";
    let refused = post_below(&simulator, "compact", &json!({"input": "x"})).await;
    refused.assert_refused(400, Some("missing_required_parameter"), Some("model"), message);
    let unknown = json!({"model": "sim", "previous_response_id": "resp_x"});
    let message = "Previous response with id 'resp_x' not found.";
    for endpoint in ["compact", "input_tokens"] {
        let refused = post_below(&simulator, endpoint, &unknown).await;
        let (code, param) = (Some("previous_response_not_found"), Some("previous_response_id"));
        refused.assert_refused(400, code, param, message);
    }
}
