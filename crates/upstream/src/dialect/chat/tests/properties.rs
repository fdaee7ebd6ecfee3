//! What holds for every stream and every context.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z<>/\"\\\\ \n\u{e9}\u{1f600}]{0,6}",
        Just("<think>".to_owned()),
        Just("</think>".to_owned())
    ]
}

fn delta() -> impl Strategy<Value = Value> {
    prop_oneof![
        text().prop_map(|text| json!({"content": text})),
        text().prop_map(|text| json!({"reasoning_content": text, "content": null})),
        text().prop_map(|text| json!({"refusal": text})),
        (0..3_u8, proptest::option::of("[ab]"), proptest::option::of("[fs]"), text()).prop_map(|(index, id, name, arguments)| {
            json!({"tool_calls": [{"index": index, "id": id, "function": {"name": name, "arguments": arguments}}]})
        }),
    ]
}

fn settings() -> impl Strategy<Value = ChatSettings> {
    (any::<bool>(), any::<bool>()).prop_map(|(think_tags, is_summary)| ChatSettings {
        think_tags,
        reasoning_as: if is_summary { ReasoningAs::Summary } else { ReasoningAs::Text },
        ..ChatSettings::default()
    })
}

fn item() -> impl Strategy<Value = Value> {
    let part = |kind: &'static str| move |text: String| json!([{"type": kind, "text": text}]);
    prop_oneof![
        text().prop_map(|text| json!({"role": "user", "content": text})),
        text()
            .prop_map(part("input_text"))
            .prop_map(|content| json!({"type": "message", "role": "developer", "content": content})),
        text()
            .prop_map(part("output_text"))
            .prop_map(|content| json!({"type": "message", "role": "assistant", "content": content})),
        text().prop_map(
            |text| json!({"type": "function_call", "call_id": "c", "name": "f", "arguments": text})
        ),
        text()
            .prop_map(|text| json!({"type": "custom_tool_call", "call_id": "c", "name": "f", "input": text})),
        text().prop_map(
            |text| json!({"type": "reasoning", "summary": [{"type": "summary_text", "text": text}]})
        ),
        Just(json!({"type": "web_search_call", "id": "ws"})),
    ]
}

/// A tool in a namespace, or in none if that is empty.
fn tool() -> impl Strategy<Value = (String, String, bool)> {
    let name = || prop_oneof!["[ab_]{1,4}", "[ab_]{50,130}", "a{60,68}", "\u{e9}{25,40}"];
    (prop_oneof![Just(String::new()), name()], name(), any::<bool>())
}

/// All texts of a context, but for those of reasoning.
fn texts(items: &[Value]) -> Vec<String> {
    let texts = items.iter().filter(|item| item["type"] != "reasoning").flat_map(|item| {
        let content = item["content"].as_str().or(item["content"][0]["text"].as_str());
        [content, item["arguments"].as_str(), item["input"].as_str()]
    });
    texts.flatten().map(str::to_owned).collect()
}

proptest! {
    #[test]
    fn every_stream_yields_consistent_events_however_it_is_cut(
        settings in settings(),
        deltas in proptest::collection::vec(delta(), 0..12),
        reason in prop_oneof![Just("stop"), Just("length"), Just("tool_calls")],
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let request = json!({"model": "m", "input": "x", "tools": [{"type": "custom", "name": "s"}]});
        let mut chunks: Vec<Value> = deltas.into_iter().map(chunk).collect();
        chunks.push(finish(reason));
        let stream = sse(&chunks) + "data: [DONE]\n\n";
        let whole = events_of(decoder(settings, &request), [stream.as_bytes()]);
        // A stream that goes back to a call it has ended is broken.
        if names(&whole).last() != Some(&"response.failed") {
            check(&whole);
        }
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|pair| &stream.as_bytes()[pair[0]..pair[1]]);
        let mut split = events_of(decoder(settings, &request), pieces);
        let mut whole = whole;
        for events in [&mut whole, &mut split] {
            events.iter_mut().for_each(|event| { event["response"]["completed_at"].take(); });
        }
        prop_assert_eq!(whole, split);
    }

    #[test]
    fn every_tool_has_a_short_name_of_its_own_under_which_its_calls_come_and_go(tools in proptest::collection::vec(tool(), 1..8)) {
        let offered: Vec<Value> = tools.iter().map(|(namespace, name, is_custom)| {
            let tool = json!({"type": if *is_custom { "custom" } else { "function" }, "name": name});
            if namespace.is_empty() { tool } else { json!({"type": "namespace", "name": namespace, "description": "d", "tools": [tool]}) }
        }).collect();
        let mut request = json!({"model": "m", "input": "x", "tools": offered});
        let chat = encoded(ChatSettings::default(), &request);
        let sent = chat["tools"].as_array().unwrap();
        let names: HashSet<&str> = sent.iter().map(|tool| tool["function"]["name"].as_str().unwrap()).collect();
        let own: HashSet<_> = tools.iter().map(|(namespace, name, _)| (namespace.clone(), name.clone())).collect();
        prop_assert_eq!(names.len(), own.len());
        let mut called = HashSet::new();
        for name in names {
            prop_assert!(name.len() <= 64, "{name}");
            let call = json!({"tool_calls": [{"index": 0, "id": "c", "function": {"name": name, "arguments": "{}"}}]});
            let events = decoded_as(ChatSettings::default(), &request, vec![call], "tool_calls");
            let item = output(&events)[0].clone();
            let text = |member: &str| item[member].as_str().unwrap_or_default().to_owned();
            called.insert((text("namespace"), text("name")));
            request["input"] = json!([item]);
            let again = encoded(ChatSettings::default(), &request);
            prop_assert_eq!(&again["messages"][0]["tool_calls"][0]["function"]["name"], name);
        }
        prop_assert_eq!(called, own);
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in "(data: |\\{\"choices\":\\[|\\{\"delta\":|\\{\"tool_calls\":\\[\\{|\\}|\\]|\"content\":|\"a\"|1|null|,|\n|\n\n|\\[DONE\\]){0,24}") {
        events_of(decoder(ChatSettings::default(), &request()), [bytes.as_bytes()]);
    }

    #[test]
    fn every_context_is_a_valid_chat_that_holds_all_of_its_texts(items in proptest::collection::vec(item(), 0..10)) {
        let chat = encoded(ChatSettings::default(), &json!({"model": "m", "input": items.clone()}));
        let sent: Vec<&Value> = chat["messages"].as_array().unwrap().iter().collect();
        let mut held = String::new();
        for message in &sent {
            held.push_str(message["content"].as_str().unwrap());
            for call in message["tool_calls"].as_array().into_iter().flatten() {
                let arguments = call["function"]["arguments"].as_str().unwrap();
                let input = serde_json::from_str::<Value>(arguments).ok().and_then(|value| value["input"].as_str().map(str::to_owned));
                held.push_str(&input.unwrap_or_else(|| arguments.to_owned()));
            }
        }
        for text in texts(&items) {
            prop_assert!(held.contains(&text), "{text:?} is not in {held:?}");
        }
    }
}
