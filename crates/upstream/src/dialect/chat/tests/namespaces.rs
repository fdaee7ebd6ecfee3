//! Tools in namespaces, which a chat does not have.

use super::*;

fn asked(choice: impl Into<Value>) -> Value {
    json!({"model": "m", "input": "x", "tool_choice": choice.into(), "tools": [
        {"type": "namespace", "name": "ns", "description": "d", "tools": [
            {"type": "function", "name": "f1", "parameters": {"type": "object"}},
            {"type": "custom", "name": "cu", "description": "writes"},
        ]},
        {"type": "function", "name": "f2"},
        {"type": "web_search"},
    ]})
}

fn openai() -> ChatSettings {
    ChatSettings { is_openai: true, ..ChatSettings::default() }
}

fn tool_names(chat: &Value) -> Vec<&str> {
    chat["tools"].as_array().unwrap().iter().map(|tool| tool["function"]["name"].as_str().unwrap()).collect()
}

#[test]
fn a_custom_tool_in_a_namespace_takes_its_input_and_comes_back_as_its_call() {
    let request = asked("auto");
    let chat = encoded(ChatSettings::default(), &request);
    assert_eq!(tool_names(&chat), ["ns__f1", "ns__cu", "f2"]);
    let custom = &chat["tools"][1]["function"];
    assert_eq!(
        json!([custom["description"], custom["parameters"]["required"]]),
        json!(["writes", ["input"]])
    );
    let called = json!({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "ns__cu", "arguments": "{\"input\":\"hi\"}"}}]});
    let events = decoded_as(ChatSettings::default(), &request, vec![called], "tool_calls");
    let item = output(&events)[0].clone();
    assert_eq!(
        json!([item["type"], item["name"], item["namespace"], item["input"]]),
        json!(["custom_tool_call", "cu", "ns", "hi"])
    );
    let mut next = asked("auto");
    next["input"] = json!([item, {"type": "custom_tool_call_output", "call_id": "c", "output": "ok"}]);
    let sent = encoded(ChatSettings::default(), &next);
    assert_eq!(sent["messages"][0]["tool_calls"][0]["function"]["name"], "ns__cu");
}

#[test]
fn a_tool_in_a_namespace_can_be_chosen() {
    for choice in [
        json!({"type": "function", "name": "f1"}),
        json!({"type": "function", "name": "f1", "namespace": "ns"}),
    ] {
        let chat = encoded(openai(), &asked(choice.clone()));
        assert_eq!(chat["tool_choice"]["function"]["name"], "ns__f1");
        let chat = encoded(ChatSettings::default(), &asked(choice));
        assert_eq!((tool_names(&chat), &chat["tool_choice"]), (vec!["ns__f1"], &json!("required")));
    }
    let allowed = json!({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "custom", "name": "cu"}, {"type": "function", "name": "f2"}]});
    assert_eq!(tool_names(&encoded(openai(), &asked(allowed))), ["ns__cu", "f2"]);
}

#[test]
fn a_choice_among_none_of_the_tools_is_the_fault_of_the_choice() {
    for (tool, param) in [
        (json!({"type": "function", "name": "other"}), "tool_choice"),
        (json!({"type": "web_search"}), "tools[2]"),
    ] {
        let choice = json!({"type": "allowed_tools", "mode": "required", "tools": [tool]});
        let error = try_encode(ChatSettings::default(), &asked(choice)).unwrap_err();
        assert_eq!(error.param.as_deref(), Some(param));
    }
}

