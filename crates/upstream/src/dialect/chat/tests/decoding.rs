//! What upstreams send, server by server and quirk by quirk.

use super::*;

fn call(index: Value, id: Value, name: Value, arguments: Value) -> Value {
    let mut call = json!({"type": "function", "function": {}});
    let function = [("name", name), ("arguments", arguments)];
    for (member, value) in function.into_iter().filter(|(_, value)| !value.is_null()) {
        call["function"][member] = value;
    }
    for (member, value) in [("index", index), ("id", id)] {
        if !value.is_null() {
            call[member] = value;
        }
    }
    json!({"tool_calls": [call]})
}

fn calls(events: &[Value]) -> Value {
    let output = output(events);
    let calls = output.as_array().unwrap().iter().filter(|item| item["type"] == "function_call");
    calls.map(|call| json!([call["call_id"], call["name"], call["arguments"]])).collect()
}

#[test]
fn a_message_is_announced_streamed_and_finished_under_one_id() {
    let events = decoded(vec![
        json!({"role": "assistant", "content": ""}),
        json!({"content": "a\""}),
        json!({"content": "é"}),
    ]);
    assert_eq!(
        names(&events),
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
    );
    let response = &events.last().unwrap()["response"];
    assert_eq!(response["output"][0]["content"][0]["text"], "a\"é");
    assert_eq!(
        json!([response["status"], response["model"], response["id"], response["created_at"]]),
        json!(["completed", "up", "chatcmpl-1", 5])
    );
    assert!(response["completed_at"].is_i64() && events[0]["response"]["completed_at"].is_null());
}

#[test]
fn reasoning_comes_first_under_either_name_and_as_text_or_summary() {
    for name in ["reasoning_content", "reasoning"] {
        let deltas = || {
            vec![
                json!({name: "be", "content": null}),
                json!({name: "cause", "content": ""}),
                json!({"content": "so"}),
            ]
        };
        let events = decoded(deltas());
        let output = output(&events);
        assert_eq!(output[0]["content"], json!([{"type": "reasoning_text", "text": "because"}]));
        assert_eq!((&output[0]["summary"], &output[1]["content"][0]["text"]), (&json!([]), &json!("so")));
        assert_eq!(events.iter().filter(|event| event["type"] == "response.reasoning_text.delta").count(), 2);

        let summary = ChatSettings { reasoning_as: ReasoningAs::Summary, ..ChatSettings::default() };
        let events = decoded_as(summary, &request(), deltas(), "stop");
        assert_eq!(
            super::output(&events)[0]["summary"],
            json!([{"type": "summary_text", "text": "because"}])
        );
        assert!(names(&events).contains(&"response.reasoning_summary_text.delta"));
    }
}

#[test]
fn tagged_reasoning_is_told_from_text() {
    let tags = ChatSettings { think_tags: true, ..ChatSettings::default() };
    let deltas =
        vec![json!({"content": "<thi"}), json!({"content": "nk>a</think>"}), json!({"content": "\n\nb"})];
    let output = output(&decoded_as(tags, &request(), deltas.clone(), "stop"));
    assert_eq!(
        (&output[0]["content"][0]["text"], &output[1]["content"][0]["text"]),
        (&json!("a"), &json!("b"))
    );
    assert_eq!(super::output(&decoded(deltas))[0]["content"][0]["text"], "<think>a</think>\n\nb");
}

