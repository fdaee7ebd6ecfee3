//! An upstream that stores responses.

use crate::support::{ask, post, simulator, user};
use antiphon_simulator::upstream::{Options, Script, Simulator};
use serde_json::{Value, json};

async fn stateful() -> Simulator {
    simulator(Options { stateful: true, ..Options::default() }).await
}

fn continuing(parent: &Value, input: impl Into<Value>) -> Value {
    json!({"model": "sim", "previous_response_id": parent["id"], "input": input.into()})
}

#[tokio::test]
async fn a_chain_continues_with_its_open_call() {
    let simulator = stateful().await;
    simulator.script(Script::answer("one")).script(Script::new().tool_call_as("call_1", "f", "{}"));
    let first = post(&simulator, &json!({"model": "sim", "input": "x"})).await.json();
    let second = post(&simulator, &continuing(&first, "y")).await.json();
    assert_eq!(second["previous_response_id"], first["id"]);
    let output = json!([{"type": "function_call_output", "call_id": "call_1", "output": "done"}]);
    assert_eq!(post(&simulator, &continuing(&second, output)).await.status, 200);
    let unanswered = post(&simulator, &continuing(&second, "z")).await;
    assert_eq!(unanswered.json()["error"]["message"], "No tool output found for function call call_1.");
}

#[tokio::test]
async fn what_is_not_stored_cannot_be_continued() {
    let simulator = stateful().await;
    let first = post(&simulator, &ask("x")).await.json();
    let reply = post(&simulator, &continuing(&first, "y")).await;
    assert_eq!(reply.json()["error"]["code"], "previous_response_not_found");
}

#[tokio::test]
async fn references_find_kept_items() {
    let simulator = stateful().await;
    let first = post(&simulator, &json!({"model": "sim", "input": "x"})).await.json();
    let reference = json!({"type": "item_reference", "id": first["output"][0]["id"]});
    let request = json!({"model": "sim", "input": [user("x"), reference, user("y")]});
    assert_eq!(post(&simulator, &request).await.status, 200);
    let unknown = json!({"model": "sim", "input": [{"type": "item_reference", "id": "msg_unknown"}]});
    assert_eq!(post(&simulator, &unknown).await.status, 404);
}

#[tokio::test]
async fn kept_reasoning_needs_no_encrypted_content() {
    let simulator = stateful().await;
    let first = post(&simulator, &json!({"model": "sim", "input": "REASON"})).await.json();
    assert_eq!(first["output"][0]["type"], "reasoning");
    assert_eq!(post(&simulator, &continuing(&first, "y")).await.status, 200);
    let sent_back =
        json!({"model": "sim", "input": [user("x"), first["output"][0], first["output"][1], user("y")]});
    assert_eq!(post(&simulator, &sent_back).await.status, 200);
}