#[test]
fn tools_whose_flat_names_are_the_same_get_names_of_their_own() {
    let plain = json!({"type": "function", "name": "a__b"});
    let first = json!({"type": "namespace", "name": "a", "description": "d", "tools": [{"type": "function", "name": "b"}, {"type": "custom", "name": "b__c"}]});
    let second = json!({"type": "namespace", "name": "a__b", "description": "d", "tools": [{"type": "function", "name": "c"}]});
    let expected =
        [(&first, vec!["a__b_2", "a__b__c"]), (&plain, vec!["a__b"]), (&second, vec!["a__b__c_2"])];
    for order in [[0, 1, 2], [1, 0, 2]] {
        let tools = order.map(|place| expected[place].0);
        let names: Vec<_> = order.iter().flat_map(|place| expected[*place].1.clone()).collect();
        let mut request = json!({"model": "m", "input": "x", "tools": tools});
        assert_eq!(tool_names(&encoded(ChatSettings::default(), &request)), names);
        for (name, own) in [
            ("a__b", json!(["function_call", null, "a__b"])),
            ("a__b_2", json!(["function_call", "a", "b"])),
            ("a__b__c", json!(["custom_tool_call", "a", "b__c"])),
            ("a__b__c_2", json!(["function_call", "a__b", "c"])),
        ] {
            request["input"] = json!("x");
            let called = json!({"tool_calls": [{"index": 0, "id": "c", "function": {"name": name, "arguments": "{\"input\":\"hi\"}"}}]});
            let events = decoded_as(ChatSettings::default(), &request, vec![called], "tool_calls");
            let item = output(&events)[0].clone();
            assert_eq!(json!([item["type"], item["namespace"], item["name"]]), own, "{name}");
            request["input"] = json!([item]);
            let sent = encoded(ChatSettings::default(), &request);
            assert_eq!(sent["messages"][0]["tool_calls"][0]["function"]["name"], name);
        }
    }
    let choice = json!({"type": "function", "name": "b", "namespace": "a"});
    let request = json!({"model": "m", "input": "x", "tools": [first, plain], "tool_choice": choice});
    assert_eq!(tool_names(&encoded(ChatSettings::default(), &request)), ["a__b_2"]);
}

/// A namespace and a tool of Codex: 66 bytes as one name.
const LONG: (&str, &str) = ("mcp__codex_apps__codex_document_control", "_execute_document_command");

fn long_tools() -> Value {
    let plain = "p".repeat(100);
    json!({"model": "m", "input": "x", "tools": [
        {"type": "namespace", "name": LONG.0, "description": "d", "tools": [
            {"type": "function", "name": LONG.1},
            {"type": "custom", "name": LONG.1.repeat(3)},
        ]},
        {"type": "function", "name": plain},
        {"type": "custom", "name": format!("{plain}c")},
        {"type": "function", "name": "n".repeat(64)},
    ]})
}

#[test]
fn a_name_that_is_too_long_for_servers_is_its_ends_and_a_hash() {
    let chat = encoded(ChatSettings::default(), &long_tools());
    let names = tool_names(&chat);
    assert_eq!(names[0], "mcp__codex_apps_ac78f132_ment_control___execute_document_command");
    assert_eq!(names[4], "n".repeat(64));
    for name in names {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
        assert!(name.len() <= 64 && name.bytes().all(is_plain), "{name}");
    }
}

#[test]
fn calls_of_tools_with_long_names_come_back_by_the_names_that_the_client_gave() {
    let mut request = long_tools();
    let chat = encoded(ChatSettings::default(), &request);
    for (place, own) in [
        json!(["function_call", LONG.0, LONG.1]),
        json!(["custom_tool_call", LONG.0, LONG.1.repeat(3)]),
        json!(["function_call", null, "p".repeat(100)]),
        json!(["custom_tool_call", null, "p".repeat(100) + "c"]),
        json!(["function_call", null, "n".repeat(64)]),
    ]
    .into_iter()
    .enumerate()
    {
        let name = &chat["tools"][place]["function"]["name"];
        let called = json!({"tool_calls": [{"index": 0, "id": "c", "function": {"name": name, "arguments": "{\"input\":\"hi\"}"}}]});
        request["input"] = json!("x");
        let events = decoded_as(ChatSettings::default(), &request, vec![called], "tool_calls");
        let item = output(&events)[0].clone();
        assert_eq!(json!([item["type"], item["namespace"], item["name"]]), own);
        // With its tool and without it: the model sees one name.
        request["input"] = json!([item]);
        for request in [request.clone(), json!({"model": "m", "input": [item]})] {
            let sent = encoded(ChatSettings::default(), &request);
            assert_eq!(&sent["messages"][0]["tool_calls"][0]["function"]["name"], name);
        }
        request["tool_choice"] =
            json!({"type": "function", "name": item["name"], "namespace": item["namespace"]});
        assert_eq!(tool_names(&encoded(ChatSettings::default(), &request)), [name.as_str().unwrap()]);
        request["tool_choice"] = json!("auto");
    }
}

#[test]
fn a_number_that_tells_names_apart_does_not_make_them_too_long() {
    let taken = format!("a__{}", "b".repeat(61));
    let tools = json!([
        {"type": "function", "name": taken},
        {"type": "namespace", "name": "a", "description": "d", "tools": [{"type": "function", "name": "b".repeat(61)}]},
    ]);
    let chat = encoded(ChatSettings::default(), &json!({"model": "m", "input": "x", "tools": tools}));
    let names = tool_names(&chat);
    assert_eq!((names[0], names[1].len(), &names[1][62..]), (taken.as_str(), 64, "_2"));
}