#[test]
fn calls_are_told_apart_by_index_id_and_what_servers_leave_out() {
    let null = || Value::Null;
    // Arguments in pieces, the id only at first.
    let events = decoded(vec![
        call(json!(0), json!("a"), json!("f"), json!("")),
        call(json!(0), null(), null(), json!("{\"x\"")),
        call(json!(0), null(), null(), json!(":1}")),
        call(json!(1), json!("b"), json!("g"), json!("{}")),
    ]);
    assert_eq!(calls(&events), json!([["a", "f", "{\"x\":1}"], ["b", "g", "{}"]]));
    // No index: a new id is a new call, no id belongs to the last one.
    let events = decoded(vec![
        call(null(), json!("a"), json!("f"), json!("{")),
        call(null(), null(), null(), json!("}")),
        call(null(), json!("b"), json!("f"), json!("{}")),
    ]);
    assert_eq!(calls(&events), json!([["a", "f", "{}"], ["b", "f", "{}"]]));
    // Two calls under one index.
    let events = decoded(vec![
        call(json!(0), json!("a"), json!("f"), json!("{}")),
        call(json!(0), json!("b"), json!("g"), json!("{}")),
    ]);
    assert_eq!(calls(&events), json!([["a", "f", "{}"], ["b", "g", "{}"]]));
    // The name in every fragment, and the arguments as an object.
    let events = decoded(vec![
        call(json!(0), json!("a"), json!("f"), json!("{\"a\":")),
        call(json!(0), json!("a"), json!("f"), json!("2}")),
        call(json!(1), json!("b"), json!("g"), json!({"y": "\""})),
    ]);
    assert_eq!(calls(&events), json!([["a", "f", "{\"a\":2}"], ["b", "g", "{\"y\":\"\\\"\"}"]]));
    // The name after the arguments, and no arguments at all.
    let events = decoded(vec![
        call(json!(0), json!("a"), null(), json!("{\"a\":")),
        call(json!(0), null(), json!("f"), json!("1}")),
        call(json!(1), json!("b"), json!("g"), null()),
    ]);
    assert_eq!(calls(&events), json!([["a", "f", "{\"a\":1}"], ["b", "g", "{}"]]));
    // No id anywhere: each call gets one of its own.
    let events = decoded(vec![
        call(json!(0), null(), json!("f"), json!("{}")),
        call(json!(1), null(), json!("f"), json!("{}")),
    ]);
    let calls = calls(&events);
    let ids: Vec<&str> = (0..2).map(|n| calls[n][0].as_str().unwrap()).collect();
    assert!(ids[0].starts_with("call_") && ids[0] != ids[1], "{ids:?}");
}

#[test]
fn calls_are_told_apart_where_ids_are_missing_or_made_up() {
    let null = || Value::Null;
    let named = |events: &[Value]| -> Value {
        calls(events).as_array().unwrap().iter().map(|call| json!([call[1], call[2]])).collect()
    };
    // Neither index nor id, or the same index and an empty id: whole calls.
    for (index, id) in [(null(), null()), (json!(0), json!(""))] {
        let events = decoded(vec![
            call(index.clone(), id.clone(), json!("f"), json!("{\"a\":\"}\"}")),
            call(index.clone(), id.clone(), json!("f"), json!({"b": 1})),
            call(index.clone(), id.clone(), json!("g"), json!("{}")),
        ]);
        assert_eq!(named(&events), json!([["f", "{\"a\":\"}\"}"], ["f", "{\"b\":1}"], ["g", "{}"]]));
    }
    // The name in every fragment, and no id.
    let events = decoded(vec![
        call(json!(0), null(), json!("f"), json!("{\"a\":")),
        call(json!(0), null(), json!("f"), json!("{}}")),
        call(json!(0), null(), json!("f"), json!("")),
    ]);
    assert_eq!(named(&events), json!([["f", "{\"a\":{}}"]]));
    // Another id in every fragment, with the name or without.
    for name in [null(), json!("f")] {
        let events = decoded(vec![
            call(json!(0), json!("a"), json!("f"), json!("")),
            call(json!(0), json!("b"), name.clone(), json!("{\"a\":")),
            call(json!(0), json!("c"), name, json!("1}")),
            call(json!(1), json!("d"), json!("g"), json!("{}")),
        ]);
        assert_eq!(calls(&events), json!([["a", "f", "{\"a\":1}"], ["d", "g", "{}"]]));
    }
}

