//! Replies of servers that write what others do not.

use super::*;

fn after(deltas: &[Value]) -> Vec<Value> {
    decoded(deltas.to_vec())
}

fn whole(body: &Value) -> Vec<Value> {
    let mut decoder = decoder(ChatSettings::default(), &request());
    decoder.push(Piece::Whole(Bytes::from(body.to_string())));
    let mut events = Vec::new();
    while let Some(event) = decoder.next_event().unwrap() {
        events.push(event);
    }
    events.extend(std::iter::from_fn(|| decoder.finish()));
    events.iter().map(|event| serde_json::from_slice(&event.data().unwrap()).unwrap()).collect()
}

fn fragment(id: &str, arguments: impl Into<Value>) -> Value {
    let function = json!({"name": "f", "arguments": arguments.into()});
    json!({"tool_calls": [{"index": 0, "id": id, "type": "function", "function": function}]})
}

fn arguments(events: &[Value]) -> Vec<String> {
    let output = output(events);
    let calls = output.as_array().unwrap().iter().filter(|item| item["type"] == "function_call");
    calls.map(|call| call["arguments"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn counts_may_be_fractions_or_strings_and_are_estimated_if_they_cannot_be_read() {
    let counts = |usage: Value| {
        let chunks =
            [chunk(json!({"content": "12345678"})), json!({"choices": [], "usage": usage}), finish("stop")];
        let events = events_of(decoder(ChatSettings::default(), &request()), [sse(&chunks).as_bytes()]);
        let usage = events.last().unwrap()["response"]["usage"].clone();
        json!([usage["input_tokens"], usage["output_tokens"], usage["estimated"]])
    };
    let guess = counts(json!({}));
    assert!(guess[0].as_u64().unwrap() > 0);
    assert_eq!(json!([guess[1], guess[2]]), json!([2, true]));
    for (usage, expected) in [
        (json!({"prompt_tokens": 50.0, "completion_tokens": 7.5}), json!([50, 8, null])),
        (json!({"prompt_tokens": "50", "completion_tokens": "7.0"}), json!([50, 7, null])),
        (json!({"prompt_tokens": 0, "completion_tokens": 0}), json!([0, 0, null])),
        (json!({"prompt_tokens": 50}), json!([50, 2, true])),
        (json!({"prompt_tokens": null, "completion_tokens": "many"}), guess.clone()),
        (json!({"prompt_tokens": -1, "completion_tokens": "NaN"}), guess),
    ] {
        assert_eq!(counts(usage.clone()), expected, "{usage}");
    }
}

#[test]
fn an_empty_error_says_nothing() {
    for error in [json!({}), json!(""), json!(false), json!(null), json!([])] {
        let mut said = chunk(json!({"content": "a"}));
        said["error"] = error.clone();
        let events = events_of(
            decoder(ChatSettings::default(), &request()),
            [sse(&[said, finish("stop")]).as_bytes()],
        );
        assert_eq!(events.last().unwrap()["type"], "response.completed", "{error}");
    }
}

#[test]
fn an_error_in_the_choice_fails_the_response() {
    let failed = json!({"choices": [{"index": 0, "finish_reason": "error", "message": {"content": ""}, "error": {"code": 502, "message": "it broke"}}]});
    let events = whole(&failed);
    assert_eq!(json!([events[0]["type"], events[0]["message"]]), json!(["error", "it broke"]));
}

#[test]
fn a_whole_completion_needs_no_reason_for_its_end() {
    let reply = json!({"choices": [{"index": 0, "finish_reason": null, "message": {"content": "a"}}]});
    let events = whole(&reply);
    assert_eq!(events.last().unwrap()["type"], "response.completed");
    assert!(whole(&json!({"choices": []})).is_empty());
}

#[test]
fn a_call_that_is_repeated_whole_counts_once() {
    for at_once in [true, false] {
        let mut deltas = match at_once {
            true => vec![fragment("c", "{\"x\":1}")],
            false => vec![
                fragment("c", "{\"x\""),
                json!({"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]}),
            ],
        };
        deltas.push(fragment("c", "{\"x\":1}"));
        assert_eq!(arguments(&after(&deltas)), ["{\"x\":1}"]);
    }
}

#[test]
fn blank_text_between_the_fragments_of_a_call_does_not_end_it() {
    for blank in [json!({"content": "\n"}), json!({"reasoning_content": " "})] {
        let rest = json!({"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]});
        let events = after(&[
            fragment("c", "{\"x\""),
            blank,
            rest,
            json!({"content": "\n"}),
            json!({"content": "so"}),
        ]);
        assert_eq!(arguments(&events), ["{\"x\":1}"]);
        assert_eq!(output(&events)[1]["content"][0]["text"], "\nso");
    }
}

#[test]
fn arguments_that_are_no_string_are_passed_on() {
    for (sent, expected) in
        [(json!({"a": 1}), "{\"a\":1}"), (json!([1]), "[1]"), (json!(5), "5"), (json!(null), "{}")]
    {
        assert_eq!(arguments(&after(&[fragment("c", sent)])), [expected]);
    }
}

#[test]
fn the_function_call_of_old_servers_is_a_call() {
    let events = after(&[
        json!({"function_call": {"name": "f", "arguments": ""}}),
        json!({"function_call": {"arguments": "{\"x\""}}),
        json!({"function_call": {"arguments": ":1}"}}),
    ]);
    assert_eq!(arguments(&events), ["{\"x\":1}"]);
}

#[test]
fn the_input_of_a_custom_tool_that_was_cut_is_what_there_is_of_it() {
    let custom = json!({"model": "m", "input": "x", "tools": [{"type": "custom", "name": "f"}]});
    for (arguments, input) in [
        (r#"{"input":"ab"#, "ab"),
        (r#"{ "input": "a\n"#, "a\n"),
        (r#"{"input":"ab""#, "ab"),
        (r#"{"input":"a\"#, "a"),
        (r#"{"input":"a\ud83d\ude0"#, "a"),
        (r#"{"input":"#, r#"{"input":"#),
        ("*** Begin", "*** Begin"),
    ] {
        let events = decoded_as(ChatSettings::default(), &custom, vec![fragment("c", arguments)], "length");
        assert_eq!(output(&events)[0]["input"], input, "{arguments}");
    }
}

#[test]
fn the_ids_of_calls_are_bounded_with_the_rest() {
    let mut decoder = try_encode(ChatSettings::default(), &request()).unwrap().format.decoder(4096);
    let mut read = |piece: &Value| {
        decoder.push(Piece::Bytes(Bytes::from(sse(&[chunk(piece.clone())]))));
        std::iter::from_fn(|| decoder.next_event().transpose()).collect::<Result<Vec<_>, _>>()
    };
    let calls = (0..3).map(|number| {
        json!({"tool_calls": [{"index": number, "id": format!("{number}{}", "x".repeat(1500)), "function": {"name": "f", "arguments": "{"}}]})
    });
    let read: Vec<bool> = calls.map(|call| read(&call).is_ok()).collect();
    assert_eq!(read, [true, true, false]);
}

#[test]
fn a_whole_completion_can_stand_for_a_stream() {
    let format = try_encode(ChatSettings::default(), &request()).unwrap().format;
    let body = json!({"id": "c", "model": "up", "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "a\nb"}}], "usage": {"prompt_tokens": 3, "completion_tokens": 2}});
    let body = serde_json::to_string_pretty(&body).unwrap().replace('\n', "\r\n");
    let stream = format.as_stream(body.as_bytes()).unwrap();
    let events = events_of(format.decoder(1 << 20), [&stream[..]]);
    check(&events);
    assert_eq!(output(&events)[0]["content"][0]["text"], "a\nb");
    for body in ["", "<html>", "{}", "{\"choices\":[]}", "{\"choices\":[{\"message\":\"a\"}]}"] {
        assert!(format.as_stream(body.as_bytes()).is_none(), "{body}");
    }
}

#[test]
fn a_reply_has_its_answer_once_it_says_why_the_model_ended() {
    let mut decoder = decoder(ChatSettings::default(), &request());
    let mut has_answer = Vec::new();
    let usage = json!({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}});
    for piece in [chunk(json!({"content": "a"})), finish("stop"), usage] {
        decoder.push(Piece::Bytes(Bytes::from(sse(&[piece]))));
        while decoder.next_event().unwrap().is_some() {}
        has_answer.push(decoder.has_answer());
    }
    assert_eq!(has_answer, [false, true, true]);
}

#[test]
fn each_call_of_a_whole_message_is_a_call_of_its_own() {
    let call = |id: Value, name: &str, arguments: &str| json!({"id": id, "index": 0, "type": "function", "function": {"name": name, "arguments": arguments}});
    for (calls, expected) in [
        ([call(json!(null), "f", ""), call(json!(null), "f", "")], json!([["f", "{}"], ["f", "{}"]])),
        ([call(json!("a"), "f", ""), call(json!("b"), "f", "")], json!([["f", "{}"], ["f", "{}"]])),
        (
            [call(json!("c"), "f", "{\"a\":1}"), call(json!("c"), "g", "{\"b\":2}")],
            json!([["f", "{\"a\":1}"], ["g", "{\"b\":2}"]]),
        ),
        (
            [call(json!("c"), "f", "{\"a\":1}"), call(json!("c"), "f", "{\"a\":1}")],
            json!([["f", "{\"a\":1}"], ["f", "{\"a\":1}"]]),
        ),
    ] {
        let message = json!({"role": "assistant", "content": null, "tool_calls": calls});
        let body = json!({"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]});
        let stream = format!("data: {body}\n\ndata: [DONE]\n\n");
        let streamed = events_of(decoder(ChatSettings::default(), &request()), [stream.as_bytes()]);
        check(&streamed);
        for events in [whole(&body), streamed] {
            let output = output(&events);
            let output = output.as_array().unwrap();
            let told: Vec<_> = output.iter().map(|call| json!([call["name"], call["arguments"]])).collect();
            assert_eq!(json!(told), expected);
            assert_ne!(output[0]["call_id"], output[1]["call_id"]);
            if calls[0]["id"].is_string() {
                assert_eq!(output[0]["call_id"], calls[0]["id"]);
            }
        }
    }
}

#[test]
fn a_message_that_repeats_what_was_streamed_only_ends_it() {
    let call = fragment("c", "{\"x\":1}");
    for streamed in [json!({"content": "hello"}), json!({"reasoning_content": "hm"}), call] {
        let empty = chunk(json!({"role": "assistant", "content": ""}));
        let end = json!({
            "choices": [{"index": 0, "message": streamed, "finish_reason": "length"}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2},
        });
        let expected = decoded_as(ChatSettings::default(), &request(), vec![streamed.clone()], "length");
        for chunks in [vec![empty.clone(), chunk(streamed), end.clone()], vec![empty, end]] {
            let stream = sse(&chunks);
            let events = events_of(decoder(ChatSettings::default(), &request()), [stream.as_bytes()]);
            check(&events);
            assert_eq!(output(&events), output(&expected));
            let response = &events.last().unwrap()["response"];
            let ended = json!([response["status"], response["usage"]["output_tokens"]]);
            assert_eq!(ended, json!(["incomplete", 2]));
        }
    }
}

#[test]
fn a_message_at_the_end_brings_what_was_not_streamed() {
    let parts = [json!({"reasoning_content": "hm"}), json!({"content": "hello"}), fragment("c", "{\"x\":1}")];
    let mut message = json!({});
    parts.iter().for_each(|part| message.as_object_mut().unwrap().extend(part.as_object().unwrap().clone()));
    let expected = decoded_as(ChatSettings::default(), &request(), parts.to_vec(), "stop");
    for streamed in 0..=parts.len() {
        let end = json!({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]});
        let chunks: Vec<Value> = parts[..streamed].iter().cloned().map(chunk).chain([end]).collect();
        let stream = sse(&chunks);
        let events = events_of(decoder(ChatSettings::default(), &request()), [stream.as_bytes()]);
        check(&events);
        assert_eq!(output(&events), output(&expected), "{streamed}");
    }
}

#[test]
fn what_goes_back_with_a_call_is_kept_in_reasoning_before_it() {
    let extra = json!({"google": {"thought_signature": "c2lnbg=="}});
    let call = |name: &str, extra: Option<&Value>| {
        let mut call =
            json!({"index": 0, "id": "", "type": "function", "function": {"name": name, "arguments": "{}"}});
        if let Some(extra) = extra {
            call["extra_content"] = extra.clone();
        }
        call
    };
    let calls = json!([call("weather", Some(&extra)), call("clock", None)]);
    let text = json!({"content": "a"});
    let streamed = vec![chunk(text), chunk(json!({"tool_calls": calls})), finish("tool_calls")];
    let message = json!({"role": "assistant", "content": "a", "tool_calls": calls});
    let whole = vec![json!({"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]})];
    for chunks in [streamed, whole] {
        let stream = sse(&chunks);
        let events = events_of(decoder(ChatSettings::default(), &request()), [stream.as_bytes()]);
        check(&events);
        let output = output(&events);
        let types: Vec<_> =
            output.as_array().unwrap().iter().map(|item| item["type"].as_str().unwrap()).collect();
        assert_eq!(types, ["message", "reasoning", "function_call", "function_call"]);
        assert_eq!((&output[1]["extra_content"], &output[1]["content"]), (&extra, &json!([])));
        assert!(output[2].get("extra_content").is_none());
    }
}

#[test]
fn the_first_choice_is_the_one_that_says_so() {
    let choices = |first: Value, second: Value| {
        let (mut first, mut second) = (first, second);
        (first["index"], second["index"]) = (json!(0), json!(1));
        json!({"choices": [second, first]})
    };
    let said = |text: &str| json!({"delta": {"content": text}});
    let ended = json!({"delta": {}, "finish_reason": "stop"});
    let chunks = [choices(said("a"), said("b")), choices(ended.clone(), ended)];
    let events = events_of(decoder(ChatSettings::default(), &request()), [sse(&chunks).as_bytes()]);
    assert_eq!(output(&events)[0]["content"][0]["text"], "a");
    let message = |text: &str| json!({"message": {"content": text}, "finish_reason": "stop"});
    let events = whole(&choices(message("a"), message("b")));
    assert_eq!(output(&events)[0]["content"][0]["text"], "a");
}
