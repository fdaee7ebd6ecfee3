//! The request map.

use std::time::{Duration, Instant};

use super::*;

fn messages(items: impl Into<Value>) -> Value {
    let items: Value = items.into();
    encoded(ChatSettings::default(), &json!({"model": "m", "input": items}))["messages"].clone()
}

fn rejected(request: impl Into<Value>) -> (Option<String>, Option<String>) {
    let error = try_encode(ChatSettings::default(), &request.into()).unwrap_err();
    (error.code.map(Into::into), error.param.map(Into::into))
}

fn user(text: &str) -> Value {
    json!({"role": "user", "content": text})
}

#[test]
fn instructions_and_messages_keep_their_order_and_their_roles() {
    let chat = encoded(
        ChatSettings::default(),
        &json!({"model": "m", "stream": true, "instructions": "be brief", "input": [
            {"role": "developer", "content": "d"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a\u{e9}"}, {"type": "input_text", "text": "b"}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "c", "annotations": []}]},
        ]}),
    );
    assert_eq!(
        chat,
        json!({"model": "m", "stream": true, "stream_options": {"include_usage": true}, "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "system", "content": "d"},
            {"role": "user", "content": "a\u{e9}\nb"},
            {"role": "assistant", "content": "c"},
        ]})
    );
}