#[test]
fn content_may_be_an_array_of_texts_and_reasoning() {
    let events = decoded(vec![
        json!({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "h"}, {"type": "text", "text": "m"}]}]}),
        json!({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": ""}, {"type": "odd"}, 1]}),
        json!({"content": [{"type": "text", "text": "b"}]}),
        json!({"content": []}),
    ]);
    let output = output(&events);
    assert_eq!(output[0]["content"], json!([{"type": "reasoning_text", "text": "hm"}]));
    assert_eq!(output[1]["content"][0]["text"], "ab");
}

#[test]
fn text_before_calls_and_in_the_same_chunk_is_an_item_of_its_own() {
    let mut both = call(json!(0), json!("a"), json!("f"), json!("{}"));
    both["content"] = json!("wait");
    let output = output(&decoded_as(ChatSettings::default(), &request(), vec![both], "tool_calls"));
    assert_eq!((&output[0]["content"][0]["text"], &output[1]["call_id"]), (&json!("wait"), &json!("a")));
}

#[test]
fn calls_may_take_turns_under_their_indexes() {
    let more = |index: u64, text: &str| call(json!(index), Value::Null, Value::Null, json!(text));
    let events = decoded(vec![
        json!({"content": "wait"}),
        call(json!(0), json!("a"), json!("f"), json!("")),
        call(json!(1), json!("b"), json!("g"), json!("{\"b\":")),
        more(0, "{\"a\":"),
        more(1, "2}"),
        call(json!(2), json!("c"), json!("f"), json!("{}")),
        more(0, "1}"),
        json!({"content": "done"}),
    ]);
    let called =
        |at: usize| (output(&events)[at]["call_id"].clone(), output(&events)[at]["arguments"].clone());
    assert_eq!(called(1), (json!("a"), json!("{\"a\":1}")));
    assert_eq!(called(2), (json!("b"), json!("{\"b\":2}")));
    assert_eq!(called(3), (json!("c"), json!("{}")));
    assert_eq!(output(&events)[4]["content"][0]["text"], "done");
}

#[test]
fn so_many_calls_may_take_turns_at_most() {
    let begun = (0..100).map(|n| call(json!(n), json!(format!("c{n}")), json!("f"), json!("{")));
    let more = (0..100).rev().map(|n| call(json!(n), Value::Null, Value::Null, json!("}")));
    let chunks: Vec<Value> = begun.clone().chain(more.take(64)).map(chunk).collect();
    let events = events_of(decoder(ChatSettings::default(), &request()), [sse(&chunks).as_bytes()]);
    assert!(!names(&events).contains(&"error"));
    let chunks: Vec<Value> =
        begun.chain([call(json!(35), Value::Null, Value::Null, json!("}"))]).map(chunk).collect();
    let events = events_of(decoder(ChatSettings::default(), &request()), [sse(&chunks).as_bytes()]);
    assert_eq!(names(&events).last(), Some(&"response.failed"));
}

#[test]
fn an_upstream_that_goes_back_to_a_call_is_broken_unless_it_adds_nothing() {
    let begun = || {
        vec![
            call(json!(0), json!("a"), json!("f"), json!("{}")),
            call(json!(1), json!("b"), json!("f"), json!("{}")),
        ]
    };
    let mut repeated = begun();
    repeated.push(call(json!(0), json!("a"), Value::Null, json!("")));
    assert_eq!(decoded(repeated).last().unwrap()["type"], "response.completed");

    let mut chunks: Vec<Value> = begun().into_iter().map(chunk).collect();
    chunks.push(chunk(call(json!(0), json!("a"), Value::Null, json!("more"))));
    let events = events_of(decoder(ChatSettings::default(), &request()), [sse(&chunks).as_bytes()]);
    assert_eq!(names(&events)[events.len() - 2..], ["error", "response.failed"]);
}

