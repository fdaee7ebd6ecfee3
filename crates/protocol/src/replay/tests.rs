//! Turns are rendered as their parsed items say.

use std::time::{Duration, Instant};

use proptest::prelude::{Strategy, any, prop_assert_eq, proptest};
use serde_json::{Value, json};

use super::*;

fn joined(segment: &Segment, replay_ids: ReplayIds) -> String {
    let mut parts = Vec::new();
    segment.parts(replay_ids, &mut parts);
    String::from_utf8(parts.concat()).unwrap()
}

#[test]
fn ids_of_output_items_are_left_out_and_those_of_input_items_stay() {
    let segment = Segment::build(
        br#"[ {"id":"a","n":1e400} , {"id" : "b" } ]"#,
        &[1],
        br#"[{"id":"c","x":"\u00e9"},{"y":1, "id":"d"},{"z":[{"id":"kept"}]}]"#,
    )
    .unwrap();
    assert_eq!(
        joined(&segment, ReplayIds::Drop),
        r#"{"id":"a","n":1e400},{ },{"x":"\u00e9"},{"y":1},{"z":[{"id":"kept"}]}"#
    );
    assert_eq!(
        joined(&segment, ReplayIds::Keep),
        r#"{"id":"a","n":1e400},{"id" : "b" },{"id":"c","x":"\u00e9"},{"y":1, "id":"d"},{"z":[{"id":"kept"}]}"#
    );
}