#[test]
fn calls_with_the_text_and_reasoning_before_them_are_one_message_and_outputs_follow_it() {
    let call =
        |id: &str| json!({"type": "function_call", "call_id": id, "name": "f", "arguments": "{\"a\":1}"});
    let output =
        |id: &str, text: &str| json!({"type": "function_call_output", "call_id": id, "output": text});
    let sent =
        |id: &str| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}});
    let tool = |id: &str, text: &str| json!({"role": "tool", "tool_call_id": id, "content": text});
    let thought =
        json!({"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]});
    let said = |text: &str| json!({"type": "message", "role": "assistant", "content": text});
    assert_eq!(
        messages(json!([
            user("x"),
            thought,
            said("wait"),
            call("1"),
            call("2"),
            said("late"),
            output("2", "two"),
            output("1", "one"),
            call("3"),
            output("3", "three"),
            user("y")
        ])),
        json!([
            user("x"),
            {"role": "assistant", "content": "wait", "reasoning_content": "hm", "reasoning": "hm", "tool_calls": [sent("1"), sent("2")]},
            tool("2", "two"),
            tool("1", "one"),
            {"role": "assistant", "content": "late", "tool_calls": [sent("3")]},
            tool("3", "three"),
            user("y"),
        ])
    );
    assert_eq!(
        rejected(json!({"model": "m", "input": [output("9", "x")]})),
        (None, Some("input".to_owned()))
    );
}

#[test]
fn of_several_outputs_of_one_call_the_last_is_sent() {
    let output =
        |id: &str, output: Value| json!({"type": "function_call_output", "call_id": id, "output": output});
    let image =
        |url: &str| json!([{"type": "input_text", "text": url}, {"type": "input_image", "image_url": url}]);
    let call = |id: &str| json!({"type": "function_call", "call_id": id, "name": "f", "arguments": "{}"});
    let sent = messages(json!([
        call("1"),
        call("2"),
        output("1", json!("early")),
        output("2", image("data:a")),
        user("x"),
        output("1", json!("late")),
        output("2", image("data:b")),
    ]));
    let tool = |id: &str, text: &str| json!({"role": "tool", "tool_call_id": id, "content": text});
    let attached = json!([{"type": "image_url", "image_url": {"url": "data:b"}}]);
    let expected = [tool("1", "late"), tool("2", "data:b"), json!({"role": "user", "content": attached})];
    assert_eq!(sent.as_array().unwrap()[1..4], expected);
    assert_eq!(sent.as_array().unwrap().len(), 5);
}

#[test]
fn the_calls_of_other_tools_are_functions_and_what_the_past_did_is_left_out() {
    let sent = messages(json!([
        user("x"),
        {"type": "custom_tool_call", "call_id": "1", "name": "apply", "input": "a\n\"b\""},
        {"type": "custom_tool_call_output", "call_id": "1", "output": "done"},
        {"type": "local_shell_call", "call_id": "2", "action": {"type": "exec", "command": ["ls"], "env": {}}, "status": "completed"},
        {"type": "function_call_output", "call_id": "2", "output": [{"type": "input_text", "text": "o"}, {"type": "input_image", "image_url": "data:x", "detail": "low"}]},
        {"type": "web_search_call", "id": "ws", "status": "completed"},
        {"type": "shell_call", "call_id": "3", "action": {"commands": ["ls"]}},
        {"type": "shell_call_output", "call_id": "3", "output": [{"stdout": "a", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}}]},
    ]));
    let arguments = |at: usize| -> Value {
        serde_json::from_str(sent[at]["tool_calls"][0]["function"]["arguments"].as_str().unwrap()).unwrap()
    };
    assert_eq!(arguments(1), json!({"input": "a\n\"b\""}));
    assert_eq!(arguments(3)["command"], json!(["ls"]));
    assert_eq!(sent[4]["content"], "o");
    assert_eq!(
        sent[5],
        json!({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x", "detail": "low"}}]})
    );
    assert_eq!(sent[6]["tool_calls"][0]["function"]["name"], "shell");
    assert!(sent[7]["content"].as_str().unwrap().contains("\"stdout\":\"a\""));
}

#[test]
fn images_and_files_go_inline_or_not_at_all() {
    let content = json!([{"type": "input_text", "text": "see"}, {"type": "input_image", "image_url": "data:i"}, {"type": "input_file", "file_data": "data:f", "filename": "a.pdf"}]);
    assert_eq!(
        messages(json!([{"role": "user", "content": content}]))[0]["content"],
        json!([{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "data:i"}}, {"type": "file", "file": {"file_data": "data:f", "filename": "a.pdf"}}])
    );
    for part in [
        json!({"type": "input_image", "file_id": "file_1"}),
        json!({"type": "input_file", "file_url": "https://a/b"}),
        json!({"type": "odd"}),
    ] {
        let refused = rejected(json!({"model": "m", "input": [{"role": "user", "content": [part]}]}));
        assert_eq!(refused.0.as_deref(), Some("unsupported_parameter"));
    }
    let of_assistant = json!([{"role": "assistant", "content": content}]);
    let refused = rejected(json!({"model": "m", "input": of_assistant}));
    assert_eq!(refused.0.as_deref(), Some("unsupported_parameter"));
}

#[test]
fn parameters_have_the_names_of_a_chat() {
    let request = json!({
        "model": "m", "input": "x", "max_output_tokens": 9, "reasoning": {"effort": "low", "summary": "auto"}, "temperature": 0.5, "top_p": 1,
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": true}, "verbosity": "low"},
        "top_logprobs": 2, "metadata": {"a": "b"}, "store": true, "include": ["reasoning.encrypted_content"], "service_tier": "auto",
        "prompt_cache_key": "k", "truncation": "auto", "user": "u", "top_k": 5, "client_metadata": {"c": "d"},
    });
    let base = json!({
        "model": "m", "messages": [user("x")], "reasoning_effort": "low", "temperature": 0.5,
        "top_p": 1, "logprobs": true, "top_logprobs": 2, "user": "u",
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": true}},
    });
    let with = |more: Value| {
        let mut all = base.clone();
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    assert_eq!(encoded(ChatSettings::default(), &request), with(json!({"max_tokens": 9, "top_k": 5})));
    let openai = ChatSettings { is_openai: true, ..ChatSettings::default() };
    let of_openai = json!({"max_completion_tokens": 9, "service_tier": "auto", "prompt_cache_key": "k", "verbosity": "low"});
    assert_eq!(encoded(openai, &request), with(of_openai));
}

#[test]
fn tools_are_functions_and_those_that_cannot_be_are_named() {
    let request = json!({"model": "m", "input": "x", "parallel_tool_calls": false, "tool_choice": "auto", "tools": [
        {"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}, "strict": null},
        {"type": "custom", "name": "apply", "description": "patches", "format": {"type": "grammar", "syntax": "lark", "definition": "start: A"}},
        {"type": "web_search"}, {"type": "web_search"}, {"type": "image_generation"}, {"type": "a b"},
        {"type": "shell", "environment": {"type": "container_auto"}},
    ]});
    let encoded = try_encode(ChatSettings::default(), &request).unwrap();
    assert_eq!(encoded.omitted, ["web_search", "image_generation", "unknown", "shell"]);
    let chat: Value = serde_json::from_slice(&encoded.parts.concat()).unwrap();
    assert_eq!(
        chat["tools"][0],
        json!({"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}})
    );
    let custom = &chat["tools"][1]["function"];
    assert_eq!(custom["description"], "patches\n\nThe input must match this lark grammar:\nstart: A");
    assert_eq!(custom["parameters"]["required"], json!(["input"]));
    assert_eq!(chat["tool_choice"], "auto");
    assert_eq!(chat["parallel_tool_calls"], false);

    let only = json!({"model": "m", "input": "x", "tools": [{"type": "web_search"}], "tool_choice": "auto", "parallel_tool_calls": true});
    let chat = super::encoded(ChatSettings::default(), &only);
    assert!(
        chat.get("tools").is_none()
            && chat.get("tool_choice").is_none()
            && chat.get("parallel_tool_calls").is_none()
    );

    let allowed =
        json!({"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]});
    let mut some = request;
    some["tool_choice"] = allowed;
    let chat = super::encoded(ChatSettings::default(), &some);
    assert_eq!((chat["tools"].as_array().unwrap().len(), &chat["tool_choice"]), (1, &json!("required")));
}

#[test]
fn the_mode_of_allowed_tools_is_one_of_three_words() {
    let allowing = |mode: Value| {
        let choice =
            json!({"type": "allowed_tools", "mode": mode, "tools": [{"type": "function", "name": "f"}]});
        json!({"model": "m", "input": "x", "tools": [{"type": "function", "name": "f"}], "tool_choice": choice})
    };
    let openai = ChatSettings { is_openai: true, ..ChatSettings::default() };
    for (mode, sent) in [("auto", "auto"), ("required", "required"), ("none", "none")] {
        assert_eq!(encoded(openai, &allowing(mode.into()))["tool_choice"], sent);
    }
    assert_eq!(encoded(openai, &allowing(Value::Null))["tool_choice"], "auto");
    for mode in [json!({"type": "allowed_tools", "mode": "auto"}), json!("any"), json!(5), json!(["auto"])] {
        let refused = rejected(allowing(mode.clone()));
        assert_eq!(refused, (Some("invalid_value".to_owned()), Some("tool_choice".to_owned())), "{mode}");
    }
}

#[test]
fn looking_for_one_of_many_tools_takes_no_longer_than_naming_them() {
    const TOOLS: usize = 40_000;
    let all = |tool: &dyn Fn(usize) -> Value| (0..TOOLS).map(tool).collect::<Vec<_>>();
    let functions = all(&|n| json!({"type": "function", "name": format!("a{n}")}));
    let choice = json!({"type": "allowed_tools", "tools": all(&|n| json!({"name": format!("b{n}")}))});
    let shells = all(&|_| json!({"type": "shell"}));
    let took = |request: Value| {
        let started = Instant::now();
        try_encode(ChatSettings::default(), &request).unwrap();
        started.elapsed()
    };
    let named = took(json!({"model": "m", "input": "x", "tools": functions}));
    let allowed = took(json!({"model": "m", "input": "x", "tools": functions, "tool_choice": choice}));
    let both = [functions, shells].concat();
    let with_shells = took(json!({"model": "m", "input": "x", "tools": both}));
    for (what, duration) in [("allowed", allowed), ("with shells", with_shells)] {
        assert!(duration < named * 10 + Duration::from_secs(1), "{what}: {duration:?}, and {named:?} alone");
    }
}

#[test]
fn what_a_chat_cannot_express_is_rejected() {
    let with = |name: &str, value: Value| {
        let mut request = json!({"model": "m", "input": "x", "tools": [{"type": "function", "name": "f"}, {"type": "web_search"}]});
        request[name] = value;
        request
    };
    for (request, param) in [
        (with("tool_choice", json!({"type": "web_search"})), "tools[1]"),
        (with("tool_choice", json!({"type": "file_search"})), "tool_choice"),
        (with("tools", json!([{"type": "mcp", "server_label": "s"}])), "tools[0]"),
        (with("tools", json!([{"type": "mcp", "require_approval": "always"}])), "tools[0]"),
        (with("prompt", json!({"id": "pmpt_1"})), "prompt"),
        (with("input", json!([{"type": "compaction", "encrypted_content": "x"}])), "input"),
    ] {
        assert_eq!(
            rejected(request.clone()),
            (Some("unsupported_parameter".to_owned()), Some(param.to_owned())),
            "{request}"
        );
    }
    assert!(
        try_encode(
            ChatSettings::default(),
            &with("tools", json!([{"type": "mcp", "require_approval": "never"}]))
        )
        .is_ok()
    );
    let strict = ChatSettings { unsupported_tools: UnsupportedTools::Reject, ..ChatSettings::default() };
    let error = try_encode(strict, &with("temperature", json!(1))).unwrap_err();
    assert_eq!(error.param.as_deref(), Some("tools[1]"));
}

#[test]
fn past_arguments_that_are_no_object_are_wrapped_for_servers_that_decode_them() {
    let request = json!({"model": "m", "input": [
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{\"cut\": \"of"},
        {"type": "function_call", "call_id": "2", "name": "f", "arguments": " {\"a\": 1}"},
        {"type": "function_call", "call_id": "3", "name": "f", "arguments": "[]"},
    ]});
    let arguments = |settings: ChatSettings| -> Vec<String> {
        let chat = encoded(settings, &request);
        let calls = chat["messages"][0]["tool_calls"].as_array().unwrap().iter();
        calls.map(|call| call["function"]["arguments"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(
        arguments(ChatSettings::default()),
        [r#"{"input":"{\"cut\": \"of"}"#, " {\"a\": 1}", r#"{"input":"[]"}"#]
    );
    let openai = ChatSettings { is_openai: true, ..ChatSettings::default() };
    assert_eq!(arguments(openai), ["{\"cut\": \"of", " {\"a\": 1}", "[]"]);
}

#[test]
fn system_messages_are_merged_for_templates_that_take_one() {
    let request = json!({"model": "m", "instructions": "be brief", "input": [
        {"role": "user", "content": "a"}, {"role": "developer", "content": "d\"\n"}, {"role": "user", "content": "b"}
    ]});
    let merging = ChatSettings { merge_system: true, ..ChatSettings::default() };
    let system = json!({"role": "system", "content": "be brief\n\nd\"\n"});
    assert_eq!(encoded(merging, &request)["messages"], json!([system, user("a"), user("b")]));
}

#[test]
fn a_forced_tool_is_named_to_openai_and_the_only_one_that_others_get() {
    let request = json!({"model": "m", "input": "x", "tool_choice": {"type": "custom", "name": "apply"}, "tools": [
        {"type": "function", "name": "f"}, {"type": "custom", "name": "apply"}
    ]});
    let chat = encoded(ChatSettings::default(), &request);
    assert_eq!(chat["tool_choice"], "required");
    assert_eq!(
        (chat["tools"].as_array().unwrap().len(), &chat["tools"][0]["function"]["name"]),
        (1, &json!("apply"))
    );
    let openai = ChatSettings { is_openai: true, ..ChatSettings::default() };
    let chat = encoded(openai, &request);
    assert_eq!(chat["tool_choice"], json!({"type": "function", "function": {"name": "apply"}}));
    assert_eq!(chat["tools"].as_array().unwrap().len(), 2);
}

#[test]
fn no_tools_are_offered_when_none_may_be_called() {
    let request = json!({"model": "m", "input": "x", "tool_choice": "none", "tools": [{"type": "function", "name": "f"}]});
    assert!(encoded(ChatSettings::default(), &request).get("tools").is_none());
    let openai = ChatSettings { is_openai: true, ..ChatSettings::default() };
    assert_eq!(encoded(openai, &request)["tool_choice"], "none");
}

#[test]
fn calls_have_what_google_takes_for_a_signature_where_one_is_demanded() {
    let request = json!({"model": "m", "input": [
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "2", "name": "g", "input": "x"},
    ]});
    let form = ChatForm { signs_calls: true, ..ChatForm::default() };
    let chat = encoded(ChatSettings { form, ..ChatSettings::default() }, &request);
    let google = json!({"google": {"thought_signature": "skip_thought_signature_validator"}});
    for call in chat["messages"][0]["tool_calls"].as_array().unwrap() {
        assert_eq!(call["extra_content"], google);
    }
    assert!(!encoded(ChatSettings::default(), &request).to_string().contains("extra_content"));
}

#[test]
fn an_answer_stands_between_an_output_and_the_user_where_one_is_demanded() {
    let image = json!({"type": "input_image", "image_url": "data:image/png;base64,eA=="});
    let call = |id: &str| json!({"type": "function_call", "call_id": id, "name": "f", "arguments": "{}"});
    let output =
        |id: &str, output: Value| json!({"type": "function_call_output", "call_id": id, "output": output});
    let user = json!({"role": "user", "content": "x"});
    let input =
        json!([user, call("1"), output("1", json!("a")), user, call("2"), output("2", json!([image]))]);
    let roles = |form: ChatForm| {
        let request =
            json!({"model": "m", "input": input, "max_output_tokens": 9, "reasoning": {"effort": "low"}});
        let chat = encoded(ChatSettings { form, ..ChatSettings::default() }, &request);
        let roles = chat["messages"].as_array().unwrap().iter();
        (
            roles.map(|message| message["role"].as_str().unwrap().to_owned()).collect::<Vec<_>>().join(" "),
            chat,
        )
    };
    let (usual, chat) = roles(ChatForm::default());
    assert_eq!(usual, "user assistant tool user assistant tool user");
    assert_eq!((&chat["max_tokens"], &chat["reasoning_effort"]), (&json!(9), &json!("low")));
    let form = ChatForm {
        answers_outputs: true,
        limits_completion: true,
        omits_effort: true,
        ..ChatForm::default()
    };
    let (answered, chat) = roles(form);
    assert_eq!(answered, "user assistant tool assistant user assistant tool assistant user");
    assert_eq!((&chat["max_completion_tokens"], &chat["max_tokens"]), (&json!(9), &Value::Null));
    assert!(chat.get("reasoning_effort").is_none());
}

#[test]
fn what_came_with_a_call_goes_back_with_that_call() {
    let extra = json!({"google": {"thought_signature": "c2lnbg=="}});
    let kept = json!({"type": "reasoning", "summary": [], "content": [], "extra_content": extra});
    let call = |id: &str| json!({"type": "function_call", "call_id": id, "name": "f", "arguments": "{}"});
    let answer = json!({"type": "message", "role": "assistant", "content": "a"});
    let request = json!({"model": "m", "input": [kept, call("1"), call("2"), kept, answer, call("3")]});
    let sent = |form: ChatForm| {
        let chat = encoded(ChatSettings { form, ..ChatSettings::default() }, &request);
        let messages = chat["messages"].as_array().unwrap().clone();
        let calls = messages.iter().filter_map(|message| message["tool_calls"].as_array()).flatten();
        calls.map(|call| call["extra_content"].clone()).collect::<Vec<_>>()
    };
    let placeholder = json!({"google": {"thought_signature": "skip_thought_signature_validator"}});
    let form = ChatForm { signs_calls: true, ..ChatForm::default() };
    assert_eq!(sent(form), [extra, placeholder.clone(), placeholder.clone()]);
    let form = ChatForm { replaces_signatures: true, ..form };
    assert_eq!(sent(form), [placeholder.clone(), placeholder.clone(), placeholder]);
    assert_eq!(sent(ChatForm::default()), [Value::Null, Value::Null, Value::Null]);
}