#[test]
fn the_calls_of_other_tools_come_as_what_the_client_knows() {
    let tools = json!([
        {"type": "custom", "name": "apply", "format": {"type": "grammar", "syntax": "lark", "definition": "start: \"a\""}},
        {"type": "local_shell"}, {"type": "shell"}, {"type": "apply_patch"},
        {"type": "namespace", "name": "files", "description": "d", "tools": [{"type": "function", "name": "read"}]},
    ]);
    let request = json!({"model": "m", "input": "x", "tools": tools});
    let called = |name: &str, arguments: &str| {
        let deltas = vec![call(json!(0), json!("c"), json!(name), json!(arguments))];
        output(&decoded_as(ChatSettings::default(), &request, deltas, "tool_calls"))[0].clone()
    };
    let custom = called("apply", r#"{"input":"*** Begin\n\"x\""}"#);
    assert_eq!((&custom["type"], &custom["input"]), (&json!("custom_tool_call"), &json!("*** Begin\n\"x\"")));
    assert_eq!(called("apply", "plain")["input"], "plain");
    let local = called("local_shell", r#"{"command":["ls"]}"#);
    assert_eq!(
        (&local["type"], &local["action"]),
        (&json!("local_shell_call"), &json!({"type": "exec", "command": ["ls"], "env": {}}))
    );
    let shell = called("shell", r#"{"commands":["ls"]}"#);
    assert_eq!((&shell["type"], &shell["action"]["commands"]), (&json!("shell_call"), &json!(["ls"])));
    let patch = called("apply_patch", r#"{"type":"delete_file","path":"a"}"#);
    assert_eq!((&patch["type"], &patch["operation"]["path"]), (&json!("apply_patch_call"), &json!("a")));
    let broken = called("shell", "{\"commands\":[");
    assert_eq!((&broken["type"], &broken["arguments"]), (&json!("function_call"), &json!("{\"commands\":[")));
    let namespaced = called("files__read", "{}");
    assert_eq!((&namespaced["name"], &namespaced["namespace"]), (&json!("read"), &json!("files")));
}

#[test]
fn the_finish_reason_decides_the_status() {
    for (reason, status, details) in [
        ("stop", "completed", Value::Null),
        ("tool_calls", "completed", Value::Null),
        ("eos", "completed", Value::Null),
        ("length", "incomplete", json!({"reason": "max_output_tokens"})),
        ("model_length", "incomplete", json!({"reason": "max_output_tokens"})),
        ("content_filter", "incomplete", json!({"reason": "content_filter"})),
        ("model_context_window_exceeded", "incomplete", json!({"reason": "max_output_tokens"})),
        ("sensitive", "incomplete", json!({"reason": "content_filter"})),
        ("content_filter: SAFETY", "incomplete", json!({"reason": "content_filter"})),
    ] {
        let events = decoded_as(ChatSettings::default(), &request(), vec![json!({"content": "a"})], reason);
        let last = events.last().unwrap();
        assert_eq!(last["type"], format!("response.{status}"));
        assert_eq!(
            (&last["response"]["status"], &last["response"]["incomplete_details"]),
            (&json!(status), &details)
        );
        assert_eq!(last["response"]["output"][0]["status"], status);
    }
}

#[test]
fn an_answer_whose_end_is_an_error_has_failed() {
    for reason in ["error", "abort", "network_error", "function_call_filter: MALFORMED_FUNCTION_CALL"] {
        for delta in [json!({"content": "a"}), json!({"role": "assistant"})] {
            let stream = sse(&[chunk(delta), finish(reason)]);
            let events = events_of(decoder(ChatSettings::default(), &request()), [stream.as_bytes()]);
            let last = events.last().unwrap();
            assert_eq!((&last["type"], names(&events).contains(&"error")), (&json!("response.failed"), true));
            assert_eq!(last["response"]["error"]["code"], "server_error");
        }
    }
}

#[test]
fn reasoning_that_is_in_the_total_alone_is_output() {
    for (details, reasoning) in [(Value::Null, 592), (json!({"reasoning_tokens": 600}), 600)] {
        let counts = json!({"prompt_tokens": 20, "completion_tokens": 424, "total_tokens": 1036, "completion_tokens_details": details});
        let stream =
            sse(&[chunk(json!({"content": "a"})), json!({"choices": [], "usage": counts}), finish("stop")]);
        let events = events_of(decoder(ChatSettings::default(), &request()), [stream.as_bytes()]);
        let usage = &events.last().unwrap()["response"]["usage"];
        assert_eq!((&usage["output_tokens"], &usage["total_tokens"]), (&json!(1016), &json!(1036)));
        assert_eq!(usage["output_tokens_details"]["reasoning_tokens"], reasoning);
    }
}

#[test]
fn usage_may_be_in_the_choice() {
    let mut end = finish("stop");
    end["choices"][0]["usage"] = json!({"prompt_tokens": 9, "completion_tokens": 3, "cached_tokens": 4});
    let stream = sse(&[chunk(json!({"content": "a"})), end]);
    let events = events_of(decoder(ChatSettings::default(), &request()), [stream.as_bytes()]);
    let usage = &events.last().unwrap()["response"]["usage"];
    let counts =
        [&usage["input_tokens"], &usage["output_tokens"], &usage["input_tokens_details"]["cached_tokens"]];
    assert_eq!(counts, [9, 3, 4]);
}

#[test]
fn usage_is_the_last_one_reported_or_an_estimate_with_a_mark() {
    let usage = |prompt: u64| json!({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens_details": {"reasoning_tokens": 2}}});
    let stream = sse(&[chunk(json!({"content": "a"})), usage(1), finish("stop"), usage(9)]);
    // Neither `[DONE]` nor a blank line at the end.
    let events = events_of(decoder(ChatSettings::default(), &request()), [stream.trim_end().as_bytes()]);
    check(&events);
    assert_eq!(
        events.last().unwrap()["response"]["usage"],
        json!({"input_tokens": 9, "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0}, "output_tokens": 3, "output_tokens_details": {"reasoning_tokens": 2}, "total_tokens": 12})
    );
    let estimate = &decoded(vec![json!({"content": "12345"})]).pop().unwrap()["response"]["usage"];
    assert_eq!((&estimate["estimated"], &estimate["output_tokens"]), (&json!(true), &json!(2)));
    assert!(estimate["input_tokens"].as_u64().unwrap() > 10);
}

#[test]
fn a_refusal_is_a_part_of_its_own() {
    let events = decoded(vec![json!({"refusal": "I"}), json!({"refusal": " can't"})]);
    assert_eq!(output(&events)[0]["content"], json!([{"type": "refusal", "refusal": "I can't"}]));
    assert_eq!(names(&events)[4], "response.refusal.delta");
}

#[test]
fn log_probabilities_are_in_the_deltas_and_in_the_part() {
    let probable = |token: &str| json!({"token": token, "logprob": -0.5, "bytes": [97], "top_logprobs": []});
    let with = |token: &str| {
        let mut chunk = chunk(json!({"content": token}));
        chunk["choices"][0]["logprobs"] = json!({"content": [probable(token)], "refusal": null});
        chunk
    };
    let stream = sse(&[with("a"), with("b"), finish("stop")]);
    let events = events_of(decoder(ChatSettings::default(), &request()), [stream.as_bytes()]);
    check(&events);
    assert_eq!(events[4]["logprobs"], json!([probable("a")]));
    assert_eq!(output(&events)[0]["content"][0]["logprobs"], json!([probable("a"), probable("b")]));
}

#[test]
fn a_cut_stream_has_no_terminal_event() {
    for stream in [
        sse(&[chunk(json!({"content": "a"}))]),
        "data: [DONE]\n\n".to_owned(),
        ": ping\n\n".to_owned(),
        String::new(),
    ] {
        let events = events_of(decoder(ChatSettings::default(), &request()), [stream.as_bytes()]);
        assert!(!names(&events).iter().any(|name| name.starts_with("response.completed")), "{stream}");
    }
    // The mark at the end is enough, should there be no reason, or an empty one.
    let mut empty = chunk(json!({"content": "a"}));
    empty["choices"][0]["finish_reason"] = json!("");
    let stream = sse(&[empty.clone(), empty]) + "data: [DONE]\n\n";
    let events = events_of(decoder(ChatSettings::default(), &request()), [stream.as_bytes()]);
    assert_eq!(output(&events)[0]["content"][0]["text"], "aa");
    let stream = sse(&[chunk(json!({"content": "a"}))]) + "data: [DONE]\n\n";
    let events = events_of(decoder(ChatSettings::default(), &request()), [stream.as_bytes()]);
    assert_eq!(names(&events).last(), Some(&"response.completed"));
}

#[test]
fn an_error_at_the_start_is_the_only_event_and_later_the_response_fails() {
    let error = json!({"error": {"message": "slow down", "code": 429}});
    let events = events_of(
        decoder(ChatSettings::default(), &request()),
        [sse(std::slice::from_ref(&error)).as_bytes()],
    );
    assert_eq!((names(&events), &events[0]["code"]), (vec!["error"], &json!("rate_limit_exceeded")));
    // As vLLM has sent it: without an object around it.
    let bare = json!({"object": "error", "message": "too long", "type": "BadRequestError", "code": 400});
    let events = events_of(decoder(ChatSettings::default(), &request()), [sse(&[bare]).as_bytes()]);
    assert_eq!((names(&events), &events[0]["message"]), (vec!["error"], &json!("too long")));
    let named = "event: error\ndata: {\"message\":\"broken\"}\n\ndata: [DONE]\n\n";
    let events = events_of(decoder(ChatSettings::default(), &request()), [named.as_bytes()]);
    assert_eq!((names(&events), &events[0]["message"]), (vec!["error"], &json!("broken")));
    let stream = sse(&[chunk(json!({"content": "a"})), error]) + "data: [DONE]\n\n";
    let events = events_of(decoder(ChatSettings::default(), &request()), [stream.as_bytes()]);
    assert_eq!(names(&events)[events.len() - 2..], ["error", "response.failed"]);
    assert_eq!(events.last().unwrap()["response"]["error"]["message"], "slow down");
}

#[test]
fn the_response_shows_what_the_client_asked_for() {
    let request = json!({
        "model": "m", "input": "x", "instructions": "be brief", "temperature": 0.25, "metadata": {"a": "b"},
        "tools": [{"type": "function", "name": "f", "description": "d", "parameters": null, "strict": null}], "tool_choice": "required", "max_output_tokens": 7,
    });
    let events = decoded_as(ChatSettings::default(), &request, vec![json!({"content": "a"})], "stop");
    for event in [&events[0], events.last().unwrap()] {
        for (name, value) in request
            .as_object()
            .unwrap()
            .iter()
            .filter(|(name, _)| !["model", "input"].contains(&name.as_str()))
        {
            assert_eq!(&event["response"][name], value, "{name}");
        }
    }
}

#[test]
fn what_the_client_left_out_is_shown_with_its_default() {
    let request = json!({
        "model": "m", "input": "x", "reasoning": {"effort": "low"}, "text": {"verbosity": "low"},
        "tools": [{"type": "function", "name": "f"}, {"type": "custom", "name": "c"}],
    });
    let shown = json!({
        "reasoning": {"effort": "low", "summary": null}, "text": {"verbosity": "low", "format": {"type": "text"}},
        "tools": [
            {"type": "function", "name": "f", "description": null, "parameters": null, "strict": false},
            {"type": "custom", "name": "c"},
        ],
        "safety_identifier": null, "prompt_cache_key": null,
    });
    let events = decoded_as(ChatSettings::default(), &request, vec![json!({"content": "a"})], "stop");
    for (name, value) in shown.as_object().unwrap() {
        assert_eq!(events.last().unwrap()["response"].get(name), Some(value), "{name}");
    }
}

#[test]
fn all_that_a_model_writes_is_bounded() {
    let mut decoder = try_encode(ChatSettings::default(), &request()).unwrap().format.decoder(1_000);
    let chunk = sse(&[chunk(json!({"content": "x".repeat(400)}))]);
    let mut results = (0..3).map(|_| {
        decoder.push(Piece::Bytes(Bytes::from(chunk.clone())));
        std::iter::from_fn(|| decoder.next_event().transpose()).find_map(Result::err)
    });
    assert!(results.any(|error| error.is_some()));
}
