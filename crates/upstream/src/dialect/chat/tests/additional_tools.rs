//! Tools that items of the context add to those of the request.

use std::time::{Duration, Instant};

use super::*;

fn adding(tools: impl Into<Value>) -> Value {
    json!({"type": "additional_tools", "role": "developer", "tools": tools.into()})
}

fn function(name: &str, description: &str) -> Value {
    json!({"type": "function", "name": name, "description": description})
}

fn within(namespace: &str, tools: impl Into<Value>) -> Value {
    json!({"type": "namespace", "name": namespace, "description": "d", "tools": tools.into()})
}

/// What Codex sends: no `tools`, but an item with all of them.
fn of_codex() -> Value {
    json!({"model": "m", "input": [
        adding([
            within("functions", [
                json!({"type": "custom", "name": "exec", "description": "runs code", "format": {"type": "grammar", "syntax": "lark", "definition": "start: A"}}),
                function("wait", "waits"),
            ]),
            json!({"type": "shell", "environment": {"type": "local"}}),
            json!({"type": "apply_patch"}),
            function("plain", "p"),
        ]),
        {"role": "user", "content": "x"},
    ]})
}

fn tools_after(history: &[Value], request: &Value) -> Vec<(String, String)> {
    let encoded = try_encode_after(history, ChatSettings::default(), request).unwrap();
    let chat: Value = serde_json::from_slice(&encoded.parts.concat()).unwrap();
    let text = |tool: &Value, member: &str| tool["function"][member].as_str().unwrap().to_owned();
    let tools = chat["tools"].as_array().unwrap().iter();
    tools.map(|tool| (text(tool, "name"), text(tool, "description"))).collect()
}

fn refused_param(settings: ChatSettings, request: &Value) -> Option<String> {
    try_encode(settings, request).unwrap_err().param.map(Into::into)
}

#[test]
fn the_tools_of_an_item_are_tools_of_the_request_and_it_is_no_message() {
    let encoded = try_encode(ChatSettings::default(), &of_codex()).unwrap();
    assert!(encoded.omitted.is_empty(), "{:?}", encoded.omitted);
    let chat: Value = serde_json::from_slice(&encoded.parts.concat()).unwrap();
    assert_eq!(chat["messages"], json!([{"role": "user", "content": "x"}]));
    let names: Vec<_> =
        chat["tools"].as_array().unwrap().iter().map(|tool| &tool["function"]["name"]).collect();
    assert_eq!(names, ["functions__exec", "functions__wait", "shell", "apply_patch", "plain"]);
    let exec = &chat["tools"][0]["function"];
    assert_eq!(exec["description"], "runs code\n\nThe input must match this lark grammar:\nstart: A");
}

#[test]
fn calls_of_tools_that_an_item_added_come_back_as_what_the_client_knows() {
    let call = |name: &str, arguments: Value| json!({"id": name, "function": {"name": name, "arguments": arguments.to_string()}});
    let called = json!({"tool_calls": [
        call("functions__exec", json!({"input": "1+1"})),
        call("functions__wait", json!({})),
        call("shell", json!({"commands": ["ls"]})),
    ]});
    let events = decoded_as(ChatSettings::default(), &of_codex(), vec![called], "tool_calls");
    let items = output(&events);
    let shown = |place: usize| {
        let item = &items[place];
        json!([item["type"], item["namespace"], item["name"]])
    };
    assert_eq!(shown(0), json!(["custom_tool_call", "functions", "exec"]));
    assert_eq!(shown(1), json!(["function_call", "functions", "wait"]));
    assert_eq!(shown(2), json!(["shell_call", null, null]));
}

#[test]
fn what_a_search_for_tools_has_found_can_be_called() {
    let found = json!({"type": "tool_search_output", "call_id": "c", "execution": "client", "status": "completed", "tools": [within("ns", [function("f", "d")])]});
    let encoded = try_encode(ChatSettings::default(), &json!({"model": "m", "input": [found]})).unwrap();
    let chat: Value = serde_json::from_slice(&encoded.parts.concat()).unwrap();
    assert_eq!(chat["tools"][0]["function"]["name"], "ns__f");
    assert!(encoded.omitted.is_empty(), "{:?}", encoded.omitted);
}