#[test]
fn an_input_of_only_references_takes_about_as_long_as_any_other() {
    const ITEMS: u32 = 100_000;
    let input = format!("[{}]", vec![r#"{"id":"a"}"#; ITEMS as usize].join(","));
    let build = |referenced: &[u32]| {
        let started = Instant::now();
        let segment = Segment::build(input.as_bytes(), referenced, b"[]").unwrap();
        (segment.ids.len(), started.elapsed())
    };
    let (none, without) = build(&[]);
    let (all, with) = build(&Vec::from_iter(0..ITEMS));
    assert_eq!((none, all), (0, ITEMS as usize));
    assert!(with < without * 10 + Duration::from_secs(1), "{with:?}, and {without:?} without references");
}

#[test]
fn a_turn_of_only_sealed_items_is_rendered_about_as_fast_as_built() {
    let item = r#"{"id":"r","type":"reasoning","encrypted_content":"x"},{"id":"m"}"#;
    let output = format!("[{}]", [item; 50_000].join(","));
    let started = Instant::now();
    let segment = Segment::build(b"[]", &[], output.as_bytes()).unwrap();
    let building = started.elapsed();
    let started = Instant::now();
    let (text, omitted) = readable(&segment, ReplayIds::Drop);
    let rendering = started.elapsed();
    assert_eq!((text, omitted.reasoning), ([r#"{}"#; 50_000].join(","), 50_000));
    assert!(rendering < building * 10 + Duration::from_secs(1), "{rendering:?}, built in {building:?}");
}

#[test]
fn items_before_the_last_compaction_of_the_output_are_not_replayed() {
    let segment = Segment::build(
        br#"[{"type":"compaction","id":"1"},{"a":1}]"#,
        &[],
        br#"[{"id":"x","a":2},{"id":"2","type":"compaction"},{"id":"y","a":3}]"#,
    )
    .unwrap();
    assert!(segment.starts_context());
    assert_eq!(joined(&segment, ReplayIds::Drop), r#"{"type":"compaction"},{"a":3}"#);
    assert_eq!(joined(&segment, ReplayIds::Keep), r#"{"id":"2","type":"compaction"},{"id":"y","a":3}"#);
}

#[test]
fn an_input_with_a_compaction_is_replayed_whole() {
    let input = br#"[{"a":1},{"type":"compaction"},{"a":2},{"type":"compaction"},{"a":3}]"#;
    let segment = Segment::build(input, &[], br#"[{"id":"x","a":4}]"#).unwrap();
    assert!(segment.starts_context());
    let whole = r#"{"a":1},{"type":"compaction"},{"a":2},{"type":"compaction"},{"a":3},{"a":4}"#;
    assert_eq!(joined(&segment, ReplayIds::Drop), whole);
    let reduced = segment.without(&[0, 1, 4]);
    assert!(reduced.starts_context());
    assert_eq!(joined(&reduced, ReplayIds::Drop), r#"{"a":2},{"type":"compaction"},{"a":4}"#);
    let omitted = Omitted { compactions_of_earlier: 2, ..Omitted::default() };
    assert_eq!(readable(&segment, ReplayIds::Drop).1, omitted);
}

fn readable(segment: &Segment, replay_ids: ReplayIds) -> (String, Omitted) {
    let mut parts = Vec::new();
    let omitted = segment.readable_parts(replay_ids, Summaries::AsMessages, &mut parts);
    (String::from_utf8(parts.concat()).unwrap(), omitted)
}

#[test]
fn unreadable_items_are_replaced_by_a_summary_or_by_earlier_items() {
    let segment = Segment::build(
        br#"[{"a":1},{"type":"compaction","encrypted_content":"x"},{"b":2}]"#,
        &[],
        br#"[{"id":"rs_1","type":"reasoning","summary":[{"type":"summary_text","text":"one \u00e9\""},{"text":""},{"text":"two"}],"encrypted_content":"x"},
            {"id":"rs_2","type":"reasoning","summary":[],"encrypted_content":"x"},
            {"id":"msg","c":3},
            {"id":"rs_3","type":"reasoning","summary":[],"encrypted_content":"x"}]"#,
    )
    .unwrap();
    let summary = r#"{"type":"message","role":"assistant","content":"one \u00e9\"\n\ntwo"}"#;
    let omitted = Omitted { reasoning: 3, compactions_of_earlier: 1, ..Omitted::default() };
    assert_eq!(
        readable(&segment, ReplayIds::Drop),
        (format!(r#"{{"a":1}},{{"b":2}},{summary},{{"c":3}}"#), omitted)
    );
    assert_eq!(
        readable(&segment, ReplayIds::Keep),
        (format!(r#"{{"a":1}},{{"b":2}},{summary},{{"id":"msg","c":3}}"#), omitted)
    );
}

#[test]
fn unencrypted_reasoning_is_sent_to_every_account() {
    let items = br#"[{"type":"reasoning","id":"r","content":[{"type":"reasoning_text","text":"t"}]},{"type":"reasoning","encrypted_content":null},{"type":"reasoning","encrypted_content":""}]"#;
    let segment = Segment::build(items, &[], b"[]").unwrap();
    assert_eq!(readable(&segment, ReplayIds::Keep), (joined(&segment, ReplayIds::Keep), Omitted::default()));
}

#[test]
fn a_dialect_that_takes_what_is_readable_gets_whole_reasoning_items() {
    let output = br#"[{"id":"rs_1","type":"reasoning","summary":[],"encrypted_content":"x"},
        {"id":"rs_00000000000000000000000000000000001f","type":"reasoning","content":[]},{"id":"m","c":3}]"#;
    let segment = Segment::build(br#"[{"a":1}]"#, &[], output).unwrap();
    let mut parts = Vec::new();
    let omitted = segment.readable_parts(ReplayIds::Drop, Summaries::AsItems, &mut parts);
    assert_eq!(
        String::from_utf8(parts.concat()).unwrap(),
        r#"{"a":1},{"type":"reasoning","summary":[],"encrypted_content":"x"},{"type":"reasoning","content":[]},{"c":3}"#
    );
    assert_eq!(omitted, Omitted { reasoning: 1, ..Omitted::default() });
}

#[test]
fn what_no_upstream_accepts_in_a_history_is_left_out_of_it() {
    let input = br#"[{"a":1},{"type":"compaction_trigger"}]"#;
    let output = br#"[{"id":"rs_1","type":"reasoning","summary":[]},{"id":"rs_2","type":"reasoning","summary":[{"text":"s"}]},{"id":"m","b":2}]"#;
    let segment = Segment::build(input, &[], output).unwrap();
    let accepted = |segment: &Segment, replay_ids| {
        let mut parts = Vec::new();
        assert_eq!(segment.accepted_parts(replay_ids, &mut parts), Omitted::default());
        String::from_utf8(parts.concat()).unwrap()
    };
    let summary = r#"{"type":"message","role":"assistant","content":"s"}"#;
    assert_eq!(accepted(&segment, ReplayIds::Drop), format!(r#"{{"a":1}},{summary},{{"b":2}}"#));
    let kept = format!(r#"{{"a":1}},{}"#, std::str::from_utf8(&output[1..output.len() - 1]).unwrap());
    assert_eq!(accepted(&segment, ReplayIds::Keep), kept);
    let mut all = Vec::new();
    segment.parts(ReplayIds::Keep, &mut all);
    assert_eq!(String::from_utf8(all.concat()).unwrap(), kept);
    let own = Segment::build(input, &[], b"[]").unwrap().of_request();
    assert_eq!(accepted(&own, ReplayIds::Drop), r#"{"a":1},{"type":"compaction_trigger"}"#);
}

#[test]
fn a_turn_of_only_unreadable_items_contributes_nothing() {
    let sealed = br#"[{"type":"compaction"},{"type":"reasoning","encrypted_content":"x"}]"#;
    let segment = Segment::build(b"[]", &[], sealed).unwrap();
    assert_eq!(
        readable(&segment, ReplayIds::Drop),
        (String::new(), Omitted { reasoning: 1, compactions_of_earlier: 1, ..Omitted::default() })
    );
}

fn items() -> impl Strategy<Value = Vec<Value>> {
    let text = || "[a-z\u{e9}\"\\\\ \n]{0,6}";
    let item = (0..8_u8, text(), proptest::option::of(text())).prop_map(|(kind, text, id)| {
        let mut item = match kind {
            0 => json!({"type": "compaction", "encrypted_content": text}),
            1 => json!({"type": "reasoning", "encrypted_content": "x", "summary": [{"text": text}]}),
            2 => json!({"type": "reasoning", "encrypted_content": "x", "summary": [{"text": text}, {"text": "b"}]}),
            3 => json!({"type": "reasoning", "encrypted_content": text, "summary": []}),
            4 => json!({"type": "reasoning", "content": [{"text": text}]}),
            5 => json!({"type": "reasoning", "content": null, "summary": [{"text": text}]}),
            6 => json!({"type": "reasoning", "content": [], "summary": [{"text": text}]}),
            _ => json!({"type": "message", "content": [{"id": text, "type": "compaction"}]}),
        };
        if let Some(id) = id {
            item["id"] = json!(id);
        }
        item
    });
    proptest::collection::vec(item, 0..7)
}

/// The expected rendering for an account that cannot read sealed items, computed from parsed items.
fn model(item: &Value, is_output: bool) -> Option<Value> {
    let is_encrypted = item["encrypted_content"].as_str().is_some_and(|content| !content.is_empty());
    let is_bare = is_output && item["content"].as_array().is_none_or(Vec::is_empty);
    match item["type"].as_str().unwrap() {
        "compaction" => None,
        "reasoning" if is_encrypted || is_bare => {
            let summary = item["summary"].as_array().unwrap();
            let texts: Vec<_> = summary
                .iter()
                .filter_map(|part| part["text"].as_str())
                .filter(|text| !text.is_empty())
                .collect();
            let content = texts.join("\n\n");
            let message = json!({"type": "message", "role": "assistant", "content": content});
            (!content.is_empty()).then_some(message)
        }
        _ => Some(item.clone()),
    }
}

fn readable_of(input: &[Value], output: &[Value]) -> Vec<Value> {
    let input = input.iter().filter_map(|item| model(item, false));
    input.chain(output.iter().filter_map(|item| model(item, true))).collect()
}

proptest! {
    #[test]
    fn a_turn_without_some_items_is_as_if_it_never_had_them(
        input in items(), output in items(), is_kept in proptest::collection::vec(any::<bool>(), 14),
    ) {
        let build = |input: &[Value], output: &[Value]| {
            let text = |items: &[Value]| serde_json::to_string(items).unwrap();
            Segment::build(text(input).as_bytes(), &[], text(output).as_bytes()).unwrap()
        };
        let kept = |items: &[Value], is_kept: &[bool]| -> Vec<Value> {
            items.iter().zip(is_kept).filter(|(_, kept)| **kept).map(|(item, _)| item.clone()).collect()
        };
        let left_out: Vec<u32> =
            (0..14).filter(|n| !is_kept[*n as usize] && (*n as usize) < input.len() + output.len()).collect();
        let expected = build(&kept(&input, &is_kept), &kept(&output, &is_kept[input.len()..]));
        prop_assert_eq!(build(&input, &output).without(&left_out), expected);
    }

    #[test]
    fn any_turn_is_rendered_as_its_parsed_items_say(input in items(), output in items()) {
        let text = |items: &[Value]| serde_json::to_string(items).unwrap();
        let segment = Segment::build(text(&input).as_bytes(), &[], text(&output).as_bytes()).unwrap();
        let parsed = |joined: String| -> Vec<Value> { serde_json::from_str(&format!("[{joined}]")).unwrap() };
        let all: Vec<Value> = input.iter().chain(&output).cloned().collect();
        let start = output.iter().rposition(|item| item["type"] == "compaction");
        let start = start.map_or(0, |start| input.len() + start);
        prop_assert_eq!(parsed(joined(&segment, ReplayIds::Keep)), &all[start..]);
        let (rendered, _) = readable(&segment, ReplayIds::Keep);
        prop_assert_eq!(parsed(rendered), readable_of(&input, &output));
        let without_ids = |items: &[Value]| -> Vec<Value> {
            items
                .iter()
                .cloned()
                .map(|mut item| {
                    item.as_object_mut().unwrap().remove("id");
                    item
                })
                .collect()
        };
        let dropped: Vec<Value> =
            readable_of(&input, &without_ids(&output));
        prop_assert_eq!(parsed(readable(&segment, ReplayIds::Drop).0), dropped);
    }
}

#[test]
fn a_turn_without_items_contributes_nothing() {
    let segment = Segment::build(b"[]", &[], b" [ ] ").unwrap();
    assert_eq!(joined(&segment, ReplayIds::Drop), "");
    assert_eq!(segment.size_bytes(), 0);
}
