//! A context that becomes a chat and comes back from it.

use proptest::prelude::*;

use super::*;

fn text() -> impl Strategy<Value = String> {
    "[a-z<>/\"\\\\ \n\u{e9}\u{1f600}]{1,6}"
}

/// The calls of one turn, without their ids: what the model may call, with any text.
fn call() -> impl Strategy<Value = Value> {
    prop_oneof![
        text().prop_map(|text| json!({"type": "function_call", "name": "f", "arguments": json!({"a": text}).to_string()})),
        text().prop_map(|text| json!({"type": "function_call", "name": "f", "namespace": "n", "arguments": json!({"b": text}).to_string()})),
        text().prop_map(|text| json!({"type": "custom_tool_call", "name": "patch", "input": text})),
        text().prop_map(|text| json!({"type": "shell_call", "action": {"commands": [text], "timeout_ms": null, "max_output_length": null}})),
    ]
}

/// A user's message, what the model makes of it, and the outputs of the tools that it calls.
fn turn() -> impl Strategy<Value = Vec<Value>> {
    let calls = proptest::collection::vec((call(), text()), 0..4);
    let written = (proptest::option::of(text()), proptest::option::of(text()));
    (text(), written, calls, any::<u64>()).prop_map(|(asked, (thought, answer), calls, id)| {
        let mut items = vec![json!({"type": "message", "role": "user", "content": asked})];
        // Reasoning goes with what follows it.
        let thought = thought.filter(|_| answer.is_some() || !calls.is_empty());
        items.extend(thought.map(|text| json!({"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": text}]})));
        items.extend(answer.map(|text| json!({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]})));
        let mut outputs = Vec::new();
        for (number, (mut call, output)) in calls.into_iter().enumerate() {
            let call_id = format!("call_{id}_{number}");
            call["call_id"] = json!(call_id);
            let kind = format!("{}_output", call["type"].as_str().unwrap());
            outputs.push(json!({"type": kind, "call_id": call_id, "output": output}));
            items.push(call);
        }
        items.into_iter().chain(outputs.into_iter().rev()).collect()
    })
}

/// What an item says, apart from what the gateway adds.
fn told(item: &Value) -> Value {
    let kind = item["type"].as_str().unwrap_or_default();
    let content = item["content"].as_str().or(item["content"][0]["text"].as_str());
    match kind {
        _ if kind.ends_with("_output") => json!(["output", item["call_id"], item["output"]]),
        "message" => json!([item["role"], content]),
        "reasoning" => json!(["reasoning", content]),
        _ => json!([
            kind,
            item["call_id"],
            item["name"],
            item["namespace"],
            item["arguments"],
            item["input"],
            item["action"]
        ]),
    }
}

/// What the messages of a chat say once the model's have come back as a stream.
fn told_back(chat: &Value, request: &Value) -> Vec<Value> {
    let mut told_all = Vec::new();
    for message in chat["messages"].as_array().unwrap() {
        match message["role"].as_str().unwrap() {
            "tool" => told_all.push(json!(["output", message["tool_call_id"], message["content"]])),
            "assistant" => {
                let mut deltas = vec![
                    json!({"reasoning_content": message["reasoning_content"], "content": message["content"]}),
                ];
                for (index, call) in message["tool_calls"].as_array().into_iter().flatten().enumerate() {
                    let mut call = call.clone();
                    call["index"] = json!(index);
                    deltas.push(json!({"tool_calls": [call]}));
                }
                let events = decoded_as(ChatSettings::default(), request, deltas, "stop");
                told_all.extend(output(&events).as_array().unwrap().iter().map(told));
            }
            role => told_all.push(json!([role, message["content"]])),
        }
    }
    told_all
}

proptest! {
    #[test]
    fn a_chain_comes_back_from_a_chat_with_all_that_was_said_in_its_order(turns in proptest::collection::vec(turn(), 0..6)) {
        let items: Vec<Value> = turns.into_iter().flatten().collect();
        let tools = json!([
            {"type": "function", "name": "f", "parameters": null, "strict": null}, {"type": "custom", "name": "patch"}, {"type": "shell"},
            {"type": "namespace", "name": "n", "description": "d", "tools": [{"type": "function", "name": "f"}]},
        ]);
        let request = json!({"model": "m", "input": items.clone(), "tools": tools});
        let chat = encoded(ChatSettings::default(), &request);
        prop_assert_eq!(told_back(&chat, &request), items.iter().map(told).collect::<Vec<_>>());
    }
}