#[test]
fn a_tool_that_an_item_added_can_be_chosen() {
    for (choice, name) in [
        (json!({"type": "custom", "name": "exec"}), "functions__exec"),
        (json!({"type": "function", "name": "wait", "namespace": "functions"}), "functions__wait"),
        (json!({"type": "apply_patch"}), "apply_patch"),
        (
            json!({"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "plain"}]}),
            "plain",
        ),
    ] {
        let mut request = of_codex();
        request["tool_choice"] = choice;
        let chat = encoded(ChatSettings::default(), &request);
        assert_eq!((chat["tools"].as_array().unwrap().len(), &chat["tool_choice"]), (1, &json!("required")));
        assert_eq!(chat["tools"][0]["function"]["name"], name);
    }
}

#[test]
fn of_several_definitions_of_a_tool_the_latest_is_sent() {
    let history = [
        adding([function("h", "old"), function("both", "old"), within("ns", [function("f", "old")])]),
        json!({"role": "user", "content": "a"}),
        adding([function("h", "new"), json!({"type": "web_search"})]),
    ];
    let request = json!({"model": "m", "tools": [function("own", "old"), function("both", "new")], "input": [
        adding([function("own", "new"), within("ns", [function("f", "new")]), function("f", "plain")]),
        {"role": "user", "content": "b"},
    ]});
    let expected = [("both", "new"), ("h", "new"), ("ns__f", "new"), ("own", "new"), ("f", "plain")];
    let expected = expected.map(|(name, description)| (name.to_owned(), description.to_owned()));
    assert_eq!(tools_after(&history, &request), expected);
}

#[test]
fn the_next_turn_of_a_chain_gets_the_tools_in_the_same_order() {
    let item = adding([function("b", "d"), function("c", "d")]);
    let request = |input: Value| json!({"model": "m", "tools": [function("a", "d")], "input": input});
    let first = tools_after(&[], &request(json!([item])));
    assert_eq!(first.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(tools_after(&[item], &request(json!("x"))), first);
}

#[test]
fn a_hosted_tool_that_an_item_adds_is_left_out_or_rejected_like_any_other() {
    let mut request =
        json!({"model": "m", "input": [adding([json!({"type": "web_search"}), function("f", "d")])]});
    assert_eq!(try_encode(ChatSettings::default(), &request).unwrap().omitted, ["web_search"]);
    let strict = ChatSettings { unsupported_tools: UnsupportedTools::Reject, ..ChatSettings::default() };
    assert_eq!(refused_param(strict, &request).as_deref(), Some("input"));
    request["tool_choice"] = json!({"type": "web_search"});
    assert_eq!(refused_param(ChatSettings::default(), &request).as_deref(), Some("input"));
    let asking = json!({"model": "m", "input": [adding([json!({"type": "mcp", "server_label": "s"})])]});
    assert_eq!(refused_param(ChatSettings::default(), &asking).as_deref(), Some("input"));
}

#[test]
fn an_item_without_tools_adds_none() {
    for tools in [json!(null), json!({}), json!("x"), json!([]), json!([7, [], {"type": "function"}])] {
        let mut request = request();
        request["input"] = json!([adding(tools), {"type": "additional_tools"}]);
        let encoded = try_encode(ChatSettings::default(), &request).unwrap();
        assert!(encoded.omitted.is_empty(), "{:?}", encoded.omitted);
        assert!(!String::from_utf8_lossy(&encoded.parts.concat()).contains("tools"));
    }
}

#[test]
fn very_many_items_that_add_the_same_tools_take_no_longer_than_as_many_messages() {
    const ITEMS: usize = 40_000;
    let took = |item: Value| {
        let request = json!({"model": "m", "input": vec![item; ITEMS]});
        let started = Instant::now();
        let size = try_encode(ChatSettings::default(), &request).unwrap().parts.concat().len();
        (started.elapsed(), size)
    };
    let (messages, _) = took(json!({"role": "user", "content": "x"}));
    let (added, size) = took(adding([within("ns", [function("f", "d")]), json!({"type": "shell"})]));
    assert!(added < messages * 20 + Duration::from_secs(1), "{added:?}, and {messages:?} for messages");
    assert!(size < 2_000, "{size}");
}
